"""What the checks accept, integers of any type among it, and how they say no."""

import numpy as np
import pytest
import torch

from guided_diffusion_edu._validation import (
    require,
    require_between,
    require_choice,
    require_class,
    require_classes,
    require_finite,
    require_indices,
    require_mask,
    require_steps,
    require_whole,
    shorten,
)

INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]


@pytest.mark.parametrize("kind", [int, np.int8, np.int32, np.int64, np.uint8, np.uint64])
def test_a_whole_number_may_have_any_integer_type(kind):
    require_whole(n=kind(1))
    require_whole(least=0, n=kind(0))
    require_class(kind(2), 3)


@pytest.mark.parametrize("n", [True, np.True_, 1.0, np.float32(1), "1", None, 1j, torch.tensor(1)])
def test_nothing_else_is_a_whole_number(n):
    with pytest.raises(ValueError, match="n must be a whole number of at least 1, got"):
        require_whole(n=n)
    with pytest.raises(ValueError, match=r"label must be a class index in \[0, 3\), got"):
        require_class(n, 3, "label")


@pytest.mark.parametrize("dtype", INTEGERS)
def test_indices_of_any_integer_dtype_become_long(dtype):
    y = torch.tensor([0, 2], dtype=dtype)
    for indices in (require_indices(y), require_steps(y, 2, 3)):
        assert indices.dtype == torch.long and indices.tolist() == [0, 2]
    for size in (3, 100, 1000):  # a bound that the dtype does not reach
        require_classes(y, size)
        require_steps(y, 2, size)
    with pytest.raises(ValueError, match=r"y must hold classes in \[0, 2\), got 0 to 2"):
        require_classes(y, 2)
    with pytest.raises(ValueError, match=r"t must hold steps in \[0, 2\), got 0 to 2"):
        require_steps(y, 2, 2)


@pytest.mark.parametrize(
    "y", [torch.ones(2), torch.ones(2).bool(), torch.ones(2, 1).long(), [0, 1]]
)
def test_nothing_else_is_an_index(y):
    with pytest.raises(ValueError, match=r"y must hold class indices, whole numbers \(B,\), got"):
        require_indices(y)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.float64, *INTEGERS])
def test_a_mask_is_of_truth_values_or_of_0_and_1(dtype):
    mask = require_mask(torch.tensor([0, 1], dtype=dtype))
    assert mask.dtype == torch.bool and mask.tolist() == [False, True]


@pytest.mark.parametrize("mask", [torch.tensor([0, 2]), torch.tensor([0.5]), torch.tensor([-1.0])])
def test_a_mask_of_other_numbers_is_none(mask):
    with pytest.raises(ValueError, match="mask must hold truth values, or 0 and 1 only, got other"):
        require_mask(mask)
    with pytest.raises(ValueError, match="mask must be a tensor of bool, or of 0 and 1, got list"):
        require_mask(mask.tolist())


def test_a_mask_of_truth_values_is_not_looked_at():
    assert require_mask(torch.zeros(2, dtype=torch.bool, device="meta")).is_meta


def test_nan_and_words_fit_no_interval():
    for value in (float("nan"), "half", None, 1.1):
        with pytest.raises(ValueError, match="share must be between 0 and 1, got"):
            require_between(0, 1, share=value)
    for value in (float("inf"), "high", None, torch.tensor([0.0, float("nan")])):
        with pytest.raises(ValueError, match="scale must be a finite number, got"):
            require_finite(scale=value)


def test_a_message_has_one_line_and_shows_long_things_in_short():
    with pytest.raises(ValueError) as error:
        require_choice([f"class {i}" for i in range(1000)], label="dog")
    message = str(error.value)
    assert message.endswith("'class 7', ... (1000 in all)], got 'dog'") and len(message) < 200
    assert shorten([1, 2]) == "[1, 2]" and shorten("a" * 1000) == "a" * 300 + " ..."
    with pytest.raises(ValueError) as error:
        require(False, "x", "be small", torch.zeros(30, 30))
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
