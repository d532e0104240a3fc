"""The labelled equations of "classifier free", in symbols."""

import sympy as sp
from sympy import exp, log, oo, sqrt

import guided_diffusion_edu as gde
from guided_diffusion_edu import classifier_free
from guided_diffusion_edu.lab.linear_gaussian import (
    ddim_variance,
    ddpm_variance,
)
from symbols import a, b_1, b_2, gauss, r, s, same, v, w, x, x_t

# ---- beyond the paper: two models in the place of a classifier


def test_eq_free_loss():
    a_y, a_0, _w_y, _w_0, p = sp.symbols("a_y a_0 w_y w_0 p", real=True)
    noise = sp.Matrix(
        sp.symbols("n1:4", real=True)
    )  # three equally likely noises seen with a class, and hidden

    def mean(guess):
        return sum((n_k - guess) ** 2 for n_k in noise) / 3

    loss = (1 - p) * mean(a_y) + p * mean(a_0)
    best = sp.solve([sp.diff(loss, a_y), sp.diff(loss, a_0)], [a_y, a_0], dict=True)[0]
    assert same(best[a_y], sum(noise) / 3) and same(best[a_0], sum(noise) / 3)  # whatever p


def test_eq_implicit_classifier():
    density, opinion = sp.Function("p", positive=True)(x_t), sp.Function("q", positive=True)(x_t)

    def eps_of(p):
        return -sqrt(1 - a) * sp.diff(log(p), x_t)

    class_model = density * opinion / w  # Bayes' rule, w the share of the class
    assert same(-(eps_of(class_model) - eps_of(density)) / sqrt(1 - a), sp.diff(log(opinion), x_t))


def test_eq_free_eps():
    eps_y, eps_0, w = sp.symbols("epsilon_y epsilon_0 w", real=True)
    implied = -(eps_y - eps_0) / sqrt(1 - a)
    assert same(gde.guided_eps(eps_0, a, s * implied), eps_0 + s * (eps_y - eps_0))
    assert same((eps_0 + s * (eps_y - eps_0)).subs(s, 1 + w), (1 + w) * eps_y - w * eps_0)


def test_eq_autoguidance():
    p, weak = sp.Function("p", positive=True)(x), sp.Function("q", positive=True)(x)

    def score(f):
        return sp.diff(log(f), x)

    assert same(score(weak) + s * (score(p) - score(weak)), score(p**s / weak ** (s - 1)))


def test_eq_tilt_gap():
    # data at two points with class probabilities p_1, p_2: noise the tilted law, and compare with
    # the power
    p_1, p_2 = sp.symbols("p_1 p_2", positive=True)
    near, far = w * gauss(x, sqrt(a) * b_1, 1 - a), (1 - w) * gauss(x, sqrt(a) * b_2, 1 - a)
    density, opinion = near + far, (near * p_1 + far * p_2) / (near + far)
    tilted, worth = near * p_1**3 + far * p_2**3, (near * p_1**3 + far * p_2**3) / (near + far)
    left = sp.diff(log(tilted) - (log(density) + 3 * log(opinion)), x)
    assert same(left, sp.diff(log(worth / opinion**3), x))


def test_eq_flow_quantiles():
    k, u = sp.symbols("k u", positive=True)
    drawn = gauss(x, 0, k**2)  # what x -> k x makes of N(0, 1)
    assert same(sp.integrate(drawn, (x, -oo, k * u)), sp.integrate(gauss(x, 0, 1), (x, -oo, u)))


tau, broad = sp.symbols("tau u", positive=True)

pull = s / (v + tau) - (s - 1) / (broad + tau)  # minus the guided score over x


def test_eq_pair_target():
    power = s * log(gauss(x, 0, v)) - (s - 1) * log(gauss(x, 0, broad))
    assert same(
        -1 / sp.diff(sp.expand_log(power, force=True), x, 2),
        classifier_free.pair_target_variance(v, broad, s),
    )


