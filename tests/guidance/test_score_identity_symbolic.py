"""The labelled equations of "score identity", in symbols."""

from types import SimpleNamespace

import numpy
import sympy as sp
from sympy import Rational, log, sqrt

import guided_diffusion_edu as gde
from guided_diffusion_edu import samplers
from guided_diffusion_edu.diffusion import mean_from_eps, posterior_mean, posterior_variance
from guided_diffusion_edu.samplers import ddim_sigma, guided_x_0, score_from_eps
from symbols import (
    a,
    ab,
    ab_prev,
    alpha,
    b_1,
    b_2,
    beta,
    eps,
    g,
    gauss,
    h,
    s,
    same,
    two_points,
    v,
    x,
    x_0,
    x_t,
)

# ---- the score identity and DDIM


def test_eq_score_eps():
    log_density = sp.expand_log(log(gauss(x, sqrt(a) * x_0, 1 - a)), force=True)
    assert same(
        sp.diff(log_density, x).subs(x, sqrt(a) * x_0 + sqrt(1 - a) * eps),
        score_from_eps(eps, a),
    )


def test_eq_eps_hat():
    score = score_from_eps(eps, a) + s * g
    assert same(gde.guided_eps(eps, a, s * g), -sqrt(1 - a) * score)


def test_eq_exact_shift():
    _p, r_1 = two_points(x_t, ab)  # each point a class of its own
    class_model, of_other = (posterior_mean(b, x_t, ab, ab_prev) for b in (b_1, b_2))
    assert same(
        class_model - (r_1 * class_model + (1 - r_1) * of_other),
        beta / sqrt(alpha) * sp.diff(log(r_1), x_t),
    )
    moved = mean_from_eps(x_t, gde.guided_eps(eps, ab, g), ab, ab_prev) - mean_from_eps(
        x_t, eps, ab, ab_prev
    )
    assert same(moved, beta / sqrt(alpha) * g)


def test_eq_shift_ratio():
    ratio = posterior_variance(ab, ab_prev) / (beta / sqrt(alpha))
    assert same(ratio, sqrt(alpha) * (1 - ab_prev) / (1 - ab))


Z = sp.Symbol("z", real=True)


def ddim_step(monkeypatch, e, sigma=0, gradient=None, z=Z):
    """A step of `ddim_sample` from x_t, by its own lines: symbols stand for what the model and the
    guidance give, and for what is drawn.
    """

    class Symbols(samplers.Denoiser):
        def __init__(self, *_, guidance, **__):
            self.x_T = numpy.array([[x_t]], dtype=object)  # (B, C)
            self.steps, self.levels, self.t, self.y = [0], [(ab, ab_prev)], [None], None
            self.model, self.guidance = lambda *_: numpy.array([[e]], dtype=object), guidance
            self.watch = SimpleNamespace(edit_x_0=lambda edit, x_0, t: x_0)
            self.clip, self.edit_x_0, self.noise = False, None, lambda x: z
            self.record = self.finish = lambda x: x

    monkeypatch.setattr(samplers, "Denoiser", Symbols)
    monkeypatch.setattr(samplers, "ddim_sigma", lambda *_: sigma)
    guidance = None if gradient is None else lambda x, t: gradient
    step = gde.ddim_sample(None, None, (1, 1), guidance=guidance)
    return sp.nsimplify(step[0, 0], rational=True)


def test_eq_ddim_family(monkeypatch):
    sigma, z = sp.symbols("sigma", positive=True), sp.symbols("z", real=True)
    step = sp.expand(
        ddim_step(monkeypatch, gde.eps_from_x_0(x_t, x_0, ab), sigma).subs(
            x_t, sqrt(ab) * x_0 + sqrt(1 - ab) * eps
        )
    )
    kept, fresh = sp.diff(step, eps), sp.diff(step, z)
    assert same(step.subs({eps: 0, z: 0}), sqrt(ab_prev) * x_0)  # the mean of the marginal
    assert same(kept**2 + fresh**2, 1 - ab_prev) and same(
        fresh, sigma
    )  # and its variance, for every sigma
    assert same(sp.diff(step, eps, 2), 0) and same(sp.diff(step, z, 2), 0)


def test_eq_ddim_step(monkeypatch):
    exact = gde.eps_from_x_0(x_t, x_0, ab)
    family = sqrt(ab_prev) * x_0 + sqrt(1 - ab_prev) * exact
    assert same(ddim_step(monkeypatch, exact), family)


def test_eq_ddim_sigma():
    assert same(ddim_sigma(ab, ab_prev, 1) ** 2, posterior_variance(ab, ab_prev))
    assert same(
        (1 - ab_prev - posterior_variance(ab, ab_prev)), alpha * (1 - ab_prev) ** 2 / (1 - ab)
    )  # so the root is sqrt(alpha) (1 - ab_prev) / sqrt(1 - ab)
    root = sqrt(alpha) * (1 - ab_prev) / sqrt(1 - ab)
    assert same(
        sqrt(ab_prev) * x_0 + root * gde.eps_from_x_0(x_t, x_0, ab),
        posterior_mean(x_0, x_t, ab, ab_prev),
    )  # eta = 1 is DDPM


def test_eq_ddim_shift(monkeypatch):
    sigma = sp.symbols("sigma", positive=True)
    moved = ddim_step(monkeypatch, eps, sigma, g) - ddim_step(monkeypatch, eps, sigma)
    assert same(
        moved,
        ddim_step(monkeypatch, gde.guided_eps(eps, ab, g), sigma)
        - ddim_step(monkeypatch, eps, sigma),
    )
    assert same(moved, sqrt(1 - ab) * (sqrt((1 - ab) / alpha) - sqrt(1 - ab_prev - sigma**2)) * g)
    short = sqrt(v) * (
        sqrt(v / (1 - h)) - sqrt(1 - (1 - v) / (1 - h))
    )  # of level 1 - v, by beta = h
    assert same(sp.limit(sp.diff(short, h), h, 0), Rational(1, 2))


def test_eq_flow(monkeypatch):
    def relative(level):
        return sqrt(1 - level) / sqrt(level)

    assert same(
        ddim_step(monkeypatch, eps) / sqrt(ab_prev),
        x_t / sqrt(ab) + (relative(ab_prev) - relative(ab)) * eps,
    )


def test_eq_ddim_inversion(monkeypatch):
    down = sp.Eq(ddim_step(monkeypatch, eps), x)
    (up,) = sp.solve(down, x_t)  # the same eps: the way back undoes the step

    def relative(level):
        return sqrt(1 - level) / sqrt(level)

    assert same(up / sqrt(ab), x / sqrt(ab_prev) + (relative(ab) - relative(ab_prev)) * eps)


def test_eq_guided_x0():
    assert same(
        guided_x_0(gde.x_0_from_eps(x_t, eps, a), a, g),
        gde.x_0_from_eps(x_t, gde.guided_eps(eps, a, g), a),
    )
