"""The labelled equations of "few steps", in symbols."""

import sympy as sp
from sympy import exp, sqrt

import guided_diffusion_edu as gde
import guided_diffusion_edu.classifier_free
import guided_diffusion_edu.diagnostics
import guided_diffusion_edu.particles
from guided_diffusion_edu.diffusion import posterior_mean, posterior_variance
from guided_diffusion_edu.solvers import (
    exponential_step,
    heun,
    noise_to_signal,
    stochastic_step,
    two_m,
)
from symbols import a, ab, ab_prev, n, r, same, x, x_0, x_t, y

lam, step_h, before_h = sp.symbols("lambda h_step h_before", positive=True)


def level(place):
    return 1 / (1 + exp(-2 * place))  # alpha_bar where half the log-SNR is `place`


def test_eq_flow_log_snr():
    # d x_bar = eps d sigma, with sigma = e^-lambda and eps = (x_bar - x_0) / sigma
    sigma = exp(-lam)
    assert same((x - x_0) / sigma * sp.diff(sigma, lam), x_0 - x)
    assert sp.simplify(noise_to_signal(level(lam)) - sigma) == 0


def test_eq_variation_of_constants():
    u, f = sp.symbols("u", positive=True), sp.Function("f")
    path = exp(-lam) * (x + sp.Integral(exp(u) * f(u), (u, 0, lam)))  # from lambda = 0
    assert sp.simplify(sp.diff(path, lam) - (f(lam) - path)) == 0


def test_eq_exponential_step():
    noise = gde.eps_from_x_0(x_t, x_0, ab)
    assert same(
        exponential_step(x_t, x_0, ab, ab_prev), sqrt(ab_prev) * x_0 + sqrt(1 - ab_prev) * noise
    )  # DDIM
    u = sp.symbols("u", positive=True)
    by_integral = exp(-step_h) * x + sp.integrate(exp(u - step_h), (u, 0, step_h)) * x_0
    assert same(by_integral, exp(-step_h) * x + (1 - exp(-step_h)) * x_0)


def test_eq_two_m():
    line = sp.interpolate([(-before_h, y), (0, x_0)], x)
    assert same(two_m(x_0, y, step_h, before_h), line.subs(x, step_h / 2))


def test_eq_two_m_error():
    f, f1, f2, u = sp.symbols("f f1 f2 u", real=True)

    def curve(u):
        return f + f1 * u + f2 * u**2 / 2

    exact = sp.integrate(exp(u - step_h) * curve(u), (u, 0, step_h))
    error = exact - (1 - exp(-step_h)) * two_m(curve(0), curve(-step_h), step_h, step_h)
    leading = sp.series(sp.nsimplify(error, rational=True).expand(), step_h, 0, 4).removeO()
    assert same(leading, step_h**3 / 12 * (f1 + 5 * f2))


def test_eq_stochastic_flow():
    # Fokker-Planck: the added drift and the added noise cancel for any density
    p, sigma = sp.Function("p")(x), sp.symbols("sigma", positive=True)
    added = (
        -sp.diff(p * sigma**2 * sp.diff(sp.log(p), x), x) + sp.diff(p, x, 2) * (2 * sigma**2) / 2
    )
    assert sp.simplify(added) == 0


def test_eq_stochastic_step():
    u = sp.symbols("u", positive=True)
    variance = sp.integrate(exp(-4 * (step_h - u)) * 2 * exp(-2 * (lam + u)), (u, 0, step_h))
    assert sp.simplify(variance - exp(-2 * (lam + step_h)) * (1 - exp(-2 * step_h))) == 0
    assert same(stochastic_step(x_t, x_0, 0, ab, ab_prev), posterior_mean(x_0, x_t, ab, ab_prev))
    assert same(stochastic_step(0, 0, 1, ab, ab_prev) ** 2, posterior_variance(ab, ab_prev))


def test_eq_heun():
    # to second order: for the slope k x + l sigma, one step against the Taylor expansion of the
    # solution
    k, l, sigma, width = sp.symbols("k l sigma width", real=True)

    def field(x, sigma):
        return k * x + l * sigma

    ended = heun(x, field(x, sigma), field(x + width * field(x, sigma), sigma + width), width)
    taylor = x + width * field(x, sigma) + width**2 / 2 * (k * field(x, sigma) + l)
    assert same(ended, taylor)


def test_eq_heun_in_x0():
    noise, below, later = sp.symbols("noise below later", positive=True)
    euler = x_0 + below / noise * (x - x_0)
    assert same(
        heun(x, (x - x_0) / noise, (euler - later) / below, below - noise),
        euler + (noise - below) / (2 * below) * (later - x_0),
    )


def test_eq_edm_levels():
    low, high, i, rho = sp.symbols("low high i rho", positive=True)
    levels = (high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    assert same(levels.subs(i, 0), high) and same(levels.subs(i, n - 1), low)
    small = sp.symbols("small", positive=True)  # 1 / rho
    assert (
        sp.simplify(
            sp.limit(sp.log(1 + i / (n - 1) * (exp(small * a) - 1)) / small, small, 0)
            - i / (n - 1) * a
        )
        == 0
    )  # even in the logarithm


def test_eq_quantile_flow():
    # conservation of mass along the flow: dF/dt + velocity * p = 0, so F(x(t), t) does not change
    t, velocity = sp.symbols("t"), sp.Function("v")
    F = sp.Function("F")(x, t)
    flux = -velocity(x, t) * sp.diff(F, x)  # dF/dt, the continuity equation integrated once
    assert sp.simplify(flux + sp.diff(F, x) * velocity(x, t)) == 0
    sigma = sp.symbols("sigma", positive=True)
    x_bar = a * sqrt(
        sigma**2 + r**2
    )  # one Gaussian: x over the standard deviation is kept, and the flow's equation holds
    assert sp.simplify(sp.diff(x_bar, sigma) - sigma * x_bar / (sigma**2 + r**2)) == 0
