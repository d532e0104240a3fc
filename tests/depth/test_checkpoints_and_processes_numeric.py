"""The labelled equation of "checkpoints and processes", in numbers."""

import torch

import guided_diffusion_edu as gde
from guided_diffusion_edu.training import LoopNetwork, Share, State, backward
from helpers import LINEAR, randn


def test_eq_shares():
    "The batch at once, in parts, and as the mean over two processes of rows k, k + 2, ..."
    x, eps, weight = randn(8, 1), randn(8, 1, seed=1), torch.arange(8.0)
    batch = (x, torch.zeros(8), torch.zeros(8), eps, weight)

    def loss(model, schedule, x_0, y, t, eps):
        return (model(x_0) - eps).square()[:, 0]

    def gradient(accumulate, rows=slice(None)):
        model, recipe = torch.nn.Linear(1, 1).double(), gde.Recipe(accumulate=accumulate)
        for p in model.parameters():
            torch.nn.init.constant_(p, 0.3)
        share = Share(*(part[rows] for part in batch))
        network, state = LoopNetwork(model, recipe), State(model, LINEAR, recipe)
        losses = backward(network, loss, state, share)
        assert torch.allclose(losses, loss(model, LINEAR, *share[:4]))
        return model.weight.grad

    whole = gradient(1)
    assert torch.allclose(whole, (weight * (2 * (0.3 * x + 0.3 - eps) * x)[:, 0]).mean())
    assert torch.allclose(gradient(4), whole)
    first, second = gradient(2, slice(0, None, 2)), gradient(1, slice(1, None, 2))
    assert torch.allclose((first + second) / 2, whole)
