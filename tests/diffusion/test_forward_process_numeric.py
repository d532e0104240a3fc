"""The labelled equations of "forward process", in numbers."""

import math

import pytest
import torch

import guided_diffusion_edu as gde
from guided_diffusion_edu.schedules import schedule_from_alpha_bar
from helpers import DOUBLE, LINEAR, randn


def test_eq_forward_step():
    # one step of the package's chain, from alpha_bar to alpha_bar: mean factor sqrt(1 - beta),
    # variance beta
    s = gde.Schedule([0.1, 0.3])
    ratio = (s.alpha_bars[1] / s.alpha_bars[0]).item()
    assert ratio == pytest.approx(0.7) and (1 - s.alpha_bars[1]).item() == pytest.approx(
        0.7 * (1 - s.alpha_bars[0].item()) + 0.3
    )


def test_eq_alpha_bar():
    s = gde.Schedule([0.1, 0.2, 0.3])
    assert s.alpha_bars.tolist() == pytest.approx([0.9, 0.72, 0.504], abs=1e-15)
    assert s.alpha_bars_prev.tolist() == pytest.approx([1, 0.9, 0.72], abs=1e-15)


def test_eq_forward_marginal():
    x_0, noise, t = (
        randn(5, 3, 2, 2),
        randn(5, 3, 2, 2, seed=1),
        torch.tensor([0, 10, 500, 998, 999]),
    )
    for i in range(5):
        a = torch.prod(1 - LINEAR.betas[: t[i] + 1])
        assert torch.allclose(
            LINEAR.add_noise(x_0, t, noise)[i],
            a**0.5 * x_0[i] + (1 - a) ** 0.5 * noise[i],
            atol=1e-12,
        )


def test_eq_linear_schedule():
    for T in (1000, 250):
        betas = [1000 / T * (1e-4 + k / (T - 1) * (0.02 - 1e-4)) for k in range(T)]
        assert gde.linear_schedule(T).betas.tolist() == pytest.approx(betas, rel=1e-12)
    assert gde.linear_schedule().betas[[0, -1]].tolist() == pytest.approx([1e-4, 0.02])


def test_eq_cosine_schedule():
    def f(u):
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    s = gde.cosine_schedule(50)
    for t in (1, 2, 25, 49, 50):
        wanted = min(1 - f(t / 50) / f((t - 1) / 50), 0.999)
        assert s.betas[t - 1].item() == pytest.approx(wanted, rel=1e-9)


def test_eq_betas_from_curve():
    s = schedule_from_alpha_bar(lambda u: 3 * torch.exp(-2 * u - u**2), 20)
    u = torch.arange(1, 21, dtype=DOUBLE) / 20
    assert torch.allclose(s.alpha_bars, torch.exp(-2 * u - u**2), rtol=1e-12)
    assert schedule_from_alpha_bar(lambda u: 1 - u**8, 10, max_beta=0.3).betas.max() == 0.3
    for wrong in (lambda u: 1 + u, lambda u: torch.cos(9 * u), lambda u: 0.5 - u):
        with pytest.raises(ValueError, match="alpha_bar must be positive and fall"):
            schedule_from_alpha_bar(wrong, 10)


def test_eq_snr():
    assert torch.allclose(
        gde.log_snr(LINEAR).exp(), LINEAR.alpha_bars / (1 - LINEAR.alpha_bars), rtol=1e-9
    )


def test_eq_respaced_betas():
    for steps in (2, 25, 1000, "ddim50", [3, 4, 5]):
        short = gde.respace(LINEAR, steps)
        assert torch.allclose(short.alpha_bars, LINEAR.alpha_bars[short.timesteps], rtol=1e-12)
    assert gde.respace(LINEAR, 25).timesteps[:4].tolist() == [
        0,
        42,
        83,
        125,
    ]  # every 41.625th, rounded
    ten = gde.Schedule([0.1] * 10)
    assert gde.respace(ten, [2, 2, 2]).timesteps.tolist() == [
        0,
        3,
        4,
        6,
        7,
        9,
    ]  # sections of 4, 3, 3
    assert gde.respace(ten, "ddim5").timesteps.tolist() == [0, 2, 4, 6, 8]
    twice = gde.respace(gde.respace(LINEAR, 100), 10)
    assert torch.allclose(twice.alpha_bars, LINEAR.alpha_bars[twice.timesteps], rtol=1e-12)
    assert gde.respace(LINEAR, 2).betas[1].item() == pytest.approx(
        1 - (LINEAR.alpha_bars[999] / LINEAR.alpha_bars[0]).item()
    )


def test_eq_forward_between():
    short = gde.respace(LINEAR, [3, 3])  # its steps jump over many of the long chain's
    for i in range(1, 6):
        first, last = short.timesteps[i - 1].item(), short.timesteps[i].item()
        between = torch.prod(1 - LINEAR.betas[first + 1 : last + 1])
        assert short.alphas[i].item() == pytest.approx(between.item(), rel=1e-12)
