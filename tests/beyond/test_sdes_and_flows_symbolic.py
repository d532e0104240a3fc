"""The labelled equations of "sdes and flows", in symbols."""

import sympy as sp
from sympy import exp, log, sqrt

import guided_diffusion_edu as gde
import guided_diffusion_edu.classifier_free
import guided_diffusion_edu.diagnostics
import guided_diffusion_edu.particles
from guided_diffusion_edu.flows import (
    eps_from_flow,
    flow_time,
    guided_score,
    guided_velocity,
    reverse_drift,
    to_flow,
    velocity_from_eps,
)
from guided_diffusion_edu.samplers import score_from_eps
from symbols import a, ab, ab_prev, eps, g, gauss, mu, s, same, v, x, x_0, x_t


def test_eq_vp_sde():
    # mean factor and variance after a time u with constant rate; and a step of the chain to first
    # order
    rate, u, small = sp.symbols("rate u small", positive=True)
    mean, var = exp(-rate * u / 2), 1 - exp(-rate * u)
    assert (
        same(sp.diff(mean, u), -rate / 2 * mean)
        and same(sp.diff(var, u), -rate * var + rate)
        and same(mean**2, 1 - var)
    )
    assert same(sp.series(sqrt(exp(-rate * small)), small, 0, 2).removeO(), 1 - rate * small / 2)


def test_eq_fokker_planck():
    # the noised Gaussian solves it, the way up (drift -x / 2, rate 1)
    u, var_0 = sp.symbols("u var_0", positive=True)
    p = gauss(x, exp(-u / 2) * mu, exp(-u) * var_0 + 1 - exp(-u))
    residue = sp.diff(p, u) - (sp.diff(x / 2 * p, x) + sp.diff(p, x, 2) / 2)
    assert sp.simplify(residue / p) == 0


def test_eq_reverse_family():
    # any density: the drift of any kappa gives the reversed change
    p, kappa, rate = (
        sp.Function("p")(x),
        sp.symbols("kappa", positive=True),
        sp.symbols("rate", positive=True),
    )
    up = sp.diff(rate * x / 2 * p, x) + rate / 2 * sp.diff(p, x, 2)
    back = -sp.diff(
        reverse_drift(x, sp.diff(log(p), x), rate, kappa) * p, x
    ) + kappa * rate / 2 * sp.diff(p, x, 2)
    assert sp.simplify(up + back) == 0


def test_eq_guided_score():
    assert same(guided_score(eps, a, s * g), score_from_eps(eps, a) + s * g)


def test_eq_linear_path():
    tau = flow_time(a)
    assert same(to_flow(sqrt(a) * x_0 + sqrt(1 - a) * eps, a), (1 - tau) * x_0 + tau * eps)


def test_eq_velocity():
    tau = sp.symbols("tau", positive=True)
    x_tau = (1 - tau) * x_0 + tau * eps
    assert same(velocity_from_eps(x_tau, eps, tau), eps - x_0) and same(
        x_tau - tau * (eps - x_0), x_0
    )


def test_eq_path_change():
    tau = flow_time(a)
    assert (
        same((tau / (1 - tau)) ** 2, (1 - a) / a)
        and same((1 - tau) ** 2 / ((1 - tau) ** 2 + tau**2), a)
        and same(to_flow(x_t, a), x_t * (1 - tau) / sqrt(a))
    )


def test_eq_flow_to_eps():
    velocity = velocity_from_eps(to_flow(x_t, a), eps, flow_time(a))
    assert same(eps_from_flow(x_t, velocity, a), eps)
    assert same(sp.diff(eps_from_flow(x_t, v, a), v), 1 - flow_time(a))


def test_eq_guided_velocity():
    tau, x_tau = sp.symbols("tau x_tau", positive=True)
    assert same(
        guided_velocity(velocity_from_eps(x_tau, eps, tau), tau, s * g),
        velocity_from_eps(x_tau, eps - tau * s * g, tau),
    )
    # and through the diffusion's eps_hat, the gradient in x_t being that in x_tau times the scale
    assert same(
        guided_velocity(
            velocity_from_eps(to_flow(x_t, a), eps, flow_time(a)),
            flow_time(a),
            g * (sqrt(a) + sqrt(1 - a)),
        ),
        velocity_from_eps(to_flow(x_t, a), gde.guided_eps(eps, a, g), flow_time(a)),
    )


def test_eq_euler_is_ddim():
    tau, below, x_tau = sp.symbols("tau below x_tau", positive=True)
    estimate, moved = x_tau - tau * v, x_tau + (below - tau) * v
    assert same(moved, (1 - below) * estimate + below * (estimate + v))
    noise = (x_t - sqrt(ab) * x_0) / sqrt(1 - ab)
    level = flow_time(ab_prev)
    assert same(
        ((1 - level) * x_0 + level * noise) / to_flow(1, ab_prev),
        sqrt(ab_prev) * x_0 + sqrt(1 - ab_prev) * noise,
    )
