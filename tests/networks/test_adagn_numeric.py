"""The labelled equations of "adagn", in numbers."""

import math

import pytest
import torch

import guided_diffusion_edu as gde
from guided_diffusion_edu.layers import AddedNorm, Norm, ResBlock, attend, halve, queries_first
from helpers import DOUBLE, randn


def test_eq_timestep_embedding():
    emb = gde.timestep_embedding(torch.tensor([7]), 6)[0].double()
    omega = [10000 ** (-j / 3) for j in range(3)]
    wanted = [math.cos(7 * w) for w in omega] + [math.sin(7 * w) for w in omega]
    assert emb.tolist() == pytest.approx(wanted, abs=1e-5)


def test_eq_group_norm():
    norm, h = Norm(8, groups=4).double(), randn(3, 8, 5, 5)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    groups = h.view(3, 4, -1)
    wanted = (
        (groups - groups.mean(-1, keepdim=True))
        / (groups.var(-1, unbiased=False, keepdim=True) + 1e-5) ** 0.5
    ).view_as(h)
    wanted = wanted * norm.weight[:, None, None] + norm.bias[:, None, None]
    assert torch.allclose(norm(h), wanted)
    shift = torch.tensor([1.0, 1, -2, -2, 5, 5, 0, 0], dtype=DOUBLE)[
        :, None, None
    ]  # constant within each group
    assert torch.allclose(norm(h + shift), norm(h), atol=1e-9)


def test_eq_added_norm():
    layer, h, emb = (
        AddedNorm(8, 6, groups=4).double(),
        randn(3, 8, 5, 5) + randn(8, 1, 1, seed=1),
        randn(3, 6, seed=2),
    )
    torch.nn.init.normal_(layer.norm.weight)
    torch.nn.init.normal_(layer.norm.bias)
    e = layer.project(emb * torch.sigmoid(emb))[:, :, None, None].expand_as(h).reshape(3, 4, -1)
    x = h.view(3, 4, -1)
    x, e = (part - part.mean(-1, keepdim=True) for part in (x, e))  # within each group
    v = (
        (x**2).mean(-1, keepdim=True)
        + 2 * (x * e).mean(-1, keepdim=True)
        + (e**2).mean(-1, keepdim=True)
    )
    normalised = (x + e) / (v + 1e-5) ** 0.5
    assert (
        torch.allclose(normalised.square().mean(-1, keepdim=True), v / (v + 1e-5))
        and normalised.mean(-1).abs().max() < 1e-9
    )
    wanted = (
        normalised.view_as(h) * layer.norm.weight[:, None, None] + layer.norm.bias[:, None, None]
    )
    assert torch.allclose(layer(h, emb), wanted)


def test_eq_adagn():
    layer, h, emb = gde.AdaGN(8, 6, groups=4).double(), randn(2, 8, 3, 3), randn(2, 6)
    y = layer.project(emb * torch.sigmoid(emb))
    for c in range(8):
        gain, shift = 1 + y[:, c], y[:, 8 + c]
        assert torch.allclose(
            layer(h, emb)[:, c], gain[:, None, None] * layer.norm(h)[:, c] + shift[:, None, None]
        )


def test_eq_res_block():
    block, x, emb = (
        ResBlock(4, 6, out_channels=8, resample=halve, groups=2).double(),
        randn(2, 4, 6, 6),
        randn(2, 6, seed=1),
    )
    pool, silu = torch.nn.functional.avg_pool2d, lambda h: h * torch.sigmoid(h)
    skip = torch.nn.functional.conv2d(pool(x, 2), block.skip.weight, block.skip.bias)
    assert torch.allclose(block(x, emb), skip)  # fresh: the skip and nothing else
    block(x, emb).square().sum().backward()
    assert (
        block.last.weight.grad.abs().max()
        > 0
        == block.conv.weight.grad.abs().max()
        == block.adagn.project.weight.grad.abs().max()
    )
    torch.nn.init.normal_(block.last.weight)
    torch.nn.init.normal_(block.last.bias)
    h = torch.nn.functional.conv2d(
        pool(silu(block.norm(x)), 2), block.conv.weight, block.conv.bias, padding=1
    )
    correction = torch.nn.functional.conv2d(
        silu(block.adagn(h, emb)), block.last.weight, block.last.bias, padding=1
    )
    assert torch.allclose(block(x, emb), skip + correction)


def test_eq_head_order():
    heads, d = 2, 4
    rows = randn(heads * 3 * d, 5)
    moved = queries_first(rows, heads)
    for n in range(heads):
        for j in range(3):
            for i in range(d):
                assert torch.equal(moved[(j * heads + n) * d + i], rows[(3 * n + j) * d + i])


def test_eq_attention():
    qkv = randn(2, 3 * 8, 5)
    out = attend(qkv, heads=2)
    for head in range(2):
        q, k, v = (qkv[0, part * 8 + head * 4 : part * 8 + head * 4 + 4].T for part in range(3))
        assert torch.allclose(out[0, head * 4 : head * 4 + 4].T, (q @ k.T / 2).softmax(-1) @ v)
