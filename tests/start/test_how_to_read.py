"""The checker of the exercises: it says right to what is right, where the first wrong case is, and
is not fooled by nan or by another shape.
"""

import pytest
import torch

from guided_diffusion_edu.exercises import check


def double(x):
    return 2 * x


def said(capsys, answer, wanted=double, cases=((1.0,), (2.0,), (3.0,)), **options):
    right = check(answer, wanted, list(cases), **options)
    return right, capsys.readouterr().out


def test_right_in_every_case(capsys):
    assert said(capsys, lambda x: x + x) == (True, "Right, in 3 cases.\n")
    assert said(capsys, lambda x: (x, 2 * x), lambda x: torch.tensor([x, 2 * x])) == (
        True,
        "Right, in 3 cases.\n",
    )  # tuples and tensors alike


def test_the_first_case_where_they_part(capsys):
    assert said(capsys, lambda x: 2 * x if x < 2 else 5.0) == (
        False,
        "Not yet: at (2.0,) your answer is 5.0, and it should be 4.0.\n",
    )
    assert said(capsys, lambda x: [x], lambda x: [x, x]) == (
        False,
        "Not yet: at (1.0,) the shape is (1,), wanted (2,).\n",
    )


def test_nan_is_never_right(capsys):
    assert said(capsys, lambda x: float("nan"))[0] is False


def test_what_rounding_is_allowed(capsys):
    assert (
        said(capsys, lambda x: 2 * x * (1 + 9e-7))[0]
        and not said(capsys, lambda x: 2 * x * (1 + 1.1e-6))[0]
    )
    assert said(capsys, lambda x: 2 * x * 1.009, rtol=0.01)[0]
    assert said(capsys, lambda x: [1e-7, x], lambda x: [0.0, x])[0]  # relative to the largest entry
    assert (
        said(capsys, lambda x: 0.9e-9, lambda x: 0.0)[0]
        and not said(capsys, lambda x: 1.1e-9, lambda x: 0.0)[0]
    )


def test_a_long_case_is_cut_short(capsys):
    right, text = said(capsys, lambda x: x.sum(), lambda x: x, cases=[(torch.zeros(1000),)])
    assert not right and len(text) < 200


def test_one_case_is_one_case(capsys):
    assert said(capsys, double, cases=[(1.0,)]) == (True, "Right, in 1 case.\n")


def test_an_answer_of_the_wrong_kind_is_answered_in_a_sentence(capsys):
    kinds = {
        "the answer must be a function of 1 argument, got 0.5": 0.5,
        "the answer must be a function of 1 argument, got None": None,
        "at (1.0,) your answer is 'two', and it should be numbers": lambda x: "two",
        "at (1.0,) your answer is None, and it should be numbers": lambda x: None,
        "at (1.0,) your answer is 2j, and it should be numbers": lambda x: 2j,
        "at (1.0,) your answer is [1, [2]], and it should be numbers": lambda x: [1, [2]],
        "at (1.0,) your answer is tensor(0.+1.j), and it should be numbers": lambda x: torch.tensor(
            1j
        ),
    }
    for sentence, answer in kinds.items():
        assert said(capsys, answer) == (False, f"Not yet: {sentence}.\n")
    for takes_two_or_none in (lambda x, y: x, lambda: 2.0):
        right, text = said(capsys, takes_two_or_none)
        assert not right and text.startswith("Not yet: the answer must be a function of 1 argument")
    right, text = said(capsys, 0.5, cases=[()])
    assert text == "Not yet: the answer must be a function of no arguments, got 0.5.\n"


def test_a_fault_in_the_answer_s_own_code_keeps_its_traceback(capsys):
    with pytest.raises(ZeroDivisionError):
        said(capsys, lambda x: x / 0)


def test_a_built_in_function_is_an_answer(capsys):
    assert said(capsys, torch.exp, torch.exp, cases=[(torch.ones(2),)])[0]
