"""The labelled equations of "noisy classifier", in numbers."""

import pytest
import torch

import guided_diffusion_edu as gde
from guided_diffusion_edu.classifier import AttentionPool
from helpers import LINEAR, WORLD, randn


def test_eq_attention_pool():
    pool, h = AttentionPool(8, 2, 4, 3).double(), randn(2, 8, 2, 2)
    for example in range(2):
        features = h[example].flatten(1).T  # (4, 8)
        tokens = torch.cat([features.mean(0)[None], features]) + pool.position.T  # (5, 8)
        q, k, v = (tokens @ pool.qkv.weight[:, :, 0].T + pool.qkv.bias).split(8, dim=1)
        got = torch.cat(
            [
                (q[0, part] @ k[:, part].T / 2).softmax(-1) @ v[:, part]
                for part in (slice(0, 4), slice(4, 8))
            ]
        )
        assert torch.allclose(pool(h)[example], pool.last.weight[:, :, 0] @ got + pool.last.bias)


def test_eq_noisy_cross_entropy():
    x_0, y, noise = randn(9, 2), torch.arange(9) % 3, randn(9, 2, seed=1)
    t = torch.linspace(0, 999, 9).long()
    wanted = [
        -WORLD.at(LINEAR.alpha_bars[t[i]].item())
        .class_log_probs(LINEAR.add_noise(x_0, t, noise)[i : i + 1])[0, y[i]]
        .item()
        for i in range(9)
    ]
    assert gde.classifier_loss(
        WORLD.classifier(LINEAR), LINEAR, x_0, y, t, noise
    ).tolist() == pytest.approx(wanted)
    heard = []  # on a short chain the classifier is told the step of the long one
    gde.classifier_loss(
        lambda x, t: heard.append(t) or torch.zeros(len(x), 3),
        gde.respace(LINEAR, 10),
        x_0[:2],
        y[:2],
        torch.tensor([0, 8]),
        noise[:2],
    )
    assert heard[0].tolist() == [0, 888]
