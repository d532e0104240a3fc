"""The labelled equations of "fidelity and diversity", in numbers."""

import pytest
import torch

import guided_diffusion_edu as gde
from guided_diffusion_edu.tradeoff import matching_scale
from helpers import DOUBLE, randn


def test_eq_told_ahead():
    mixture = gde.GaussianMixture(
        [[-1.0, 0.0], [0.5, 1.0], [1.0, -1.0]],
        [0.4, 0.7, 0.5],
        weights=[0.2, 0.5, 0.3],
        labels=[0, 1, 1],
    )
    x = randn(50, 2, seed=4)
    for label, prior in ((0, 0.2), (1, 0.8)):
        y, answer = torch.full((50,), label), mixture.class_log_probs(x)[:, label]
        for s in (0.0, 0.5, 3.0):
            # log p(x | y) + s log p(y | x) and log p(x) + (s + 1) log p(y | x): log p(y) apart
            told, not_told = mixture.log_prob(x, y) + s * answer, mixture.log_prob(x)
            apart = not_told + (s + 1) * answer - told
            assert torch.allclose(apart, torch.full((50,), prior, dtype=DOUBLE).log(), atol=1e-10)


def test_eq_matching_scale():
    x = torch.linspace(-15, 15, 20_001, dtype=DOUBLE)

    def spread(width, r, s):
        p = (-(x**2) / (2 * width**2) - s * (0.8 - x) ** 2 / (2 * r**2)).softmax(0)
        return (p @ (x - p @ x) ** 2).item()

    for width, r in ((1.25, 0.5), (1.5, 2.0), (0.8, 0.7)):
        assert spread(width, r, matching_scale(r, width)) == pytest.approx(
            spread(1.0, r, 1.0), rel=1e-8
        )
