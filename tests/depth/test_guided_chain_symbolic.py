"""The labelled equations of "guided chain", in symbols."""

from itertools import product

import sympy as sp
from sympy import exp, log, oo, sqrt

from guided_diffusion_edu.diffusion import posterior_mean, posterior_variance
from symbols import (
    ab,
    ab_prev,
    alpha,
    b_1,
    b_2,
    beta,
    g,
    gauss,
    guided_by_product,
    labelled_table,
    same,
    v,
    vanishes,
    x,
    x_t,
)

# ---- the whole chain, and the scale


def test_eq_chain_law():
    P, _ = labelled_table()
    for y, x in product(
        (0, 1), repeat=2
    ):  # the kernel of Appendix H, as a product, carries q(x_{t+1} | y) to q(x_t | y)
        carried = sum(
            guided_by_product(P, y, x, later) * P(y=y, later=later) / P(y=y) for later in (0, 1)
        )
        assert vanishes(carried - P(y=y, x=x) / P(y=y))


def test_eq_total_variation():
    # four points: p above q by some sizes at the points of A, below it at the others, and the two
    # totals equal
    sizes = sp.symbols("d1:5", positive=True)
    for above in filter(lambda above: 0 < sum(above) < 4, product((0, 1), repeat=4)):
        surplus = sum(d for d, up in zip(sizes, above) if up)
        deficit = sum(sizes) - surplus
        for event in product((0, 1), repeat=4):
            gain = sum(
                d if up else -d for d, up, chosen in zip(sizes, above, event) if chosen
            )  # p(event) - q(event)
            short = sp.expand(
                sum(sizes) / 2 - gain - (deficit - surplus) / 2
            )  # of half the sum; the last bracket is 0
            assert short.is_nonnegative and (short == 0) == (
                event == above
            )  # no event gains more, and A alone as much


def test_eq_tilted_kernel():
    normaliser = sp.integrate(gauss(x, 0, v) * exp(g * x), (x, -oo, oo))
    tilted = gauss(x, 0, v) * exp(g * x) / normaliser
    assert same(normaliser, exp(v * g**2 / 2)) and same(sp.simplify(tilted / gauss(x, v * g, v)), 1)


def log_derivatives(level):
    """First and second derivative in x_t of log p and of log r_1 for `two_points`, with the two
    parts of p as plain symbols A and B.

    SymPy differentiates with unknown functions; what is put in for their derivatives is checked on
    the Gaussian itself.
    """
    A, B, size_a, size_b = (
        sp.Function("A")(x_t),
        sp.Function("B")(x_t),
        *sp.symbols("size_a size_b", positive=True),
    )
    slopes = {
        part: -(x_t - sqrt(level) * place) / (1 - level) for part, place in ((A, b_1), (B, b_2))
    }
    for part, place in ((A, b_1), (B, b_2)):
        assert same(sp.diff(log(gauss(x_t, sqrt(level) * place, 1 - level)), x_t), slopes[part])
    found = []
    for of in (log(A + B), log(A / (A + B))):
        for order in (1, 2):
            value = sp.diff(of, x_t, order)
            for part, slope in slopes.items():
                value = value.subs(
                    sp.diff(part, x_t, 2), part * (slope**2 + sp.diff(slope, x_t))
                ).subs(sp.diff(part, x_t), part * slope)
            found.append(value.subs({A: size_a, B: size_b}))
    return found, size_a / (size_a + size_b)


def test_eq_matched_variance():
    # two points noised: the step's variance is the mean of the variances plus the variance of the
    # means
    (_slope, bend, slope_1, _), r_1 = log_derivatives(ab)
    m_1, m_2 = (posterior_mean(b, x_t, ab, ab_prev) for b in (b_1, b_2))
    by_parts = posterior_variance(ab, ab_prev) + r_1 * (1 - r_1) * (m_1 - m_2) ** 2
    assert same(by_parts, beta / alpha * (1 + beta * bend))
    mean_slope = (
        r_1 * sp.diff(m_1, x_t) + (1 - r_1) * sp.diff(m_2, x_t) + r_1 * slope_1 * (m_1 - m_2)
    )
    assert same(by_parts, beta / sqrt(alpha) * mean_slope)


def test_eq_guided_variance():
    # the class is the first point: given it, the step's variance is that of the posterior
    (_, bend, _, bend_1), _ = log_derivatives(ab)
    free = beta / alpha * (1 + beta * bend)
    assert same(posterior_variance(ab, ab_prev) - free, beta**2 / alpha * bend_1)
    assert not same(posterior_variance(ab, ab_prev) - free, beta / alpha * bend_1)
