"""The labelled equations of "guided chain", in numbers."""

import math

import pytest
import torch

import guided_diffusion_edu as gde
from guided_diffusion_edu.diffusion import small_variance
from guided_diffusion_edu.lab.quadrature import (
    class_distribution,
    eps_tilt,
    exact_class,
    exact_kernel,
    gaussian_kernel,
    guided_chain,
    hessian_tilt,
    matched_kernel,
    mean_tilt,
    moments_tilt,
    no_tilt,
    product_tilt,
    step_moments,
    total_variation,
    x_t_tilt,
)
from helpers import DOUBLE, LINE, LINEAR


def test_eq_chain_law():
    # Appendix H for the whole chain, to rounding, and no accident: without guidance it fails
    s = gde.respace(LINEAR, 12)
    for tilt, holds in ((product_tilt(exact_class(LINE, 1)), True), (no_tilt, False)):
        x, law = guided_chain(LINE, s, 1, exact_kernel(LINE), tilt)
        assert law.sum().item() == pytest.approx(1, abs=1e-12)
        assert (
            total_variation(law, class_distribution(LINE, 1, s.alpha_bars[0].item(), x)) < 1e-8
        ) == holds


def test_eq_matched_variance():
    x, below = torch.linspace(-2, 2, 9, dtype=DOUBLE), torch.linspace(-6, 6, 6001, dtype=DOUBLE)
    for count, i in ((25, 3), (25, 20), (10, 5)):
        s = gde.respace(LINEAR, count)
        weights = exact_kernel(LINE)(s, i, x, below)[0].softmax(1)
        mean, variance = step_moments(LINE, s, i, x)
        assert torch.allclose(mean, weights @ below, atol=1e-9)
        assert torch.allclose(variance, weights @ below**2 - (weights @ below) ** 2, atol=1e-9)


def test_eq_guided_variance():
    # against the moments of the exact kernel times the classifier, on a grid
    x, below, s = (
        torch.linspace(-1.5, 1.5, 7, dtype=DOUBLE),
        torch.linspace(-6, 6, 6001, dtype=DOUBLE),
        gde.respace(LINEAR, 25),
    )
    for i in (3, 12, 20):
        logs, mean = exact_kernel(LINE)(s, i, x, below)
        exact = (logs + product_tilt(exact_class(LINE, 1))(s, i, x, mean, below)).softmax(1)
        logs, mean = matched_kernel(LINE)(s, i, x, below)
        ours = (logs + moments_tilt(exact_class(LINE, 1), LINE)(s, i, x, mean, below)).softmax(1)
        for power in (1, 2):
            assert torch.allclose(ours @ below**power, exact @ below**power, atol=1e-6)


def test_eq_total_variation():
    x = torch.linspace(-10, 10, 4001, dtype=DOUBLE)
    for distance in (0.1, 1.0, 3.0):  # two unit Gaussians: 2 Phi(d / 2) - 1
        p, q = ((-((x - m) ** 2) / 2).softmax(0) for m in (0.0, distance))
        assert total_variation(p, q) == pytest.approx(math.erf(distance / 8**0.5), abs=1e-5)
    assert total_variation(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])) == 1


def test_eq_tilted_kernel():
    # one step from a chosen point: mean and variance of kernel times tilt are those of the
    # formulas, for every tilt
    s, log_class, i = gde.respace(LINEAR, 40), exact_class(LINE, 1), 12
    x, below = torch.tensor([0.4], dtype=DOUBLE), torch.linspace(-6, 6, 24_001, dtype=DOUBLE)
    logs, mean = gaussian_kernel(LINE)(s, i, x, below)
    variance, level, here = (
        small_variance(s)[i].item(),
        LINEAR.alpha_bars[s.timesteps[i - 1]].item(),
        LINEAR.alpha_bars[s.timesteps[i]].item(),
    )

    def derivatives(alpha_bar, at):
        at = at.clone().requires_grad_()
        (g,) = torch.autograd.grad(
            LINE.at(alpha_bar).class_log_probs(at[:, None])[:, 1].sum(), at, create_graph=True
        )
        return g.item(), torch.autograd.grad(g, at)[0].item()

    (g_mean, H), (g_here, _) = derivatives(level, mean), derivatives(here, x)
    exact = (s.betas[i] / s.alphas[i].sqrt()).item()
    narrowed = 1 / (1 / variance - min(H, 0.9 / variance))
    wanted = {
        mean_tilt: (variance * g_mean, variance),
        x_t_tilt: (variance * g_here, variance),
        eps_tilt: (exact * g_here, variance),
        hessian_tilt: (narrowed * g_mean, narrowed),
    }
    for tilt, (shift, width) in wanted.items():
        p = (logs + tilt(log_class)(s, i, x, mean, below)).softmax(1)[0]
        got = (p * below).sum()
        assert (got - mean).item() == pytest.approx(shift, abs=1e-9) and (
            p * (below - got) ** 2
        ).sum().item() == pytest.approx(width, abs=1e-9)
