"""The labelled equations of "training", in numbers."""

import pytest
import torch

from guided_diffusion_edu.training import clip_gradient, moving_average
from helpers import randn


def test_eq_ema():
    model = torch.nn.Linear(2, 2)
    start = model.weight.detach().clone()
    average = moving_average(model, 0.8)
    torch.nn.init.ones_(model.weight)
    average.update_parameters(model)
    assert torch.allclose(average.module.weight, 0.8 * start + 0.2)


def test_eq_clip():
    model = torch.nn.Linear(3, 2).double()
    for length, c in ((5.0, 1.0), (0.3, 1.0), (40.0, 2.0)):
        g = randn(8)
        g = g / g.norm() * length
        model.weight.grad, model.bias.grad = g[:6].view(2, 3).clone(), g[6:].clone()
        assert clip_gradient(model, c).item() == pytest.approx(length)
        cut = torch.cat([model.weight.grad.flatten(), model.bias.grad])
        assert torch.allclose(cut, g * min(1, c / length), rtol=1e-5)
