"""The labelled equations of "exact guidance", in symbols."""

from itertools import product

import sympy as sp
from sympy import Rational, log, oo

from symbols import g, gauss, s, same, v, w

# ---- exact guidance by particles


def two_steps():
    """Two states a level: P(x_2), P(x_1 | x_2), P(x_0 | x_1) and positive twists h_0, h_1, h_2, all
    free.
    """
    start, first, second = (
        sp.symbols("p_2 p_10 p_11", positive=True),
        sp.symbols("f_0 f_1", positive=True),
        sp.symbols("g_0 g_1", positive=True),
    )

    def two(p):
        return (p, 1 - p)

    twists = [sp.symbols(f"h_{level}0 h_{level}1", positive=True) for level in range(3)]
    return two(start[0]), [two(p) for p in first], [two(p) for p in second], twists


def test_eq_smc_target():
    # the last target's marginal does not depend on the twists on the way
    start, first, second, (h_0, h_1, h_2) = two_steps()
    gamma = {
        (i, j, k): start[i] * first[i][j] * second[j][k] * h_0[k]
        for i, j, k in product((0, 1), repeat=3)
    }
    for k in (0, 1):
        marginal = sum(gamma[i, j, k] for i, j in product((0, 1), repeat=2))
        chain = sum(start[i] * first[i][j] * second[j][k] for i, j in product((0, 1), repeat=2))
        assert same(marginal, chain * h_0[k]) and not marginal.free_symbols & {*h_1, *h_2}


def test_eq_smc_weight():
    start, first, second, (h_0, h_1, h_2) = two_steps()
    r = sp.symbols("r_0:4", positive=True)  # any proposals
    for i, j, k in product((0, 1), repeat=3):
        weights = (
            h_2[i],
            first[i][j] * h_1[j] / (r[i] * h_2[i]),
            second[j][k] * h_0[k] / (r[2 + j] * h_1[j]),
        )
        assert same(
            start[i] * r[i] * r[2 + j] * sp.prod(weights),
            start[i] * first[i][j] * second[j][k] * h_0[k],
        )


def test_eq_gaussian_weight():
    d, after, before = sp.symbols("d h_after h_before", real=True)
    step = sp.expand_log(log(gauss(d, 0, v)) - log(gauss(d, v * g, v)), force=True)
    assert same(step, -v * g * (d - v * g / 2) / v)
    claimed = after - g * d + v * g**2 / 2 - before
    assert same(step + after - before, claimed)
    linear = claimed.subs(after, s + g * d).subs(
        before, s + v * g**2 / 2
    )  # a linear twist that is a martingale
    assert same(linear, 0)


def test_eq_smc_evidence():
    # one particle and one step, any proposal: the mean of the product of weights is the evidence;
    # with resampling by counting for two
    start, first, _, (h_0, h_1, _) = two_steps()
    r = sp.symbols("r_0 r_1", positive=True)
    proposal = [(p, 1 - p) for p in r]
    mean = sum(
        start[i] * proposal[i][j] * h_1[i] * first[i][j] * h_0[j] / (proposal[i][j] * h_1[i])
        for i, j in product((0, 1), repeat=2)
    )
    assert same(mean, sum(start[i] * first[i][j] * h_0[j] for i, j in product((0, 1), repeat=2)))
    w_1, w_2, f_1, f_2 = sp.symbols("w_1 w_2 f_1 f_2", positive=True)
    share = w_1 / (w_1 + w_2)
    resampled = (
        share * f_1 + (1 - share) * f_2
    )  # mean of f over the copies, each in proportion to its weight
    assert same((w_1 + w_2) / 2 * resampled, (w_1 * f_1 + w_2 * f_2) / 2)


def test_eq_ess():
    M, N, W = sp.symbols("M N W", positive=True)
    assert same((M * W) ** 2 / (M * W**2), M)  # M equal weights count M
    heavy = 1 / (w**2 + (1 - w) ** 2 / (N - 1))
    assert same(heavy.subs(w, 1 / N), N) and sp.limit(heavy, N, oo) == 1 / w**2


def test_eq_systematic():
    u = sp.symbols("u", real=True)
    for low, high, N in (
        (Rational(1, 7), Rational(5, 9), 4),
        (0, Rational(1, 11), 5),
        (Rational(2, 3), 1, 3),
    ):
        inside = sum(
            sp.Piecewise((1, sp.And((k + u) / N >= low, (k + u) / N < high)), (0, True))
            for k in range(N)
        )
        assert sp.integrate(inside, (u, 0, 1)) == N * (high - low)  # the expected number of teeth


def test_eq_twist_bounds():
    t = sp.symbols("t", positive=True)

    def power(z):
        return z**3

    p_1, p_2 = Rational(1, 5), Rational(9, 10)

    def mean(f):
        return w * f(p_1) + (1 - w) * f(p_2)

    below, above = (
        sp.factor(mean(power) - power(mean(lambda z: z))),
        sp.factor(mean(lambda z: z) - mean(power)),
    )
    for share in (Rational(k, 10) for k in range(1, 10)):
        assert below.subs(w, share) > 0 and above.subs(w, share) > 0
    assert sp.diff(t**s, t, 2).equals(
        s * (s - 1) * t ** (s - 2)
    )  # convex for s > 1, which is Jensen's condition


def test_eq_annealed_twist():
    level, least = sp.symbols("level least", positive=True)
    k = 1 + (s - 1) * level / least
    assert same(k.subs(level, least), s) and same(k.subs(level, 0), 1) and same(k.subs(s, 1), 1)
    assert same(sp.diff(k, level), (s - 1) / least)  # and a straight line between
