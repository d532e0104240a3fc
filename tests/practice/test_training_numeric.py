"""The labelled equations of "training", in numbers."""

import pytest
import torch

from guided_diffusion_edu.training import backward, clip_gradient, moving_average
from helpers import randn


def test_eq_ema():
    model = torch.nn.Linear(2, 2)
    start = model.weight.detach().clone()
    average = moving_average(model, 0.8)
    torch.nn.init.ones_(model.weight)
    average.update_parameters(model)
    assert torch.allclose(average.module.weight, 0.8 * start + 0.2)


def test_eq_shares():
    """The whole batch at once, in parts one after another, and as the mean over two processes of
    rows k, k + 2, ...
    """
    batch, idle = (
        (randn(8, 1), torch.zeros(8), torch.zeros(8), randn(8, 1, seed=1)),
        torch.amp.GradScaler("cpu", enabled=False),
    )

    def loss(model, schedule, x_0, y, t, eps):
        return (model(x_0) - eps).square()[:, 0]

    def gradient(accumulate, rows=slice(None)):
        model = torch.nn.Linear(1, 1).double()
        for p in model.parameters():
            torch.nn.init.constant_(p, 0.3)
        share = [part[rows] for part in batch]
        losses = backward(model, loss, None, share, torch.arange(8.0)[rows], idle, accumulate)
        assert torch.allclose(losses, loss(model, None, *share))
        return model.weight.grad

    whole = gradient(1)
    x, eps, weight = batch[0][:, 0], batch[3][:, 0], torch.arange(8.0)
    assert torch.allclose(whole, (weight * 2 * (0.3 * x + 0.3 - eps) * x).mean())
    assert torch.allclose(gradient(4), whole) and torch.allclose(
        (gradient(2, slice(0, None, 2)) + gradient(1, slice(1, None, 2))) / 2, whole
    )


def test_eq_clip():
    model = torch.nn.Linear(3, 2).double()
    for length, c in ((5.0, 1.0), (0.3, 1.0), (40.0, 2.0)):
        g = randn(8)
        g = g / g.norm() * length
        model.weight.grad, model.bias.grad = g[:6].view(2, 3).clone(), g[6:].clone()
        assert clip_gradient(model, c).item() == pytest.approx(length)
        cut = torch.cat([model.weight.grad.flatten(), model.bias.grad])
        assert torch.allclose(cut, g * min(1, c / length), rtol=1e-5)
