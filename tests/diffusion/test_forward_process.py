"""Schedules as users see them."""

import numpy as np
import pytest
import torch

import guided_diffusion_edu as gde


@pytest.fixture(scope="module")
def linear():
    return gde.linear_schedule()


def test_a_schedule_shows_its_ends(linear):
    assert (
        repr(linear) == "Schedule(1000 steps, alpha_bar 0.9999 to 4.04e-05)" and len(linear) == 1000
    )
    assert repr(gde.respace(linear, [2])) == "Schedule(2 steps, alpha_bar 0.9999 to 4.04e-05)"


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_steps_may_have_any_integer_dtype(linear, dtype):
    x, t = torch.randn(3, 2), torch.tensor([0, 5, 100])
    assert torch.equal(linear.add_noise(x, t.to(dtype), x), linear.add_noise(x, t, x))
    assert gde.Schedule([0.1, 0.2], torch.tensor([3, 7], dtype=dtype)).timesteps.dtype == torch.long


def test_counts_may_have_any_integer_type(linear):
    assert len(gde.linear_schedule(np.int64(50))) == len(gde.respace(linear, np.uint8(50))) == 50
    kept = gde.respace(linear, [10, 15, 20]).timesteps
    for counts in ("10,15,20", " 10, 15 ,20", (10, 15, 20), np.array([10, 15, 20])):
        assert torch.equal(gde.respace(linear, counts).timesteps, kept)
    assert torch.equal(gde.respace(linear, torch.tensor([10, 15, 20])).timesteps, kept)
