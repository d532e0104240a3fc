"""The labelled equations of "failures", in symbols."""

import sympy as sp
from sympy import Rational, exp, log, oo, sqrt
from sympy.stats import Normal, variance

from guided_diffusion_edu.diagnostics import contrast, target_contrast
from guided_diffusion_edu.lab.linear_gaussian import target_variance
from symbols import a, b_1, b_2, g, gauss, h, mu, r, s, same, two_points, v, w, x, x_t

# ---- where guidance goes wrong


def test_eq_transfer_gap():
    right_guide, right_other, f, K = sp.symbols("a b f K", positive=True)
    guide, other = (1 - f) * right_guide + f, (1 - f) * right_other + f / K
    assert same(guide - other, (1 - f) * (right_guide - right_other) + f * (1 - 1 / K))
    honest = (guide - other).subs(f, 0)  # a difference of error rates
    assert same(honest, right_guide - right_other)


def test_eq_contrast():
    X, noise, fresh = Normal("X", 0, 1), Normal("noise", 0, 1), Normal("fresh", 0, sqrt(v))
    pixel = a * (X + r * noise) + fresh
    assert same(variance(pixel), contrast(a, v, r) ** 2)
    data = contrast(1 / (1 + r**2), r**2 / (1 + r**2), r)
    assert same(data, 1)  # the posterior's pictures are as loud as the data


def test_eq_contrast_target():
    square = contrast(s / (r**2 + s), target_variance(r, s), r) ** 2
    assert same(square, target_contrast(r, s) ** 2)
    assert same(square, (s**2 * (1 + r**2) + r**2 * (r**2 + s)) / (r**2 + s) ** 2)
    assert sp.limit(square, s, oo) == 1 + r**2 and same(square.subs(s, 1), 1)
    slope = sp.numer(sp.together(sp.diff(square, s)))
    assert sp.simplify(slope / ((2 * r**2 + 1) * s - r**2)).free_symbols <= {r, s} and same(
        sp.diff(square, s), r**2 * ((2 * r**2 + 1) * s - r**2) / (r**2 + s) ** 3
    )


def test_eq_dynamic_threshold():
    value, top = sp.symbols("value top", real=True)
    edited = sp.Min(sp.Max(value, -top), top) / top
    for number in (-3, Rational(-1, 2), 0, 1, 5):
        assert edited.subs({value: number, top: 1}) == sp.Min(
            sp.Max(number, -1), 1
        )  # nothing above 1: plain clipping
        assert abs(edited.subs({value: number, top: 2})) <= 1
    assert (
        edited.subs({value: 1, top: 2}) == Rational(1, 2) and edited.subs({value: 3, top: 2}) == 1
    )


def test_eq_mode_shares():
    density, r_1 = two_points(x, a)
    assert same(
        sp.simplify(r_1 * density - w * gauss(x, sqrt(a) * b_1, 1 - a)), 0
    )  # so the integral of r_1 over the law is w
    assert same(sp.integrate(w * gauss(x, sqrt(a) * b_1, v), (x, -oo, oo)), w)


def test_eq_kept_modes():
    # three places: two modes of the class, the second shared with another class
    w_1, w_2, w_3 = sp.symbols("w_1:4", positive=True)
    masses = [w_1, w_2 + w_3]  # density at the two places; the class owns w_1 and w_2
    opinions = [1, w_2 / (w_2 + w_3)]
    tilted = [m * p**s for m, p in zip(masses, opinions)]
    owned = tilted[0], tilted[1] * opinions[1]  # the part of the class's own components
    assert same(owned[0], w_1 * opinions[0] ** s) and same(
        owned[1], w_2 * opinions[1] ** s
    )  # w_k E_k[p^s]
    assert same((owned[0] / sum(owned)).subs(w_3, 0), w_1 / (w_1 + w_2))  # apart: the shares stay


def test_eq_gradient_of_means():
    of_y, of_all = sp.symbols("m_y m", real=True)

    def score(mean):
        return (sqrt(a) * mean - x_t) / (1 - a)  # eq-tweedie, solved for the score

    assert same(sp.solve(sp.Eq(mu, (x_t + (1 - a) * g) / sqrt(a)), g)[0], score(mu))
    assert same(score(of_y) - score(of_all), sqrt(a) / (1 - a) * (of_y - of_all))


def test_eq_early_push():
    # data at b_1 and b_2, each a class of its own; h is the root of alpha_bar
    odds = (-((x_t - h * b_1) ** 2) + (x_t - h * b_2) ** 2) / (2 * (1 - h**2))
    slope = sp.diff(-log(1 + (1 - w) / w * exp(-sp.expand(odds))), x_t)
    assert same(sp.simplify(slope / h).subs(h, 0), b_1 - (w * b_1 + (1 - w) * b_2))
