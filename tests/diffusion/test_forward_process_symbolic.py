"""The labelled equations of "forward process", in symbols."""

import itertools

import sympy as sp
from sympy import Rational, exp, log, pi, sqrt

from symbols import a, ab, ab_prev, alpha, beta, same, v, x_0


def test_eq_forward_step():
    assert sp.solve((1 - a) * v + a - v, v) == [1]  # variance 1 is kept, and no other is


def test_eq_alpha_bar():
    betas = sp.symbols("beta1:4", positive=True)
    factor = sp.Mul(*(sqrt(1 - b) for b in betas))  # of x_0 in x_3, by three steps
    assert same(factor**2, sp.Mul(*(1 - b for b in betas)))


def test_eq_forward_marginal():
    # the induction step: shrink N(sqrt(ab_prev) x_0, 1 - ab_prev) and add noise
    assert same(sqrt(alpha) * sqrt(ab_prev) * x_0, sqrt(ab) * x_0) and same(
        alpha * (1 - ab_prev) + beta, 1 - ab
    )


def test_eq_forward_between():
    later = sp.symbols("later", positive=True)
    needed = sp.solve(
        (later / a) * (1 - a) + v - (1 - later), v
    )  # variance that takes level a to level `later`
    assert len(needed) == 1 and same(needed[0], 1 - later / a)


def test_eq_linear_schedule():
    T, t = sp.symbols("T t", positive=True, integer=True)
    first, last = Rational(1, 10_000), Rational(2, 100)
    betas = 1000 / T * (first + (t - 1) / (T - 1) * (last - first))
    assert same(betas.subs(t, 1), 1000 * first / T) and same(betas.subs(t, T), 20 / T)
    assert same(
        sp.summation(betas, (t, 1, T)), 500 * (first + last)
    )  # the total is the same for every T


def test_eq_cosine_schedule():
    sp.symbols("u", nonnegative=True)

    def f(u):
        return sp.cos((u + Rational(8, 1000)) / Rational(1008, 1000) * pi / 2) ** 2

    kept = [f(Rational(t, 4)) / f(Rational(t - 1, 4)) for t in (1, 2, 3)]
    assert same(sp.Mul(*kept), f(Rational(3, 4)) / f(0))  # the betas give the curve back
    assert f(1) == 0 and 1 - f(1) / f(Rational(3, 4)) == 1  # uncapped, the last beta would be 1


def test_eq_betas_from_curve():
    curve = sp.symbols("f_0:4", positive=True)
    left = sp.prod(1 - (1 - later / sooner) for sooner, later in itertools.pairwise(curve))
    assert same(left, curve[3] / curve[0])


def test_eq_snr():
    ratio = a * 1 / (1 - a)  # variance of the signal over that of the noise
    assert same(1 / (1 + exp(-log(ratio))), a)  # log SNR is the logit of alpha_bar


def test_eq_respaced_betas():
    first, second, third = sp.symbols("first second third", positive=True)
    betas = 1 - first, 1 - second / first, 1 - third / second
    assert same(sp.Mul(*(1 - b for b in betas)), third)  # the product telescopes
