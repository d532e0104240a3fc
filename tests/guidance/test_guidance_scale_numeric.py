"""The labelled equations of "guidance scale", in numbers."""

import pytest
import torch
from torch.distributions import Normal

import guided_diffusion_edu as gde
from guided_diffusion_edu.lab.linear_gaussian import (
    ddim_variance,
    ddpm_variance,
    target_variance,
    toy_guidance,
    toy_model,
    toy_moments,
    toy_step_at_mean,
    toy_step_at_x_t,
    toy_step_by_eps,
    toy_step_ddim,
)
from helpers import DOUBLE, LINEAR, lab_target, randn


def test_eq_tilted_target():
    # at s = 1 guided DDIM in the laboratory reaches it, at s = 2 it does not
    for s, reached in ((1.0, True), (2.0, False)):
        mean, variance = toy_moments(lambda i: toy_step_ddim(LINEAR, i, 0.7, 1.0, s), LINEAR)
        target = lab_target(0.7, 1.0, s)
        assert (abs(mean - target[0]) < 0.01 and abs(variance - target[1]) < 0.01) == reached
        assert target_variance(0.7, s) == pytest.approx(target[1], abs=1e-9)


def test_eq_lab_gradient():
    x, r = randn(6, 1).requires_grad_(), 0.6
    for t in (3, 300, 999):
        a = LINEAR.alpha_bars[t].item()
        (by_autograd,) = torch.autograd.grad(
            Normal(a**0.5 * x, (1 - a + r**2) ** 0.5)
            .log_prob(torch.tensor(1.3, dtype=DOUBLE))
            .sum(),
            x,
        )
        assert torch.allclose(
            toy_guidance(LINEAR, r, 1.3, 2.0)(x.detach(), torch.full((6,), t)), 2 * by_autograd
        )
        one = gde.GaussianMixture([[0.0]], [1.0])
        assert torch.allclose(
            toy_model(LINEAR)(x.detach(), torch.full((6,), t)),
            one.denoiser(LINEAR)(x.detach(), torch.full((6,), t)),
        )


def test_eq_lab_recursion():
    # the package's samplers, number by number, and the moments of their samples
    s = gde.respace(LINEAR, 20)
    rules = {
        toy_step_at_x_t: (gde.ddpm_sample, dict(variance="large")),
        toy_step_at_mean: (gde.ddpm_sample, dict(variance="large", gradient_at="mean")),
        toy_step_ddim: (gde.ddim_sample, {}),
    }
    for step, (sampler, options) in rules.items():
        x_T, g = randn(40_000, 1, seed=8), torch.Generator().manual_seed(0)
        drawn = sampler(
            toy_model(LINEAR),
            s,
            x_T.shape,
            x_T=x_T,
            clip=False,
            guidance=toy_guidance(LINEAR, 0.5, 1.0, 2.0),
            generator=torch.Generator().manual_seed(0),
            **options,
        )
        x = x_T
        for i in range(19, -1, -1):
            a, b, c = step(s, i, 0.5, 1.0, 2.0)
            x = a * x + b + c * torch.randn(x.shape, dtype=DOUBLE, generator=g)
        assert (drawn - x).abs().max() < 1e-10
        mean, variance = toy_moments(lambda i: step(s, i, 0.5, 1.0, 2.0), s)
        assert drawn.mean().item() == pytest.approx(
            mean, abs=0.02
        ) and drawn.var().item() == pytest.approx(variance, rel=0.04)


def test_eq_law_target():
    for r, s in ((0.5, 1.0), (0.5, 8.0), (2.0, 0.3)):
        assert target_variance(r, s) == pytest.approx(lab_target(r, 0.4, s)[1], abs=1e-8)


def in_the_limit(step, r, scale):
    "Variance at infinitely many steps, from 1000 and 2000 by Richardson's extrapolation."
    values = [
        toy_moments(lambda i: step(s, i, r, 0.0, scale), s)[1]
        for s in (gde.linear_schedule(1000), gde.linear_schedule(2000))
    ]
    return 2 * values[1] - values[0]


def test_eq_law_ddpm():
    for r, s in ((0.5, 0.5), (0.5, 1.0), (0.5, 2.0), (1.5, 3.0)):
        for step in (toy_step_at_x_t, toy_step_at_mean, toy_step_by_eps):
            assert in_the_limit(step, r, s) == pytest.approx(ddpm_variance(r, s), rel=2e-3)
    assert ddpm_variance(0.5, 2.0) == pytest.approx(0.0827, abs=1e-4) and ddpm_variance(
        0.5, 8.0
    ) == pytest.approx(0.0167, abs=1e-4)


def test_eq_law_ddim():
    for r, s in ((0.5, 0.5), (0.5, 1.0), (0.5, 2.0), (1.5, 3.0)):
        assert in_the_limit(toy_step_ddim, r, s) == pytest.approx(ddim_variance(r, s), rel=2e-3)


def test_eq_place_error():
    r, s = 0.7, gde.respace(LINEAR, 30)
    for i in (2, 10, 25):
        alpha, beta, before = s.alphas[i].item(), s.betas[i].item(), s.alpha_bars_prev[i].item()
        curvature, x = before / (1 - before + r**2), 0.4
        shift = {
            step: (a * x + b) - alpha**0.5 * x
            for step in (toy_step_at_mean, toy_step_at_x_t, toy_step_by_eps)
            for a, b, _ in [step(s, i, r, 1.0, 1.0)]
        }
        # exact by Bayes' rule for two Gaussians: prior N(sqrt(alpha) x, beta), measurement of
        # sqrt(before) x_{t-1}
        prior, gain = alpha**0.5 * x, before**0.5
        exact = beta * gain * (1.0 - gain * prior) / (gain**2 * beta + 1 - before + r**2)
        assert shift[toy_step_by_eps] == pytest.approx(exact, rel=1e-9)
        assert shift[toy_step_at_mean] / exact == pytest.approx(
            1 + beta * curvature, rel=1e-9
        ) and shift[toy_step_at_x_t] / exact == pytest.approx(alpha**0.5, rel=1e-9)
