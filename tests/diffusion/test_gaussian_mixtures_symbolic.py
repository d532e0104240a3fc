"""The labelled equations of "gaussian mixtures", in symbols."""

import sympy as sp
from sympy import exp, log, oo, sqrt
from sympy.stats import E, Normal

from symbols import a, b_1, b_2, c, gauss, h, mu, n, same, two_points, v, vanishes, w, x, x_0


def test_eq_mixture():
    p = w * gauss(x, b_1, v) + (1 - w) * gauss(x, b_2, a)
    assert same(sp.integrate(p, (x, -oo, oo)), 1) and same(
        sp.integrate(sp.expand(x * p), (x, -oo, oo)), w * b_1 + (1 - w) * b_2
    )


def test_eq_mixture_noised():
    u = sp.symbols("u", real=True)
    z = Normal("z", 0, 1)

    def moments(mean, var):
        return exp(u * mean + u**2 * var / 2)  # moment generating function of a Gaussian

    assert same(E(exp(u * z)), moments(0, 1))
    assert same(
        log(moments(sqrt(a) * mu, a * v) * moments(0, 1 - a)),
        log(moments(sqrt(a) * mu, a * v + 1 - a)),
    )  # independent sums multiply


def test_eq_mixture_score():
    parts = [w * gauss(x, b_1, v), (1 - w) * gauss(x, b_2, a)]
    pull = [-(x - b_1) / v, -(x - b_2) / a]
    assert same(
        sp.diff(log(sum(parts)), x), sum(part / sum(parts) * p for part, p in zip(parts, pull))
    )


def noised(mean):
    return gauss(
        x, n * mean, n**2 * v + c
    )  # n for the root of alpha_bar, c for 1 - alpha_bar, v for a cluster's variance


def log_odds(mean, other):
    return sp.expand_log(log(noised(mean) / noised(other)), force=True)


def test_eq_class_posterior():
    # p(y, x_t) is an integral over where x_t came from; a cluster stays one
    integral = sp.integrate(gauss(x_0, b_1, v) * gauss(x, n * x_0, c), (x_0, -oo, oo))
    assert vanishes(sp.expand_log(log(sp.simplify(integral / noised(b_1))), force=True))
    # so the odds of a class of two clusters against one at 0 are a sum of exponentials of lines,
    # and of clusters at +-h one line
    for mean in (b_1, b_2):
        assert vanishes(
            log_odds(mean, 0) - (2 * n * mean * x - n**2 * mean**2) / (2 * (n**2 * v + c))
        )
    assert vanishes(log_odds(h, -h) - 2 * n * h * x / (n**2 * v + c))


def test_eq_guided_posterior():
    # mixture times posterior over p(y), all against the other cluster, with E = exp(log-odds) by
    # which the posterior is logistic
    E = sp.symbols("E", positive=True)
    mixture, posterior = w * E + (1 - w), 1 / (1 + (1 - w) / (w * E))
    assert vanishes(mixture * posterior / w - E)  # the class's own cluster
    line = 2 * n * h * x / (n**2 * v + c)
    assert vanishes(sp.expand_log(log(exp(line) * noised(-h) / noised(h)), force=True))
    assert same(sp.integrate(gauss(x, n * b_1, v), (x, -oo, oo)), 1)


def test_eq_bayes_score():
    density, opinion = sp.Function("p")(x), sp.Function("q")(x)
    assert same(
        sp.diff(log(density * opinion / w), x) - sp.diff(log(density), x), sp.diff(log(opinion), x)
    )


def test_eq_exact_eps():
    p, r_1 = two_points(x, a)

    def noise(b):
        return (x - sqrt(a) * b) / sqrt(1 - a)

    assert same(r_1 * noise(b_1) + (1 - r_1) * noise(b_2), -sqrt(1 - a) * sp.diff(log(p), x))


def test_eq_tweedie():
    p, r_1 = two_points(x, a)
    assert same(r_1 * b_1 + (1 - r_1) * b_2, (x + (1 - a) * sp.diff(log(p), x)) / sqrt(a))
