"""The labelled equations of "leaderboard", in numbers."""

import itertools

import pytest
import torch
from torch.distributions import Normal

import guided_diffusion_edu as gde
from guided_diffusion_edu.lab.leaderboard import (
    BINS,
    METHODS,
    edm_levels,
    map_variation,
    pushforward,
    sample_entry,
    sampling_floor,
    score_table,
    tilted_distribution,
)
from guided_diffusion_edu.lab.quadrature import total_variation
from guided_diffusion_edu.solvers import mixture_cdf
from helpers import DOUBLE, LINE, LINEAR


def test_eq_pushed_law():
    # a map that keeps the order, by the distribution function; one that folds, by hand; and a
    # sampler's law against samples of the same sampler
    z, bins = torch.linspace(-6, 6, 4001, dtype=DOUBLE), torch.linspace(-3, 9, 41, dtype=DOUBLE)
    masses = torch.special.ndtr(z).diff()
    wanted = torch.special.ndtr(torch.asinh((bins - 1) / 2)).diff()
    assert torch.allclose(pushforward(1 + 2 * torch.sinh(z), masses, bins), wanted, atol=1e-5)
    folded = pushforward(z.abs(), masses, bins)
    assert (
        torch.allclose(folded[11:], 2 * torch.special.ndtr(bins[11:]).diff(), atol=1e-5)
        and folded[:10].sum() < 1e-9
    )
    exact, sampled = (
        METHODS["2M"](LINE, LINEAR, 0, 1.0, 10),
        sample_entry(gde.dpmpp_2m_sample, edm_levels, 20_000)(LINE, LINEAR, 0, 1.0, 10),
    )
    assert total_variation(exact, sampled) < 1.4 * sampling_floor(exact, 20_000)
    assert exact.sum().item() == pytest.approx(1, abs=1e-3)


def test_eq_map_variation():
    # two Gaussians that differ in mean and width
    z, start, wide = torch.linspace(-9, 9, 6001, dtype=DOUBLE), Normal(0.0, 1.0), Normal(0.3, 1.2)
    x = torch.linspace(-12, 12, 20_001, dtype=DOUBLE)
    pushed = Normal(0.1, 0.5)  # of the map z / 2 + 0.1
    wanted = (
        0.5 * torch.trapezoid((pushed.log_prob(x).exp() - wide.log_prob(x).exp()).abs(), x).item()
    )
    image = z / 2 + 0.1
    inside = map_variation(z, image, start.log_prob(z).exp(), lambda x: wide.log_prob(x).exp())
    outside = 0.5 * (
        1 - (wide.cdf(image[-1]) - wide.cdf(image[0])).item()
    )  # of the target, where the map does not reach
    assert inside + outside == pytest.approx(wanted, abs=1e-5)


def test_eq_sampling_floor():
    p = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=DOUBLE)
    counts = torch.distributions.Multinomial(500, p).sample  # its own seed, below
    torch.manual_seed(0)
    scores = torch.stack([0.5 * (counts() / 500 - p).abs().sum() for _ in range(2000)])
    assert scores.mean().item() == pytest.approx(sampling_floor(p, 500), rel=0.03)
    assert sampling_floor(p, 500) == pytest.approx(2 * sampling_floor(p, 2000))


def test_eq_tilted_bins():
    a = 0.9
    assert torch.allclose(
        tilted_distribution(LINE, 0, 1.0, a), mixture_cdf(LINE.at(a), BINS, 0).diff(), atol=1e-10
    )
    assert torch.allclose(
        tilted_distribution(LINE, 1, 0.0, a), mixture_cdf(LINE.at(a), BINS).diff(), atol=1e-10
    )
    # scale 3 at a clean level: the density itself, bin by bin
    x = torch.linspace(-5, 5, 100_001, dtype=DOUBLE)
    weights = (LINE.log_prob(x[:, None]) + 3 * LINE.class_log_probs(x[:, None])[:, 0]).softmax(0)
    by_bin = torch.stack(
        [weights[(x >= low) & (x < high)].sum() for low, high in itertools.pairwise(BINS)]
    )
    assert total_variation(tilted_distribution(LINE, 0, 3.0, 1 - 1e-9), by_bin) < 2e-3
    scores = score_table(
        {"DDIM": METHODS["DDIM"], "2M": METHODS["2M"]}, LINE, LINEAR, 1, budgets=(24,)
    )
    assert scores["2M"][0] < 0.3 * scores["DDIM"][0]
