"""The labelled equations of "speed", in numbers."""

import pytest
import torch

import guided_diffusion_edu as gde
from guided_diffusion_edu.performance import (
    guided_cost,
    matmul_rate,
    speedup,
    utilisation,
)
from guided_diffusion_edu.unet import survey
from helpers import DOUBLE, LINEAR


def test_eq_utilisation():
    from itertools import count
    from unittest.mock import patch

    looks = count()
    with patch("guided_diffusion_edu.performance.time.perf_counter", lambda: next(looks) / 4):
        rate = matmul_rate(32, rounds=3)  # a product takes a quarter of a second
    assert rate == 2 * 32**3 * 4
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        torch.ones(32, 32) @ torch.ones(32, 32)
    assert (
        utilisation(counter.get_total_flops(), 0.25, rate) == 1
        and utilisation(counter.get_total_flops(), 0.5, rate) == 0.5
    )


def test_eq_amdahl():
    parts = torch.tensor([3.0, 5.0, 2.0], dtype=DOUBLE)
    for i, times in ((0, 3.0), (1, 10.0), (2, 0.5)):
        faster = parts.clone()
        faster[i] /= times
        assert speedup((parts[i] / parts.sum()).item(), times) == pytest.approx(
            (parts.sum() / faster.sum()).item()
        )


def test_eq_guided_cost():
    "Against the FLOPs that are counted in guided walks of which a part is guided."
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    shape = dict(
        image_size=8,
        in_channels=1,
        channels=32,
        channel_mult=(1, 2),
        res_blocks=1,
        attention_resolutions=(),
        head_channels=32,
    )
    model, classifier = (
        gde.UNet(gde.UNetConfig(**shape)),
        gde.Classifier(gde.ClassifierConfig(**shape, num_classes=3)).requires_grad_(False),
    )
    x, t = torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.long)
    unet, opinion = (
        sum(part.flops for part in survey(network, x, t)) for network in (model, classifier)
    )
    short, guidance = (
        gde.respace(LINEAR, 10),
        gde.classifier_guidance(lambda x, t: classifier(x + 0, t), torch.tensor([0, 2])),
    )  # no leaf: the counter stumbles over one
    for first, last in ((0, 999), (0, 500), (300, 700), (2000, 3000)):
        share = ((first <= short.timesteps) & (short.timesteps <= last)).double().mean().item()
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            gde.ddim_sample(
                model, short, x.shape, guidance=gde.interval_guidance(guidance, first, last), x_T=x
            )
        assert counter.get_total_flops() / (10 * unet) == pytest.approx(
            guided_cost(unet, opinion, share), rel=0.02
        )
