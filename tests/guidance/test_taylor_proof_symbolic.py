"""The labelled equations of "taylor proof", in symbols."""

from itertools import product
from types import SimpleNamespace

import sympy as sp
from sympy import Rational, exp, log, oo, pi, sqrt

import guided_diffusion_edu as gde
from guided_diffusion_edu import guidance
from guided_diffusion_edu.guidance import error_law
from symbols import (
    b_1,
    b_2,
    c,
    g,
    guided_by_product,
    h,
    labelled_table,
    mu,
    s,
    same,
    v,
    vanishes,
    w,
    x,
)

# ---- the Taylor proof


def test_eq_label_blind():
    # given x_t the next step looks at no label, though the label says something about x_0 and so
    # about x_t
    P, (prior, _, _, k_0, _k_1, l_0, _l_1) = labelled_table()
    sighted, _ = labelled_table(blind=False)
    for y, x, later in product((0, 1), repeat=3):
        assert vanishes(P(y=y, x=x, later=later) / P(y=y, x=x) - P(x=x, later=later) / P(x=x))
        assert not vanishes(
            sighted(y=y, x=x, later=later) / sighted(y=y, x=x)
            - sighted(x=x, later=later) / sighted(x=x)
        )
    # without a label it is the old chain
    assert (
        vanishes(P(x_0=0, x=0, later=0) - prior * k_0 * l_0)
        and vanishes(P(x=0, later=0) / P(x=0) - l_0)
        and not vanishes(P(y=0, x=0) / P(x=0) - P(y=0))
    )


def test_eq_guided_product():
    P, _ = labelled_table()
    sighted, _ = labelled_table(blind=False)
    for y, x, later in product((0, 1), repeat=3):

        def conditional(P):
            return P(y=y, x=x, later=later) / P(y=y, later=later)

        assert vanishes(conditional(P) - guided_by_product(P, y, x, later))
        assert not vanishes(
            conditional(sighted) - guided_by_product(sighted, y, x, later)
        )  # with noise that looks at the label it is false


def test_eq_model_product():
    steps, opinions = (
        sp.symbols("p_0:3", positive=True),
        sp.symbols("o_0:3", positive=True),
    )  # any step and classifier, at three places

    def law(opinions):
        return [
            p * o / sum(p * o for p, o in zip(steps, opinions)) for p, o in zip(steps, opinions)
        ]

    assert vanishes(sum(law(opinions)) - 1)
    assert all(
        vanishes(scaled - p) for scaled, p in zip(law([c * o for o in opinions]), law(opinions))
    )  # what does not depend on x_t is free
    P, _ = labelled_table()
    exact = [
        P(x=x, later=0) / P(later=0) * P(y=1, x=x) / P(x=x) for x in (0, 1)
    ]  # with both models exact, Appendix H
    assert vanishes(exact[0] / sum(exact) - P(y=1, x=0, later=0) / P(y=1, later=0))


def test_eq_martingale():
    P, _ = labelled_table()
    for y, later in product((0, 1), repeat=2):
        average = sum(P(x=x, later=later) / P(later=later) * P(y=y, x=x) / P(x=x) for x in (0, 1))
        assert vanishes(average - P(y=y, later=later) / P(later=later))


def test_eq_martingale_gap():
    P, symbols = labelled_table()
    now, before = {}, {}
    for y, state in product((0, 1), repeat=2):
        now[y, state], before[y, state] = (
            P(y=y, **{name: state}) / P(**{name: state}) for name in ("x", "later")
        )

    def gap(
        opinion, P=P, now=now, before=before
    ):  # of a classifier that distorts the exact opinions
        return sum(
            P(x=x, later=later)
            * (opinion(now, y, x) - opinion(before, y, later))
            * opinion(before, y, later)
            for y, x, later in product((0, 1), repeat=3)
        )

    # for all values: given x_{t+1} each term has mean 0; and so it has for opinions drawn towards
    # the class frequencies, or away from them
    def stretched(p, y, state):
        return P(y=y) + c * (p[y, state] - P(y=y))

    for y, later in product((0, 1), repeat=2):
        for opinion in (lambda p, y, state: p[y, state], stretched):
            assert vanishes(
                sum(
                    P(x=x, later=later) * (opinion(now, y, x) - opinion(before, y, later))
                    for x in (0, 1)
                )
            )
    # in fractions: a classifier whose odds are squared has a negative gap
    values = dict(zip(symbols, map(Rational, ("1/3", "1/5", "3/4", "1/6", "5/7", "2/9", "7/8"))))

    def squared(p, y, state):
        return p[y, state] ** 2 / (p[0, state] ** 2 + p[1, state] ** 2)

    assert gap(squared).subs(values) < 0 and gap(lambda p, y, state: p[y, state]).subs(values) == 0


