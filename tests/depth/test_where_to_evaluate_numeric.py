"""The labelled equations of "where to evaluate", in numbers."""

import pytest
import torch

from guided_diffusion_edu.lab.evaluation_point import third_order_shift
from helpers import DOUBLE


def test_eq_third_order_shift():
    z = torch.linspace(-12, 12, 40_001, dtype=DOUBLE)
    g, H, T = 0.7, -1.1, 0.9  # log p = g d + H d^2 / 2 + T d^3 / 6 - d^4 / 10, to be integrable

    def off(variance):
        d = z * variance**0.5
        weights = (g * d + H * d**2 / 2 + T * d**3 / 6 - d**4 / 10 - z**2 / 2).softmax(0)
        return (weights * d).sum().item() - third_order_shift(variance, g, H, T)

    assert off(0.01) / off(0.005) == pytest.approx(8, abs=0.4)
