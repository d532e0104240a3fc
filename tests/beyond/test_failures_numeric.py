"""The labelled equations of "failures", in numbers."""

import pytest
import torch

import guided_diffusion_edu as gde
from guided_diffusion_edu.diagnostics import (
    contrast,
    dynamic_threshold,
    early_push,
    means_gradient,
    mode_shares,
    target_contrast,
    target_shares,
    transfer_gap,
)
from guided_diffusion_edu.lab.linear_gaussian import (
    toy_guidance,
    toy_model,
    toy_moments,
    toy_step_ddim,
)
from guided_diffusion_edu.schedules import schedule_from_alpha_bar
from helpers import BLUNT, DOUBLE, LINEAR, WORLD, gaussian_log, lab_target, randn

# ---- where guidance goes wrong


def test_eq_transfer_gap():
    x, y = torch.arange(10.0), torch.tensor([0, 1] * 5)
    fooled, honest = (lambda x: torch.tensor([0, 1] * 5)), (lambda x: (x > 4).long())
    assert transfer_gap(x, y, fooled, honest) == pytest.approx(
        0.5 + 0.5 - (honest(x) == y).double().mean().item()
    )
    assert (
        transfer_gap(x, y, honest, fooled) == -transfer_gap(x, y, fooled, honest)
        and transfer_gap(x, y, honest, honest) == 0
    )


def test_eq_contrast():
    # the package's sampler in the laboratory, on a picture of many pixels
    s, r = gde.respace(LINEAR, 30), 0.8
    x_0, noise, x_T = randn(3, 1, 40_000)
    guidance = toy_guidance(LINEAR, r, x_0 + r * noise, 3.0)
    drawn = gde.ddim_sample(toy_model(LINEAR), s, x_T.shape, guidance=guidance, x_T=x_T, clip=False)
    slope, variance = toy_moments(lambda i: toy_step_ddim(s, i, r, 1.0, 3.0), s)
    assert drawn.std().item() == pytest.approx(contrast(slope, variance, r), rel=0.02)


def test_eq_contrast_target():
    for r, s in ((0.5, 1.0), (0.5, 4.0), (2.0, 7.0)):
        mean, variance = lab_target(r, 1.0, s)
        assert target_contrast(r, s) == pytest.approx(
            (mean**2 * (1 + r**2) + variance) ** 0.5, rel=1e-6
        )


def test_eq_dynamic_threshold():
    x = torch.stack([0.5 * torch.linspace(-1, 1, 101), 3 * torch.linspace(-1, 1, 101)]).double()[
        :, None
    ]
    edited = dynamic_threshold(0.9)(x, None)
    assert torch.equal(edited[0], x[0])  # inside: not touched
    assert torch.allclose(edited[1], (x[1] / 2.7).clamp(-1, 1)) and edited.abs().max() <= 1
    assert torch.allclose(dynamic_threshold(1.0)(x, None)[1], x[1] / 3)


def test_eq_mode_shares():
    x = WORLD.sample(40_000, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(mode_shares(WORLD, x), WORLD.weights, atol=0.01)
    chosen = torch.zeros(40_000, dtype=DOUBLE)
    chosen[7] = 3.0
    parts = torch.stack(
        [
            w.log() + gaussian_log(x[7], m, std**2 * torch.eye(2, dtype=DOUBLE))
            for w, m, std in zip(WORLD.weights, WORLD.means, (0.3, 0.5, 0.4, 0.6))
        ]
    )
    assert (
        torch.allclose(mode_shares(WORLD, x, chosen), parts.softmax(0)) and WORLD.num_classes == 3
    )  # the world itself is as it was


def test_eq_kept_modes():
    # by sampling each component: w_k E_k[p^s]; the other classes' own part counts too
    points, s = torch.linspace(-4, 4, 1601, dtype=DOUBLE)[:, None], 3.0
    draws = BLUNT.means[:, 0] + BLUNT.variances[:, 0].sqrt() * randn(200_000, 3)
    worth = (
        torch.stack(
            [(s * BLUNT.class_log_probs(draws[:, k : k + 1])[:, 1]).exp().mean() for k in range(3)]
        )
        * BLUNT.weights
    )
    assert torch.allclose(target_shares(BLUNT, 1, s, points), worth / worth.sum(), atol=3e-3)
    apart = gde.GaussianMixture(
        [[-2.0], [0.0], [2.0]], [0.2] * 3, weights=[0.1, 0.5, 0.4], labels=[1, 0, 1]
    )
    for s in (1.0, 20.0):
        assert torch.allclose(
            target_shares(apart, 1, s, points),
            torch.tensor([0.2, 0.0, 0.8], dtype=DOUBLE),
            atol=0.01,
        )


def test_eq_gradient_of_means():
    x, y = randn(20, 2), torch.arange(20) % 3
    for level in (5, 300, 900):
        t = torch.full((20,), level)
        assert torch.allclose(
            means_gradient(WORLD, LINEAR, x, t, y),
            gde.classifier_guidance(WORLD.classifier(LINEAR), y)(x, t),
            atol=1e-7,
        )


def test_eq_early_push():
    faint, x = schedule_from_alpha_bar(lambda u: 10 ** (-8 * u), 10), randn(6, 2)
    g = gde.classifier_guidance(WORLD.classifier(faint), torch.ones(6, dtype=torch.long))(
        x, torch.full((6,), 9)
    )
    push = early_push(WORLD, 1, faint.alpha_bars[9].item())
    means = WORLD.means
    assert torch.allclose(
        push / faint.alpha_bars[9] ** 0.5,
        (2 * means[1] + 3 * means[2]) / 5
        - (means[0] + 2 * means[1] + 3 * means[2] + 4 * means[3]) / 10,
    )
    assert torch.allclose(g, push.expand_as(g), rtol=2e-2)