def test_eq_pair_ddim():
    path = s * log(v + tau) - (s - 1) * log(broad + tau)  # log of the variance along the flow
    assert same(sp.diff(path, tau), pull) and sp.limit((path - log(tau)).subs(s, 3), tau, oo) == 0
    assert same(exp(path).subs(tau, 0), classifier_free.pair_ddim_variance(v, broad, s))
    assert same(classifier_free.pair_ddim_variance(r**2 / (1 + r**2), 1, s), ddim_variance(r, s))


def test_eq_pair_ddpm():
    gap = sp.symbols("gap", positive=True)  # u = v + gap
    for power in (1, 2, 3):
        factor = (v + gap + tau) ** (2 * power - 2) / (v + tau) ** (2 * power)
        assert same(sp.diff(log(factor), tau), -2 * pull.subs({s: power, broad: v + gap}))
        whole = sp.integrate(sp.apart(factor, tau), (tau, 0, oo)) / factor.subs(tau, 0)
        assert same(whole, classifier_free.pair_ddpm_variance(v, v + gap, power))
    assert same(classifier_free.pair_ddpm_variance(r**2 / (1 + r**2), 1, 3), ddpm_variance(r, 3))
    assert same(
        classifier_free.pair_ddpm_variance(1, 2, s), (2 - 2 ** (2 - 2 * s)) / (2 * s - 1)
    )  # Bradley and Nakkiran's example


def test_eq_interval_law():
    low, high, level = sp.symbols("low high level", positive=True)

    def rate(f):
        return -f * log(1 + r**2 - level)  # primitive of f / (1 + r^2 - a)

    def part(f, start, end):
        return rate(f).subs(level, end) - rate(f).subs(level, start)

    total = part(1, 0, low) + part(s, low, high) + part(1, high, 1)
    claimed = log(classifier_free.interval_variance(r, s, low, high))
    assert same(sp.diff(sp.expand_log(claimed, force=True) + total, s), 0) and same(
        (claimed + total).subs(s, 1), 0
    )


def test_eq_rescaled():
    pixels, factor = sp.Matrix(sp.symbols("p1:4", real=True)), sp.symbols("factor", positive=True)

    def spread(values):
        return sum((value - sum(values) / 3) ** 2 for value in values)

    wanted = sp.symbols("wanted", positive=True)
    assert same(spread(factor * pixels), factor**2 * spread(pixels))
    assert same(
        spread(sqrt(wanted / spread(pixels)) * pixels), wanted
    )  # the whole way: the variance asked for


def test_eq_projected():
    own, change = sp.Matrix(sp.symbols("o1:4", real=True)), sp.Matrix(sp.symbols("d1:4", real=True))
    along = (change.T * own)[0] / (own.T * own)[0] * own
    across = change - along
    guided = own + (s - 1) * across
    assert same((across.T * own)[0], 0)
    assert same((guided.T * guided)[0], (own.T * own)[0] + (s - 1) ** 2 * (across.T * across)[0])


def test_eq_gradient_field():
    x_1, x_2, c_1, c_2 = sp.symbols("x_1 x_2 c_1 c_2", real=True)
    potential = sp.Function("f")(x_1, x_2)
    field = [sp.diff(potential, x_1), sp.diff(potential, x_2)]
    assert same(sp.diff(field[0], x_2), sp.diff(field[1], x_1))
    scaled = [
        factor * component for factor in [1 + x_1**2] for component in (c_1 * x_1, c_2 * x_2)
    ]  # a gradient times a function
    assert not same(sp.diff(scaled[0], x_2), sp.diff(scaled[1], x_1))
    f_1, f_2 = c_1 * x_1 + c_2 * x_2, c_2 * x_1 + x_2  # symmetric: it has a potential
    found = sp.integrate(f_1, x_1) + sp.integrate(f_2 - sp.diff(sp.integrate(f_1, x_1), x_2), x_2)
    assert same(sp.diff(found, x_1), f_1) and same(sp.diff(found, x_2), f_2)