def test_eq_taylor():
    w_1, w_2, m_1, m_2, h_1, h_2 = sp.symbols("w1:3 m1:3 h1:3", real=True)

    def log_p(x_1, x_2):
        return -log(1 + exp(-w_1 * x_1 - w_2 * x_2))  # a logistic classifier in the plane

    gradient = [sp.diff(log_p(m_1, m_2), m) for m in (m_1, m_2)]
    along = log_p(m_1 + s * h_1, m_2 + s * h_2)
    assert same(
        sp.diff(along, s).subs(s, 0), h_1 * gradient[0] + h_2 * gradient[1]
    )  # an inner product
    hessian = sp.hessian(log_p(m_1, m_2), (m_1, m_2))
    assert same(
        sp.diff(along, s, 2).subs(s, 0),
        (sp.Matrix([[h_1, h_2]]) * hessian * sp.Matrix([h_1, h_2]))[0],
    )  # the first term left out


def completed_square():
    d, grad = sp.Matrix(sp.symbols("d1 d2", real=True)), sp.Matrix(sp.symbols("g1 g2", real=True))
    p_1, p_2, p_3 = sp.symbols("p1:4", positive=True)
    return d, grad, sp.Matrix([[p_1, p_2], [p_2, p_3]])


def test_eq_complete_square():
    d, grad, Sigma = completed_square()

    def square(u):
        return (-u.T * Sigma.inv() * u / 2)[0]

    C_3_minus_C_2 = (grad.T * Sigma * grad / 2)[0]
    assert same(square(d) + (d.T * grad)[0], square(d - Sigma * grad) + C_3_minus_C_2)
    assert not same(
        square(d) + (d.T * grad)[0], square(d - grad) + C_3_minus_C_2
    )  # a shift by g is not it


def test_eq_mean_shift():
    log_product = -((x - mu) ** 2) / (2 * v) + (x - mu) * g
    mode = sp.solve(sp.diff(log_product, x), x)
    assert mode == [sp.expand(gde.guided_mean(mu, v, g))] and same(
        sp.diff(log_product, x, 2), -1 / v
    )


def test_eq_hessian_step():
    d, grad, P = completed_square()  # P in the place of the precision minus the Hessian
    left = -(d.T * P * d)[0] / 2 + (d.T * grad)[0]
    rest = d - P.inv() * grad
    assert same(left, -(rest.T * P * rest)[0] / 2 + (grad.T * P.inv() * grad)[0] / 2)
    H = sp.symbols("H", negative=True)
    exponent = -((x - mu) ** 2) / (2 * v) + g * (x - mu) + H * (x - mu) ** 2 / 2
    (mode,) = sp.solve(sp.diff(exponent, x), x)
    assert same(mode, mu + g / (1 / v - H)) and same(-1 / sp.diff(exponent, x, 2), 1 / (1 / v - H))


def test_eq_small_difference():
    # r takes two values: the exact total variation and divergence of the laws that differ by e^(h
    # r), expanded in h
    values, shares = (b_1, b_2), (w, 1 - w)

    def mean(f):
        return sum(share * f(value) for share, value in zip(shares, values))

    total = mean(lambda r: exp(h * r))
    centre = mean(lambda r: r)

    def ratio(r):
        return exp(h * r) / total

    divergence = mean(lambda r: ratio(r) * (h * r - log(total)))
    spread = mean(lambda r: (r - centre) ** 2)
    assert (
        same(divergence.subs(h, 0), 0)
        and same(sp.diff(divergence, h).subs(h, 0), 0)
        and same(sp.diff(divergence, h, 2).subs(h, 0), spread)
    )
    for value in values:
        assert same(
            sp.diff(ratio(value), h).subs(h, 0), value - centre
        )  # so the mean of |ratio - 1| is h times that of |r - E r|
    assert same(mean(ratio), 1)


def test_eq_error_law(monkeypatch):
    z, sigma, g, H, T = sp.symbols("z sigma g H T", positive=True)
    density = exp(-(z**2) / 2) / sqrt(2 * pi)

    def mean(f, low=0):
        return 2 * sp.integrate(sp.expand(f * density), (z, low, oo))  # of an even function

    deviations = (
        mean(z),
        2 * mean(z**2 - 1, 1),
        mean(z**3),
    )  # E|z|; E|z^2 - 1|, whose two halves are equal; E|z|^3
    assert same(mean(z**2 - 1), 0) and same(deviations[1], 4 * density.subs(z, 1))
    spreads = mean(z**2), mean(z**4) - mean(z**2) ** 2, mean(z**6)
    sizes = sigma * g, sigma**2 * H / 2, sigma**3 * T / 6
    monkeypatch.setattr(guidance, "math", SimpleNamespace(pi=pi, e=sp.E, sqrt=sqrt))
    for size, deviation, spread, (tv, divergence) in zip(
        sizes, deviations, spreads, error_law(sigma**2, g, H, T)
    ):
        assert same(size * deviation / 2, tv) and same(size**2 * spread / 2, divergence)


def test_eq_scaled_shift():
    opinion = sp.Function("p", positive=True)(x)
    assert same(
        sp.diff(log(opinion**s / w), x), s * sp.diff(log(opinion), x)
    )  # a power, over a constant
    log_product = -((x - mu) ** 2) / (2 * v) + s * (x - mu) * g
    assert same(sp.solve(sp.diff(log_product, x), x)[0], gde.guided_mean(mu, v, s * g))
