"""The labelled equations of "few steps", in numbers."""

import math

import pytest
import torch
from torch.distributions import Normal

import guided_diffusion_edu as gde
from guided_diffusion_edu.diffusion import posterior_mean, posterior_variance
from guided_diffusion_edu.lab.quadrature import (
    class_distribution,
)
from guided_diffusion_edu.samplers import guided_x_0
from guided_diffusion_edu.solvers import (
    edm_steps,
    exponential_step,
    flow_map,
    heun,
    mixture_cdf,
    noise_to_signal,
    stochastic_step,
    two_m,
)
from helpers import DOUBLE, LINE, LINEAR, WORLD, randn


def even_levels(n, low=0.05, high=20.0):
    "A schedule of n + 1 levels, even in log-SNR."
    noise = torch.linspace(math.log(low), math.log(high), n + 1, dtype=DOUBLE).exp()
    alpha_bars = 1 / (1 + noise**2)
    return gde.Schedule(1 - alpha_bars / torch.cat([torch.ones(1, dtype=DOUBLE), alpha_bars[:-1]]))


def flow_error(sampler, n, points=60):
    """Of n guided steps in one dimension, at the last level above the clean end, to the exact flow
    of class 0: the median, as points near the watershed of the two components decide any mean
    square.
    """
    s = even_levels(n)
    x_T = torch.special.ndtri((torch.arange(points) + 0.5).to(DOUBLE) / points)
    guidance = gde.exact_guidance(LINE, s, torch.zeros(points, dtype=torch.long))
    _, path = sampler(
        LINE.denoiser(s),
        s,
        (points, 1),
        guidance=guidance,
        x_T=x_T[:, None],
        clip=False,
        trajectory=True,
    )
    return (
        (path[-2][:, 0] - flow_map(LINE, x_T, s.alpha_bars[-1].item(), s.alpha_bars[0].item(), 0))
        .abs()
        .median()
        .item()
    )


def test_eq_flow_log_snr():
    # d x_bar / d lambda of the exact flow, by differences of the quantile map, is x_0 - x_bar
    x, noise, width = torch.tensor([-0.8, 0.1, 0.9], dtype=DOUBLE), 0.7, 1e-4

    def level(noise):
        return 1 / (1 + noise**2)

    moved = [
        flow_map(LINE, x * level(noise) ** 0.5, level(noise), level(noise * math.exp(-h)))
        / level(noise * math.exp(-h)) ** 0.5
        for h in (width, -width)
    ]
    estimate = gde.x_0_from_eps(
        x * level(noise) ** 0.5,
        -((1 - level(noise)) ** 0.5)
        * LINE.at(level(noise)).score(x[:, None] * level(noise) ** 0.5)[:, 0],
        level(noise),
    )
    assert torch.allclose((moved[0] - moved[1]) / (2 * width), estimate - x, atol=1e-6)
    step = (
        exponential_step(
            x * level(noise) ** 0.5, estimate, level(noise), level(noise * math.exp(-width))
        )
        / level(noise * math.exp(-width)) ** 0.5
        - x
    ) / width
    assert torch.allclose(step, estimate - x, atol=1e-3)


def test_eq_variation_of_constants():
    # the integral by a fine sum over the exact flow, against where the exact flow ends
    a, b = 1 / (1 + 2.0**2), 1 / (1 + 0.4**2)
    x, lambdas = (
        torch.tensor([-0.5, 0.2, 0.7], dtype=DOUBLE),
        torch.linspace(-math.log(2.0), -math.log(0.4), 401, dtype=DOUBLE),
    )
    total, h = torch.zeros(3, dtype=DOUBLE), (lambdas[1] - lambdas[0]).item()
    for k, lam in enumerate(lambdas.tolist()):
        level = 1 / (1 + math.exp(-2 * lam))
        here = flow_map(LINE, x, a, level)
        estimate = gde.x_0_from_eps(
            here, -((1 - level) ** 0.5) * LINE.at(level).score(here[:, None])[:, 0], level
        )
        weight = h / 3 * (1 if k in (0, 400) else 4 if k % 2 else 2)  # Simpson's rule
        total += weight * math.exp(lam - lambdas[-1].item()) * estimate
    ends = (0.4 / 2.0) * x / a**0.5 + total
    assert torch.allclose(ends, flow_map(LINE, x, a, b) / b**0.5, atol=1e-8)
    assert torch.allclose(
        exponential_step(x, torch.zeros(3, dtype=DOUBLE), a, b), b**0.5 * 0.2 * x / a**0.5
    )


