"""The labelled equations of "sdes and flows", in numbers."""

import math

import pytest
import torch

import guided_diffusion_edu as gde
from guided_diffusion_edu.flows import (
    eps_from_flow,
    flow_eps_model,
    flow_guidance,
    flow_sample,
    flow_time,
    guided_score,
    guided_velocity,
    model_velocity,
    reverse_drift,
    sde_sample,
    to_flow,
    velocity_from_eps,
    vp_rate,
)
from helpers import DOUBLE, LINE, LINEAR, WORLD, randn


def test_eq_vp_sde():
    # the rate is the same curve for any number of steps, and its integral is -log alpha_bar
    for T in (500, 4000):
        s = gde.linear_schedule(T)
        assert torch.allclose((-vp_rate(s).cumsum(0) / T).exp(), s.alpha_bars, atol=1e-12)
        assert vp_rate(s)[T // 2].item() == pytest.approx(
            0.1 + 19.9 / 2, rel=0.03
        )  # of the linear schedule: from 0.1 to 20


def test_eq_fokker_planck():
    # both sides in the exact world, for a process that is not the family's: drift -x / 2, noise 1,
    # the way up
    x, level, h = torch.linspace(-2, 2, 41, dtype=DOUBLE)[:, None].requires_grad_(), 0.6, 1e-5

    def grad(values):
        return torch.autograd.grad(values.sum(), x, create_graph=True)[0]

    def density(a):
        return LINE.at(a).log_prob(x).exp()

    change = (density(level * math.exp(-h)) - density(level * math.exp(h))) / (2 * h)
    p = density(level)[:, None]
    assert torch.allclose(change, (-grad(-x / 2 * p) + grad(grad(p)) / 2)[:, 0], atol=1e-6)
    # back, any amount of noise
    for kappa in (0.0, 1.0, 2.0):
        assert torch.allclose(
            -change,
            (-grad(reverse_drift(x, grad(p.log()), 1.0, kappa) * p) + kappa / 2 * grad(grad(p)))[
                :, 0
            ],
            atol=1e-6,
        )


