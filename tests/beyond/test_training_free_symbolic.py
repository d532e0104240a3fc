"""The labelled equations of "training free", in symbols."""

import sympy as sp
from sympy import Rational, exp, log, sqrt

from symbols import (
    a,
    ab,
    ab_prev,
    alpha,
    b_1,
    b_2,
    gauss,
    r,
    s,
    same,
    two_points,
    w,
    x,
    x_0,
    x_t,
    y,
)


def test_eq_measurement():
    seen = sp.symbols("seen", real=True)
    assert same(
        sp.expand_log(log(gauss(y, seen, r**2)), force=True)
        - sp.expand_log(log(gauss(0, 0, r**2)), force=True),
        -((seen - y) ** 2) / (2 * r**2),
    )


def test_eq_measured():
    # two pictures, a measurement with two outcomes that looks at x_0 alone: P(y | x_t) is the mean
    # of P(y | x_0) given x_t
    prior, seen_0, seen_1, noisy_0, noisy_1 = sp.symbols(
        "prior seen0 seen1 noisy0 noisy1", positive=True
    )
    joint = [
        prior * noisy_0 * seen_0,
        (1 - prior) * noisy_1 * seen_1,
    ]  # of x_0 = 0, 1 with x_t and y as observed
    marginal = prior * noisy_0 + (1 - prior) * noisy_1
    assert same(
        sum(joint) / marginal,
        prior * noisy_0 / marginal * seen_0 + (1 - prior) * noisy_1 / marginal * seen_1,
    )


def test_eq_x0_guidance():
    loss, estimate = sp.Function("L"), sp.Function("estimate")
    assert (
        sp.simplify(
            sp.diff(-s * loss(estimate(x)), x)
            + s * sp.diff(loss(x_0), x_0).subs(x_0, estimate(x)) * sp.diff(estimate(x), x)
        ).doit()
        == 0
    )


def test_eq_jensen_gap():
    V, d = sp.symbols("V d", positive=True)
    exact = log(r**2 / (r**2 + V)) / 2 + d**2 / 2 * (
        1 / r**2 - 1 / (r**2 + V)
    )  # a Gaussian posterior
    assert same(sp.series(exact, V, 0, 2).removeO(), V / 2 * (d**2 / r**4 - 1 / r**2))
    f = exp(-((x - y) ** 2) / (2 * r**2))
    assert same(sp.diff(f, x, 2) / f, (y - x) ** 2 / r**4 - 1 / r**2)


def test_eq_dps_ratio():
    m, sigma = sp.symbols("m sigma", positive=True)
    estimate = m + sqrt(a) * sigma**2 / (a * sigma**2 + 1 - a) * (x_t - sqrt(a) * m)
    V = (1 - a) * sigma**2 / (a * sigma**2 + 1 - a)
    true, dps = (sp.diff(-((y - estimate) ** 2) / (2 * spread), x_t) for spread in (r**2 + V, r**2))
    assert same(true / dps, r**2 / (r**2 + V))


def test_eq_jacobian_is_variance():
    _density, first = two_points(x_t, a)
    mean, square = first * b_1 + (1 - first) * b_2, first * b_1**2 + (1 - first) * b_2**2
    claim = (1 - a) / sqrt(a) * sp.diff(mean, x_t) - (square - mean**2)
    for values in (
        {a: Rational(1, 3), w: Rational(1, 4), b_1: 1, b_2: -2, x_t: Rational(1, 2)},
        {a: Rational(4, 5), w: Rational(1, 2), b_1: 0, b_2: 1, x_t: 2},
    ):
        assert abs(claim.subs(values).evalf(30)) < 1e-20


def test_eq_all_of():
    p, q = sp.symbols("p q", positive=True)
    assert same(exp(-(-log(p) - log(q))), p * q)


def test_eq_any_of():
    p, q = sp.symbols("p q", positive=True)
    assert same(exp(-(-log(exp(log(p)) + exp(log(q))))), p + q)


def test_eq_recurrence():
    k = sp.symbols("k", real=True)

    def of(mean, var, k):
        return exp(
            sp.I * k * mean - var * k**2 / 2
        )  # characteristic function of a Gaussian; of a sum, the product

    back = of(sqrt(ab_prev) * b_1, 1 - ab_prev, sqrt(alpha) * k) * of(0, 1, sqrt(1 - alpha) * k)
    assert sp.simplify(back / of(sqrt(ab) * b_1, 1 - ab, k)) == 1
