"""The labelled equations of "training", in symbols."""

import sympy as sp
from sympy import Rational, sqrt

from symbols import a, c, same


def test_eq_ema():
    theta = sp.symbols("theta0:4")
    value = theta[0]
    for new in theta[1:]:
        value = a * value + (1 - a) * new
    assert same(value, a**3 * theta[0] + (1 - a) * sum(a ** (3 - i) * theta[i] for i in (1, 2, 3)))


def test_eq_clip():
    p, q = sp.symbols("p q", real=True)
    length = sqrt(p**2 + q**2)
    cut = [e * sp.Min(1, c / length) for e in (p, q)]

    def at(e, *numbers):
        return e.subs(dict(zip((p, q, c), numbers)))

    assert [at(e, 3, 4, 1) for e in cut] == [Rational(3, 5), Rational(4, 5)] and [
        at(e, 3, 4, 9) for e in cut
    ] == [3, 4]
    assert same(cut[0] * q - cut[1] * p, 0)  # its direction stays
    assert same(
        sqrt((p * c / length) ** 2 + (q * c / length) ** 2), c
    )  # and its length is c where it is cut
