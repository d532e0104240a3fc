"""The labelled equations of "what to predict", in symbols."""

import sympy as sp
from sympy import Rational, sqrt

import guided_diffusion_edu as gde
from guided_diffusion_edu.diffusion import mean_from_eps
from guided_diffusion_edu.losses import eps_from_mean, v_from_eps
from symbols import ab, ab_prev, alpha, beta, eps, same, x_0, x_t


def test_eq_v_to_eps():
    phi = sp.Symbol("phi", positive=True)
    x_phi = sp.cos(phi) * x_0 + sp.sin(phi) * eps
    v = sp.diff(x_phi, phi)  # the velocity along the arc
    first_quarter = {sqrt(sp.cos(phi) ** 2): sp.cos(phi), sqrt(1 - sp.cos(phi) ** 2): sp.sin(phi)}
    assert same(
        v_from_eps(x_0, eps, sp.cos(phi) ** 2).subs(0.5, Rational(1, 2)).subs(first_quarter), v
    )
    c_0, s_0 = sqrt(ab), sqrt(1 - ab)
    assert same(gde.eps_from_v(c_0 * x_0 + s_0 * eps, c_0 * eps - s_0 * x_0, ab), eps)


def test_eq_mean_to_eps():
    assert same(eps_from_mean(x_t, mean_from_eps(x_t, eps, ab, ab_prev), ab, ab_prev), eps)


def test_eq_target_weight():
    o = sp.Symbol("o", real=True)
    wanted = {
        gde.eps_from_x_0: (1 - ab) / ab,
        gde.eps_from_v: 1 / ab,
        eps_from_mean: beta**2 / (alpha * (1 - ab)),
    }
    for eps_from, weight in wanted.items():
        of_output = sp.diff(eps_from(x_t, o, ab, ab_prev), o)
        assert same(1 / of_output**2, weight) and sp.diff(of_output, o) == 0
    snr = ab / (1 - ab)
    assert same(wanted[gde.eps_from_x_0], 1 / snr) and same(wanted[gde.eps_from_v], 1 + 1 / snr)


def test_eq_bound_estimate():
    terms = sp.symbols("L_0:4")
    assert same(sum(Rational(1, 4) * (4 * term) for term in terms), sum(terms))


def test_eq_importance():
    terms, p = sp.symbols("L_0:3"), sp.symbols("p_0:3", positive=True)
    assert same(sum(q * term / (3 * q) for q, term in zip(p, terms)), sum(terms) / 3)


def test_eq_second_moment():
    # the Lagrange condition of min sum M_t / p_t under sum p_t = 1, and that it is a minimum
    M, p = sp.symbols("M_0:3", positive=True), sp.symbols("p_0:3", positive=True)
    best = {q: sqrt(m) / sum(map(sqrt, M)) for q, m in zip(p, M)}
    slopes = [sp.diff(sum(m / q for m, q in zip(M, p)), q).subs(best) for q in p]
    assert same(slopes[0], slopes[1]) and same(slopes[1], slopes[2]) and same(sum(best.values()), 1)
    assert all(sp.diff(m / q, q, 2).is_positive for m, q in zip(M, p))