def test_eq_reverse_family():
    # one short step of each process leaves mean and variance of the exact law right to first order;
    # the sampler takes that step
    s = gde.Schedule([0.3, 1e-3])
    one = gde.GaussianMixture([[0.4]], [0.6])
    before, after = one.at(s.alpha_bars[1].item()), one.at(s.alpha_bars[0].item())
    x, _draws = randn(300_000, 1) * before.variances.sqrt() + before.means, {}
    for kappa in (0.0, 1.0, 2.0):
        _, path = sde_sample(
            one.denoiser(s),
            s,
            x.shape,
            kappa=kappa,
            x_T=x,
            clip=False,
            generator=torch.Generator().manual_seed(1),
            trajectory=True,
        )
        span = -math.log(1 - 1e-3)
        z = torch.randn(x.shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
        assert torch.allclose(
            path[1],
            x + reverse_drift(x, before.score(x), span, kappa) + (kappa * span) ** 0.5 * z,
            atol=1e-9,
        )
        gain = 1 + span / 2 * (1 - (1 + kappa) / before.variances.item())
        assert gain**2 * before.variances.item() + kappa * span == pytest.approx(
            after.variances.item(), abs=5e-6
        )
    with pytest.raises(ValueError, match="kappa"):
        sde_sample(one.denoiser(s), s, (2, 1), kappa=-1.0)


def test_eq_guided_score():
    x, y = randn(8, 2), torch.arange(8) % 3
    for level in (10, 500):
        t, a = torch.full((8,), level), LINEAR.alpha_bars[level].item()
        eps, g = WORLD.denoiser(LINEAR)(x, t), gde.exact_guidance(WORLD, LINEAR, y)(x, t)
        assert torch.allclose(guided_score(eps, a, g), WORLD.at(a).score(x, y), atol=1e-9)
        assert torch.allclose(guided_score(eps, a, 3 * g), WORLD.at(a).score(x) + 3 * g, atol=1e-9)


def test_eq_linear_path():
    x_0, e, t = randn(4, 2), randn(4, 2, seed=1), torch.tensor([0, 200, 600, 999])
    for k in range(4):
        a = LINEAR.alpha_bars[t[k]].item()
        tau = flow_time(a)
        assert torch.allclose(
            to_flow(LINEAR.add_noise(x_0, t, e)[k], a), (1 - tau) * x_0[k] + tau * e[k], atol=1e-12
        )


def test_eq_velocity():
    # E[eps - x_0 | x_tau] by a grid, in the three-component world, given the class and not
    grid, x = (
        torch.linspace(-6, 6, 12_001, dtype=DOUBLE),
        torch.tensor([[0.3], [-0.5]], dtype=DOUBLE),
    )
    for level in (100, 700):
        tau = flow_time(LINEAR.alpha_bars[level]).expand(2)
        for label in (None, torch.ones(2, dtype=torch.long)):
            prior = LINE.log_prob(
                grid[:, None], None if label is None else torch.ones(len(grid), dtype=torch.long)
            )
            noise = (x - (1 - tau[0]) * grid) / tau[0]
            wanted = ((prior - noise**2 / 2).softmax(1) * (noise - grid)).sum(1)
            assert torch.allclose(
                model_velocity(LINE.denoiser(LINEAR), LINEAR)(x, tau, label)[:, 0],
                wanted,
                atol=1e-8,
            )
    assert velocity_from_eps(0.6 * 2.0 + 0.4 * -1.0, -1.0, 0.4) == pytest.approx(-3.0)


def test_eq_path_change():
    for a in (0.01, 0.5, 0.99):
        tau = flow_time(a)
        assert (1 - tau) / tau == pytest.approx((a / (1 - a)) ** 0.5) and to_flow(
            1.0, a
        ) == pytest.approx((1 - tau) / a**0.5)
        assert a == pytest.approx((1 - tau) ** 2 / ((1 - tau) ** 2 + tau**2))


def test_eq_flow_to_eps():
    x_0, e = randn(3), randn(3, seed=1)
    for a in (0.05, 0.7):
        assert torch.allclose(
            eps_from_flow(a**0.5 * x_0 + (1 - a) ** 0.5 * e, e - x_0, a), e, atol=1e-12
        )
    x, t = randn(4, 1), torch.tensor([0, 30, 500, 999])
    model = LINE.denoiser(LINEAR)
    assert torch.allclose(
        flow_eps_model(model_velocity(model, LINEAR), LINEAR)(x, t), model(x, t), atol=1e-9
    )


def test_eq_guided_velocity():
    x, y, tau = (
        randn(6, 2),
        torch.arange(6) % 3,
        flow_time(LINEAR.alpha_bars)[[5, 100, 300, 500, 800, 999]],
    )
    velocity = model_velocity(WORLD.denoiser(LINEAR), LINEAR)
    g = flow_guidance(gde.exact_guidance(WORLD, LINEAR, y), LINEAR)(x, tau)
    assert torch.allclose(
        guided_velocity(velocity(x, tau), tau[:, None], g), velocity(x, tau, y), atol=1e-8
    )
    assert torch.allclose(
        guided_velocity(velocity(x, tau), tau[:, None], 2 * g),
        2 * velocity(x, tau, y) - velocity(x, tau),
        atol=1e-8,
    )


def test_eq_euler_is_ddim():
    s, y, x = gde.respace(LINEAR, 6), torch.arange(20) % 3, randn(20, 2)
    guidance = gde.exact_guidance(WORLD, LINEAR, y, 2.0)
    times = flow_time(s.alpha_bars).flip(0)
    drawn = flow_sample(
        model_velocity(WORLD.denoiser(LINEAR), LINEAR),
        times,
        to_flow(x, s.alpha_bars[-1].item()),
        guidance=flow_guidance(guidance, LINEAR),
    )
    assert torch.allclose(
        drawn,
        gde.ddim_sample(WORLD.denoiser(LINEAR), s, x.shape, guidance=guidance, x_T=x, clip=False),
        atol=1e-9,
    )
    with pytest.raises(ValueError, match="times must fall"):
        flow_sample(None, times.flip(0), x)
