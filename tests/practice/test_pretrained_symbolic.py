"""The labelled equations of "pretrained", in symbols."""

from sympy import sqrt

from symbols import n, same, w


def test_eq_share_error():
    of_one = (w * 1**2 + (1 - w) * 0) - w**2  # a right-or-wrong
    assert same(sqrt(n * of_one / n**2), sqrt(w * (1 - w) / n))