def test_eq_exponential_step():
    # without memory it is DDIM to rounding, guided, down to the clean end
    s, y, x = gde.respace(LINEAR, 8), torch.arange(20) % 3, randn(20, 2)
    model, guidance, ended = WORLD.denoiser(LINEAR), gde.exact_guidance(WORLD, LINEAR, y, 2.0), None
    ended = gde.ddim_sample(model, s, x.shape, guidance=guidance, x_T=x, clip=False)
    for i in range(7, -1, -1):
        t, a = torch.full((20,), s.timesteps[i].item()), s.alpha_bars[i].item()
        x = exponential_step(
            x,
            guided_x_0(gde.x_0_from_eps(x, model(x, t), a), a, guidance(x, t)),
            a,
            s.alpha_bars_prev[i].item(),
        )
    assert torch.allclose(x, ended, atol=1e-11)


def test_eq_two_m():
    assert two_m(1.0, 0.4, 0.5, 0.25) == pytest.approx(
        1.6
    )  # the line through (-0.25, 0.4) and (0, 1), at 0.25
    errors = [flow_error(gde.dpmpp_2m_sample, n) for n in (60, 120)]
    assert 1.85 < math.log2(errors[0] / errors[1]) < 2.15
    assert 0.8 < math.log2(flow_error(gde.ddim_sample, 60) / flow_error(gde.ddim_sample, 120)) < 1.3
    assert errors[0] < 0.1 * flow_error(gde.ddim_sample, 60)


def test_eq_two_m_error():
    # one step along x_0(lambda) = sin(2 lambda + 0.3), integrated exactly by a fine sum
    def f(u):
        return math.sin(2 * u + 0.3)

    for h in (0.02, 0.01):
        u = (torch.arange(20_000) + 0.5).to(DOUBLE) / 20_000 * h
        exact = ((u - h).exp() * torch.sin(2 * u + 0.3)).mean().item() * h
        error = exact - (1 - math.exp(-h)) * two_m(f(0.0), f(-h), h, h)
        assert error == pytest.approx(
            h**3 / 12 * (2 * math.cos(0.3) - 5 * 4 * math.sin(0.3)), rel=6 * h
        )


def test_eq_stochastic_flow():
    # a short noisy step leaves mean and variance of the noised class right, to second order in its
    # length
    for h in (0.02, 0.01):
        noise = 0.8
        a, b = 1 / (1 + noise**2), 1 / (1 + (noise * math.exp(-h)) ** 2)
        x = torch.linspace(-9, 9, 4001, dtype=DOUBLE)
        law = class_distribution(LINE, 0, a, x)
        estimate = gde.x_0_from_eps(
            x,
            -((1 - a) ** 0.5)
            * LINE.at(a).score(x[:, None], torch.zeros(4001, dtype=torch.long))[:, 0],
            a,
        )
        mean, fresh = stochastic_step(x, estimate, 0.0, a, b), stochastic_step(0.0, 0.0, 1.0, a, b)
        below = class_distribution(LINE, 0, b, x)
        assert (law @ mean).item() == pytest.approx((below @ x).item(), abs=1e-9)
        variance = (law @ mean**2 - (law @ mean) ** 2).item() + fresh**2
        assert variance == pytest.approx((below @ x**2 - (below @ x) ** 2).item(), abs=4 * h**2)
        assert fresh**2 / b == pytest.approx(2 * h * noise**2, rel=3 * h)


