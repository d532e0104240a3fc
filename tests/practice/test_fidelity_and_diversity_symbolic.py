"""The labelled equations of "fidelity and diversity", in symbols."""

import sympy as sp

from guided_diffusion_edu.tradeoff import matching_scale
from symbols import r, s, same, y


def test_eq_told_ahead():
    p_x, p_y_x, p_y, s = sp.symbols("p_x p_y_x p_y s", positive=True)
    p_x_y = p_x * p_y_x / p_y  # Bayes' rule
    ratio = sp.simplify(p_x_y * p_y_x**s / (p_x * p_y_x ** (s + 1)))
    assert same(ratio, 1 / p_y) and not ratio.has(p_x, p_y_x)  # the same in every x


def test_eq_matching_scale():
    b = sp.symbols("b", positive=True)
    (found,) = sp.solve(1 / b**2 + s / r**2 - (1 + 1 / r**2), s)
    assert same(found, matching_scale(r, b)) and same(matching_scale(r, 1), 1)

    def tilted_mean(scale):
        return scale * y / r**2 / (1 / b**2 + scale / r**2)

    assert same(
        tilted_mean(found) / (y / r**2 / (1 + 1 / r**2)), found
    )  # the mean is off by the scale itself
