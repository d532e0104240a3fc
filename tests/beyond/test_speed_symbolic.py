"""The labelled equations of "speed", in symbols."""

import sympy as sp
from sympy import oo

from symbols import same


def test_eq_utilisation():
    F, R, tau, u = sp.symbols("F R tau u", positive=True)
    ideal = sp.solve(R * tau - F, tau)[0]  # the time in which a machine of rate R has done F
    assert same(ideal / tau, F / (tau * R))
    assert same(
        sp.solve(sp.Eq(u, F / (tau * R)), tau)[0] / ideal, 1 / u
    )  # what is left to be gained


def test_eq_amdahl():
    f, k, tau = sp.symbols("f k tau", positive=True)
    part, rest = f * tau, (1 - f) * tau
    S = tau / (rest + part / k)
    assert same(S, 1 / ((1 - f) + f / k))
    assert (
        same(sp.limit(S, k, oo), 1 / (1 - f))
        and sp.simplify(sp.diff(S, k) - f / (k * (1 - f) + f) ** 2) == 0
    )  # it rises to its bound


def test_eq_guided_cost():
    F_u, F_c, q, N = sp.symbols("F_u F_c q N", positive=True)
    guided, plain = q * N * (F_u + 2 * F_c), (1 - q) * N * F_u
    assert same((guided + plain) / (N * F_u), 1 + q * 2 * F_c / F_u)
    m, n, k = (
        2,
        3,
        2,
    )  # a layer's way back to its input is a product of the same size as its way there
    W, h = sp.Matrix(m, n, sp.symbols(f"w:{m * n}")), sp.Matrix(n, k, sp.symbols(f"h:{n * k}"))
    d = sp.Matrix(m, k, sp.symbols(f"d:{m * k}"))
    loss = sum((W * h)[i] * d[i] for i in range(m * k))
    assert sp.Matrix(n, k, [sp.diff(loss, value) for value in h]) == W.T * d