def test_eq_stochastic_step():
    # the posterior's mean and variance; the package's sampler, number by number
    x, estimate = randn(5), randn(5, seed=1)
    for a, b in ((0.1, 0.3), (0.6, 0.95), (0.999, 1.0)):
        assert torch.allclose(
            stochastic_step(x, estimate, 0.0, a, b),
            posterior_mean(estimate, x, a, b),
            atol=1e-12,
        )
        assert stochastic_step(0.0, 0.0, 1.0, a, b) ** 2 == pytest.approx(
            posterior_variance(a, b), abs=1e-12
        )
    s, one = even_levels(4), gde.GaussianMixture([[0.3]], [0.5])
    x, g, before = randn(7, 1), torch.Generator().manual_seed(3), None
    drawn = gde.dpmpp_2m_sde_sample(
        one.denoiser(s), s, x.shape, x_T=x, clip=False, generator=torch.Generator().manual_seed(3)
    )
    for i in range(4, -1, -1):
        a, b = s.alpha_bars[i].item(), s.alpha_bars_prev[i].item()
        estimate = gde.x_0_from_eps(x, one.denoiser(s)(x, torch.full((7,), i)), a)
        middle = estimate if before is None or i == 0 else 1.5 * estimate - 0.5 * before
        x, before = (
            stochastic_step(x, middle, torch.randn(x.shape, dtype=DOUBLE, generator=g), a, b),
            estimate,
        )
    assert torch.allclose(x, drawn, atol=1e-10)


def test_eq_heun():
    assert heun(1.0, 2.0, 4.0, -0.1) == pytest.approx(0.7)
    errors = [flow_error(gde.heun_sample, n) for n in (60, 120)]
    assert 1.85 < math.log2(errors[0] / errors[1]) < 2.15


def test_eq_heun_in_x0():
    x, estimate, estimate_below, noise, below = 1.3, 0.4, 0.7, 2.0, 0.5
    euler = estimate + below / noise * (x - estimate)
    ended = heun(x, (x - estimate) / noise, (euler - estimate_below) / below, below - noise)
    assert ended == pytest.approx(
        euler + (noise - below) / (2 * below) * (estimate_below - estimate), abs=1e-12
    )


def test_eq_edm_levels():
    s = edm_steps(LINEAR, 12)
    noise, trained = noise_to_signal(s.alpha_bars), noise_to_signal(LINEAR.alpha_bars)
    low, high = trained[0].item(), trained[-1].item()
    wanted = torch.tensor(
        [(low ** (1 / 7) + i / 11 * (high ** (1 / 7) - low ** (1 / 7))) ** 7 for i in range(12)],
        dtype=DOUBLE,
    )
    assert len(s) == 12 and torch.allclose(s.alpha_bars, LINEAR.alpha_bars[s.timesteps])
    for k in range(12):
        assert (noise[k] / wanted[k]).log().abs() <= (trained / wanted[k]).log().abs().min() + 1e-12
    even = (
        (edm_steps(LINEAR, 6, rho=1e4).alpha_bars / (1 - edm_steps(LINEAR, 6, rho=1e4).alpha_bars))
        .log()
        .diff()
    )
    assert (even / even.mean() - 1).abs().max() < 0.05
    with pytest.raises(ValueError, match="steps must be few enough"):
        edm_steps(LINEAR, 200)


def test_eq_quantile_flow():
    # against the sampler in very many steps, and the closed form for one Gaussian
    one, x = gde.GaussianMixture([[0.0]], [0.5]), torch.tensor([-1.0, 0.3, 2.0], dtype=DOUBLE)
    a, b = 0.2, 0.9

    def spread(level):
        return (0.25 * level + 1 - level) ** 0.5

    assert torch.allclose(flow_map(one, x, a, b), x * spread(b) / spread(a), atol=1e-10)
    assert torch.allclose(mixture_cdf(one, x), Normal(0.0, 0.5).cdf(x), atol=1e-12)
    assert flow_error(gde.heun_sample, 200, 20) < 5e-4
