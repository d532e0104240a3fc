"""The labelled equations of "evaluation", in numbers."""

import math

import pytest
import torch

import guided_diffusion_edu as gde
from guided_diffusion_edu import evaluation
from helpers import DOUBLE, randn

# evaluation


def rotation(D, seed=0):
    return torch.linalg.qr(randn(D, D, seed=seed)).Q


def test_eq_sample_covariance():
    x = 3 + randn(20, 4) @ randn(4, 4, seed=1)
    found = evaluation.moments(x)
    assert torch.allclose(found.covariance, torch.cov(x.T), rtol=1e-12) and torch.allclose(
        found.mean, x.mean(0), rtol=1e-12
    )


def test_eq_chan_merge():
    x = 1e4 + randn(30, 3)
    parts = [evaluation.moments(part) for part in x.split([7, 1, 22])]
    for order in ((0, 1, 2), (2, 0, 1)):
        merged = evaluation.merge_moments(
            evaluation.merge_moments(parts[order[0]], parts[order[1]]), parts[order[2]]
        )
        assert (
            merged.count == 30
            and torch.allclose(merged.mean, x.mean(0), rtol=1e-13)
            and torch.allclose(merged.covariance, torch.cov(x.T), rtol=1e-8)
        )


def test_eq_frechet():
    # the least cost over linear maps, by the definition: with Y = m_b + A (X - m_a), A S_a A' =
    # S_b, E|X - Y|^2
    root_a, root_b = randn(3, 3, seed=1), randn(3, 3, seed=2)
    a, b = (
        evaluation.Gaussian(mean, root @ root.T)
        for mean, root in ((randn(3, seed=3), root_a), (randn(3, seed=4), root_b))
    )

    def cost(turn):
        return ((a.mean - b.mean) ** 2).sum() + (
            (root_a - root_b @ turn) ** 2
        ).sum()  # the same white noise drives both

    U, _, Vh = torch.linalg.svd(root_b.T @ root_a)
    assert evaluation.frechet_distance(a, b) == pytest.approx(cost(U @ Vh).item(), rel=1e-10)
    for seed in range(50):
        assert cost(rotation(3, seed)) >= evaluation.frechet_distance(a, b) - 1e-10
    x, y = randn(50, 1, seed=5), 2 + 3 * randn(40, 1, seed=6)
    assert gde.fid(x, y) == pytest.approx(
        ((x.mean() - y.mean()) ** 2 + (x.std() - y.std()) ** 2).item(), rel=1e-10
    )


def test_eq_fid_bias():
    spread, n = torch.tensor([0.5, 1.0, 2.0], dtype=DOUBLE), 200
    law = evaluation.Gaussian(torch.zeros(3, dtype=DOUBLE), torch.diag(spread**2))
    measured = [
        evaluation.frechet_distance(evaluation.moments(spread * randn(n, 3, seed=seed)), law)
        for seed in range(600)
    ]
    assert sum(measured) / 600 == pytest.approx(evaluation.fid_bias(law.covariance, n), rel=0.07)
    assert evaluation.fid_bias(torch.eye(7, dtype=DOUBLE), 10) == pytest.approx(
        (7 + 7 * 8 / 4) / 10
    )


def test_eq_fid_line():
    x = torch.tensor([0.1, 0.2, 0.4], dtype=DOUBLE)
    constant, slope = evaluation.straight_line(x, 2 + 3 * x)
    assert (constant, slope) == (pytest.approx(2), pytest.approx(3))
    y = randn(3)
    fitted = torch.linalg.lstsq(
        torch.stack([torch.ones_like(x), x], 1), y[:, None]
    ).solution.flatten()
    assert evaluation.straight_line(x, y) == (
        pytest.approx(fitted[0].item()),
        pytest.approx(fitted[1].item()),
    )
    g, law = (
        torch.Generator().manual_seed(0),
        evaluation.Gaussian(torch.zeros(6, dtype=DOUBLE), torch.eye(6, dtype=DOUBLE)),
    )
    drawn = [
        evaluation.fid_infinity(law, 0.5 + randn(300, 6, seed=seed), generator=g)
        for seed in range(60)
    ]  # true distance 6 / 4
    alike = [
        evaluation.fid_infinity(law, randn(300, 6, seed=seed), generator=g) for seed in range(60)
    ]
    assert sum(drawn) / 60 == pytest.approx(1.5, abs=0.04) and sum(alike) / 60 == pytest.approx(
        0, abs=0.03
    )  # the bias at 300 is 0.055


def test_eq_inception_score():
    p = randn(30, 5).softmax(1)

    def entropy(q):
        return -(q * q.log()).sum(-1)

    assert gde.inception_score(p) == pytest.approx(math.exp(entropy(p.mean(0)) - entropy(p).mean()))
    assert gde.inception_score(torch.eye(4)) == pytest.approx(4)


def in_balls(centres, points, k):
    "Who is in whose ball, (centres, points), one pair at a time."
    radii = [
        sorted((c - other).norm().item() for j, other in enumerate(centres) if j != i)[k - 1]
        for i, c in enumerate(centres)
    ]
    return torch.tensor(
        [[(c - p).norm().item() <= r for p in points] for c, r in zip(centres, radii)]
    )


def test_eq_knn_radius():
    x = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert evaluation.knn_radii(x, k=2, block=3).tolist() == [3, 2, 3, 6]


def test_eq_precision_recall():
    real, fake = randn(25, 2), 0.7 * randn(18, 2, seed=1) + 0.6
    for k in (1, 3):
        assert gde.precision_recall(real, fake, k) == (
            pytest.approx(in_balls(real, fake, k).any(0).double().mean().item()),
            pytest.approx(in_balls(fake, real, k).any(0).double().mean().item()),
        )
    assert gde.precision_recall(fake, real) == gde.precision_recall(real, fake)[::-1]


def test_eq_density_coverage():
    real, fake = randn(25, 2), 0.7 * randn(18, 2, seed=1) + 0.6
    for k in (2, 5):
        inside = in_balls(real, fake, k)
        assert evaluation.density_coverage(real, fake, k) == (
            pytest.approx(inside.sum().item() / (k * 18)),
            pytest.approx(inside.any(1).double().mean().item()),
        )


def test_eq_expected_coverage():
    pairs = [
        evaluation.density_coverage(randn(40, 2, seed=2 * i), randn(60, 2, seed=2 * i + 1), 3)
        for i in range(150)
    ]
    density, coverage = (sum(values) / 150 for values in zip(*pairs))
    assert density == pytest.approx(1, abs=0.03)
    assert coverage == pytest.approx(evaluation.expected_coverage(40, 60, 3), abs=0.01)
    assert evaluation.expected_coverage(40, 60, 3) == pytest.approx(
        1 - math.comb(39, 3) / math.comb(99, 3)
    )


def test_eq_bootstrap():
    x, g = randn(300), torch.Generator().manual_seed(0)
    low, high = evaluation.bootstrap_interval(torch.mean, x, 2000, generator=g)
    assert (low + high) / 2 == pytest.approx(x.mean().item(), abs=0.01) and (
        high - low
    ) / 2 == pytest.approx(1.96 * x.std(correction=0).item() / 300**0.5, rel=0.08)
    low, high = evaluation.bootstrap_interval(
        lambda rows: rows.mean() ** 2 + 100 / len(rows.unique()), x, 200, generator=g
    )  # biased upwards by redrawing
    assert low < x.mean().item() ** 2 + 100 / 300 < high
