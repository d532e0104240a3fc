"""The labelled equations of "plotting", in symbols."""

import sympy as sp
from sympy import Rational

from symbols import same, x

# ---- pictures, and the forward process


def test_eq_pixels():
    p = sp.symbols("p")
    sample = p / Rational(255, 2) - 1
    assert sp.solve(sample - x, p) == [sp.expand((x + 1) * Rational(255, 2))]
    assert (sample.subs(p, 0), sample.subs(p, 255)) == (-1, 1) and same(
        sample.subs(p, p + 1) - sample, Rational(2, 255)
    )
