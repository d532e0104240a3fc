"""The checker of the exercises: it says right to what is right, where the first wrong case is, and
is not fooled by nan or by another shape.
"""

import torch

from guided_diffusion_edu.exercises import check


def double(x):
    return 2 * x


def said(capsys, answer, wanted=double, cases=((1.0,), (2.0,), (3.0,)), **options):
    found = check(answer, wanted, list(cases), **options)
    return found, capsys.readouterr().out


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
    found, text = said(capsys, lambda x: x.sum(), lambda x: x, cases=[(torch.zeros(1000),)])
    assert not found and len(text) < 200
