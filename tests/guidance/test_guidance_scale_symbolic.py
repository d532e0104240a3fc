"""The labelled equations of "guidance scale", in symbols."""

import sympy as sp
from sympy import Rational, log, sqrt
from sympy.stats import E, Normal, variance

from guided_diffusion_edu.lab.linear_gaussian import (
    ddim_variance,
    ddpm_variance,
    target_variance,
)
from symbols import a, ab, ab_prev, alpha, beta, mu, r, s, same, v, w, x, x_t, y


def test_eq_tilted_target():
    c_1, c_2 = sp.symbols(
        "c_1 c_2", positive=True
    )  # p(y | x_0) at two places, of probabilities w and 1 - w given x_t
    noised_power, power_of_noised = w * c_1**2 + (1 - w) * c_2**2, (w * c_1 + (1 - w) * c_2) ** 2
    assert same(
        noised_power - power_of_noised, w * (1 - w) * (c_1 - c_2) ** 2
    )  # at s = 2 they differ by a variance
    density, opinion = sp.Function("p", positive=True)(x), sp.Function("q", positive=True)(x)
    assert same(
        sp.diff(log(density * opinion**s / w), x),
        sp.diff(log(density), x) + s * sp.diff(log(opinion), x),
    )


def lab_g(x, level):
    return sqrt(level) * (y - sqrt(level) * x) / (1 - level + r**2)


def test_eq_lab_gradient():
    # (x_0, x_t) is Gaussian with variances 1 and covariance sqrt(a): x_0 given x_t has mean sqrt(a)
    # x_t and variance 1 - a; the measurement adds r^2
    mean, var = sqrt(a) * x, 1 - sqrt(a) ** 2 + r**2
    log_density = -((y - mean) ** 2) / (2 * var)
    assert same(sp.diff(log_density, x), lab_g(x, a))


def test_eq_lab_recursion():
    k_1, k_2, k_3 = sp.symbols("k1:4", real=True)
    X, Z = Normal("X", mu, sqrt(v)), Normal("Z", 0, 1)
    step = k_1 * X + k_2 + k_3 * Z
    assert same(E(step), k_1 * mu + k_2) and same(sp.simplify(variance(step)), k_1**2 * v + k_3**2)


def test_eq_law_target():
    exponent = -(x**2) / 2 - s * (y - x) ** 2 / (2 * r**2)
    assert same(-1 / sp.diff(exponent, x, 2), target_variance(r, s)) and same(
        sp.solve(sp.diff(exponent, x), x)[0], s * y / (r**2 + s)
    )


def test_eq_law_ddpm():
    _u, level = sp.symbols("u level", positive=True)
    for scale in map(Rational, ("1", "2", "1/4", "3")):
        antiderivative = (1 + r**2 - level) ** (1 - 2 * scale) / (2 * scale - 1)
        V = (antiderivative - antiderivative.subs(level, 0)) / (
            level * (1 + r**2 - level) ** (-2 * scale)
        )
        assert same(
            sp.diff(V, level), (1 - V) / level - 2 * scale * V / (1 + r**2 - level)
        )  # the equation of the limit
        assert same(sp.limit(V, level, 0), 1) and same(V.subs(level, 1), ddpm_variance(r, scale))
    assert (
        abs(
            ddpm_variance(1, 0.5)
            - float(sp.limit((1 - 2 ** (1 - 2 * s)) / (2 * s - 1), s, Rational(1, 2)))
        )
        < 1e-12
    )  # the one scale without a power


def test_eq_law_ddim():
    level = sp.symbols("level", positive=True)
    V = ((1 + r**2 - level) / (1 + r**2)) ** s
    assert (
        same(sp.diff(V, level), -s * V / (1 + r**2 - level))
        and V.subs(level, 0) == 1
        and same(V.subs(level, 1), ddim_variance(r, s))
    )


def test_eq_place_error():
    curvature = ab_prev / (1 - ab_prev + r**2)
    exact = beta / sqrt(alpha) * lab_g(x_t, ab)
    tilted = beta / (1 + beta * curvature) * lab_g(sqrt(alpha) * x_t, ab_prev)
    assert same(exact, tilted)  # two theorems, one shift
    assert same(beta * lab_g(sqrt(alpha) * x_t, ab_prev) / exact, 1 + beta * curvature) and same(
        beta * lab_g(x_t, ab) / exact, sqrt(alpha)
    )
