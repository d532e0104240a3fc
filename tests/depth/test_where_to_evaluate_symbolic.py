"""The labelled equations of "where to evaluate", in symbols."""

import sympy as sp
from sympy import exp

from guided_diffusion_edu.lab.evaluation_point import third_order_shift
from symbols import same


def test_eq_third_order_shift():
    # moments of e^l to the fourth order in sigma, l = g d + H d^2 / 2 + T d^3 / 6, d = sigma z
    g_, H, T, sigma, z = sp.symbols("g H T sigma z")
    d = sigma * z
    tilt = sp.series(exp(g_ * d + H * d**2 / 2 + T * d**3 / 6), sigma, 0, 5).removeO()
    normal = {1: 0, 2: 1, 3: 0, 4: 3, 5: 0, 6: 15, 8: 105}

    def mean(poly):
        return sum(
            c * (1 if k == 0 else normal.get(k, 0))
            for (k,), c in sp.Poly(sp.expand(poly), z).terms()
        )

    ratio = sp.series(mean(d * tilt) / mean(tilt), sigma, 0, 5).removeO()
    assert same(ratio, third_order_shift(sigma**2, g_, H, T))
