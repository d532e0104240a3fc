"""The labelled equations of "leaderboard", in symbols."""

import sympy as sp
from sympy import oo, pi, sqrt

from symbols import gauss, n, same, w, x


def test_eq_pushed_law():
    # a cell [z, z + d] under a linear map holds its mass evenly: the share of an interval within
    # its image
    d, slope, low, high = sp.symbols("d slope low high", positive=True)
    density = 1 / d / slope  # of the image, for a start even over the cell
    assert same(sp.integrate(density, (x, low, high)), (high - low) / (slope * d))


def test_eq_map_variation():
    # x = F(z) in the integral of |pushed density - q|, for an increasing F: p(z) / F'(z) is the
    # pushed density
    F, p_T, q = sp.Function("F"), sp.Function("p"), sp.Function("q")
    z = sp.symbols("z", real=True)
    slope = sp.diff(F(z), z)
    assert sp.simplify((p_T(z) / slope - q(F(z))) * slope - (p_T(z) - q(F(z)) * slope)) == 0


def test_eq_sampling_floor():
    sigma = sp.symbols("sigma", positive=True)
    mean_size = 2 * sp.integrate(x * gauss(x, 0, sigma**2), (x, 0, oo))
    assert same(mean_size, sigma * sqrt(2 / pi))
    assert same((mean_size.subs(sigma, sqrt(w * (1 - w) / n))) ** 2, 2 * w * (1 - w) / (pi * n))


def test_eq_tilted_bins():
    low, high, m, var = sp.symbols("low high m var", positive=True)

    def Phi(z):
        return (1 + sp.erf(z / sqrt(2))) / 2

    by_integral = sp.integrate(gauss(x, m, var), (x, low, high))
    assert (
        sp.simplify(by_integral - (Phi((high - m) / sqrt(var)) - Phi((low - m) / sqrt(var)))) == 0
    )
