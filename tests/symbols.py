"""What the symbolic tests share: symbols, and the worlds of two points."""

from itertools import product

import sympy as sp
from sympy import exp, pi, sqrt

alpha, ab_prev, a, c, n, r, v, w = sp.symbols("alpha alpha_bar_prev a c n r v w", positive=True)

ab, beta = alpha * ab_prev, 1 - alpha  # alpha_bar_t and beta_t from alpha_t and alpha_bar_{t-1}

x, x_0, x_t, eps, g, s, y, b_1, b_2, mu, h = sp.symbols(
    "x x_0 x_t epsilon g s y b_1 b_2 mu h", real=True
)


def same(left, right):  # the package's 0.5 as one half
    return sp.simplify(sp.nsimplify(left - right, rational=True)) == 0


def gauss(x, mean, var):
    return exp(-((x - mean) ** 2) / (2 * var)) / sqrt(2 * pi * var)


def two_points(x, level):
    """Data at b_1 (probability w) and b_2, noised to `level`: the density of x, and the probability
    that x came from b_1.
    """
    parts = (
        w * gauss(x, sqrt(level) * b_1, 1 - level),
        (1 - w) * gauss(x, sqrt(level) * b_2, 1 - level),
    )
    return sum(parts), parts[0] / sum(parts)


def vanishes(expression):
    return sp.expand(sp.fraction(sp.together(expression))[0]) == 0  # for quotients of polynomials


def labelled_table(blind=True):
    """P of (x_0, y, x_t, x_{t+1}), two values each: data with labels, then noise that does not look
    at the label, or does.
    """
    prior, *rest = sp.symbols("prior o_0 o_1 k_0 k_1 l_0 l_1 m_0 m_1", positive=True)
    opinion, first, then, other = (
        rest[:2],
        rest[2:4],
        rest[4:6],
        rest[6:],
    )  # q(y | x_0), q(x_t | x_0), q(x_{t+1} | x_t), and that of the label 1 if it looks

    def two(p):
        return (p, 1 - p)

    def weight(x_0, y, x, later):
        return (
            two(prior)[x_0]
            * two(opinion[x_0])[y]
            * two(first[x_0])[x]
            * two((then if blind or not y else other)[x])[later]
        )

    names = ("x_0", "y", "x", "later")
    joint = [(dict(zip(names, values)), weight(*values)) for values in product((0, 1), repeat=4)]

    def P(**fixed):
        return sum(
            p for state, p in joint if all(state[name] == value for name, value in fixed.items())
        )

    return P, (prior, *opinion, *first, *then)


def guided_by_product(P, y, x, later):
    "Appendix H's right-hand side, Z q(x_t | x_{t+1}) q(y | x_t) with Z = 1 / q(y | x_{t+1})."
    return (
        P(later=later)
        / P(y=y, later=later)
        * P(x=x, later=later)
        / P(later=later)
        * P(y=y, x=x)
        / P(x=x)
    )
