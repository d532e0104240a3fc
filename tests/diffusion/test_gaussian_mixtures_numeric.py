"""The labelled equations of "gaussian mixtures", in numbers."""

import math

import pytest
import torch

import guided_diffusion_edu as gde
from helpers import DOUBLE, LINE, LINEAR, WORLD, gaussian_log, randn


def test_eq_mixture():
    points, weights = randn(20, 2, seed=2), WORLD.weights
    wanted = sum(
        w * gaussian_log(points, m, v.diag()).exp()
        for w, m, v in zip(weights, WORLD.means, WORLD.variances)
    )
    assert torch.allclose(WORLD.log_prob(points).exp(), wanted) and weights.sum() == 1
    # two trees of three branches: each a segment of uniform points, a little wide, and its turned
    # twin
    trees = gde.two_trees(1)
    assert torch.allclose(trees.means[3:], -trees.means[:3]) and trees.labels.tolist() == [
        0,
        0,
        0,
        1,
        1,
        1,
    ]
    assert torch.allclose(trees.weights, torch.tensor([1, 0.74, 0.74] * 2, dtype=DOUBLE) / 4.96)
    tips = torch.tensor([0.62, -1.0], dtype=DOUBLE)
    for k, (angle, length) in enumerate(
        ((1.72, 0.62), (1.72 + 0.55, 0.4588), (1.72 - 0.42, 0.4588))
    ):
        along = torch.tensor([math.cos(angle), math.sin(angle)], dtype=DOUBLE)
        assert torch.allclose(trees.means[k], tips + along * length / 2)
        if k == 0:
            tips = tips + along * length  # where the others grow from
        across, drawn = (
            torch.stack([-along[1], along[0]]),
            trees.axes[k].T @ trees.variances[k].diag() @ trees.axes[k],
        )
        wanted = length**2 / 12 * along.outer(along) + (0.05 * length) ** 2 * across.outer(across)
        assert torch.allclose(drawn, wanted) and torch.allclose(
            trees.axes[k + 3].T @ trees.variances[k + 3].diag() @ trees.axes[k + 3], wanted
        )


def test_eq_mixture_noised():
    A = randn(3, 3, 3)
    covs, means, points = A @ A.mT + 0.1 * torch.eye(3), randn(3, 3, seed=3), randn(30, 3, seed=4)
    mixture = gde.GaussianMixture(means, covs, weights=[0.2, 0.3, 0.5])
    for a in (0.9, 0.3, 0.01):
        wanted = sum(
            w * gaussian_log(points, a**0.5 * m, a * C + (1 - a) * torch.eye(3, dtype=DOUBLE)).exp()
            for w, m, C in zip((0.2, 0.3, 0.5), means, covs)
        )
        assert torch.allclose(mixture.at(a).log_prob(points).exp(), wanted)
    drawn = mixture.sample(400_000, label=1, generator=torch.Generator().manual_seed(0))
    assert (drawn.T.cov() - covs[1]).abs().max() < 0.05 and (
        drawn.mean(0) - means[1]
    ).abs().max() < 0.02


def test_eq_mixture_score():
    points = randn(40, 2, seed=5).requires_grad_()
    (by_autograd,) = torch.autograd.grad(WORLD.log_prob(points).sum(), points)
    assert torch.allclose(WORLD.score(points), by_autograd, atol=1e-10)
    y = torch.arange(40) % 3
    (by_autograd,) = torch.autograd.grad(WORLD.log_prob(points, y).sum(), points)
    assert torch.allclose(WORLD.score(points, y), by_autograd, atol=1e-10)


def test_eq_class_posterior():
    points = randn(20, 2, seed=6)
    parts = torch.stack(
        [
            w * gaussian_log(points, m, v.diag()).exp()
            for w, m, v in zip(WORLD.weights, WORLD.means, WORLD.variances)
        ],
        -1,
    )
    wanted = torch.stack([parts[:, 0], parts[:, 1] + parts[:, 2], parts[:, 3]], -1) / parts.sum(
        -1, keepdim=True
    )
    assert torch.allclose(WORLD.class_log_probs(points).exp(), wanted)


def test_eq_guided_posterior():
    points = randn(20, 2, seed=7)
    for label, prior in ((0, 0.1), (1, 0.5), (2, 0.4)):
        y = torch.full((20,), label)
        bayes = (
            WORLD.log_prob(points)
            + WORLD.class_log_probs(points)[:, label]
            - torch.log(torch.tensor(prior, dtype=DOUBLE))
        )
        assert torch.allclose(WORLD.log_prob(points, y), bayes)


def test_eq_exact_eps():
    # E[eps | x_t] by quadrature over x_0 in one dimension
    line = gde.GaussianMixture([[-1.0], [0.5]], [0.2, 0.4], weights=[0.3, 0.7])
    grid = torch.linspace(-4, 4, 4001, dtype=DOUBLE)
    for t, x in ((50, 0.3), (400, -0.7)):
        a = LINEAR.alpha_bars[t].item()
        noise = (x - a**0.5 * grid) / (1 - a) ** 0.5
        weight = line.log_prob(grid[:, None]).exp() * torch.exp(-(noise**2) / 2)
        wanted = (weight * noise).sum() / weight.sum()
        assert line.denoiser(LINEAR)(
            torch.tensor([[x]], dtype=DOUBLE), torch.tensor([t])
        ).item() == pytest.approx(wanted.item(), abs=1e-9)


def test_each_row_has_its_own_level():
    x, t, y = randn(6, 2), torch.tensor([900, 3, 3, 500, 900, 0]), torch.arange(6) % 3
    model, classifier = WORLD.denoiser(LINEAR), WORLD.classifier(LINEAR)
    for i in range(6):
        row = slice(i, i + 1)
        assert torch.allclose(model(x, t)[row], model(x[row], t[row])) and torch.allclose(
            model(x, t, y)[row], model(x[row], t[row], y[row])
        )
        assert torch.allclose(classifier(x, t)[row], classifier(x[row], t[row]))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_classes_and_labels_may_have_any_integer_dtype(dtype):
    x, t, y = randn(6, 2), torch.arange(6), torch.arange(6) % 3
    mixture = gde.GaussianMixture(WORLD.means, [0.3, 0.5, 0.4, 0.6], labels=WORLD.labels.to(dtype))
    assert mixture.labels.dtype == torch.long
    for log_prob in (mixture.log_prob, mixture.score):
        assert torch.equal(log_prob(x, y.to(dtype)), log_prob(x, y))
    model = mixture.denoiser(LINEAR)
    assert torch.equal(model(x, t.to(dtype), y.to(dtype)), model(x, t, y))


def test_three_modes_is_one_dimensional_and_has_no_symmetry():
    modes = gde.three_modes()
    assert modes.means.shape == (3, 1) and modes.num_classes == 2
    assert modes.labels.tolist() == [0, 1, 0] and len(set(modes.variances.flatten().tolist())) == 3
    assert modes.log_prob(torch.tensor([[1.0]])) != modes.log_prob(torch.tensor([[-1.0]]))


def test_eq_bayes_score():
    x, t, y = randn(30, 2), torch.full((30,), 400), torch.arange(30) % 3
    by_autograd = gde.classifier_guidance(WORLD.classifier(LINEAR), y)(x, t)
    noised = WORLD.at(LINEAR.alpha_bars[400].item())
    assert torch.allclose(by_autograd, noised.score(x, y) - noised.score(x), atol=1e-10)


def test_eq_tweedie():
    grid = torch.linspace(-4, 4, 4001, dtype=DOUBLE)
    for t, x in ((50, 0.3), (400, -0.7), (999, 1.5)):
        a = LINEAR.alpha_bars[t].item()
        weight = (LINE.log_prob(grid[:, None]) - (x - a**0.5 * grid) ** 2 / (2 * (1 - a))).softmax(
            0
        )
        here = torch.tensor([[x]], dtype=DOUBLE)
        assert (here + (1 - a) * LINE.at(a).score(here)).item() / a**0.5 == pytest.approx(
            (weight * grid).sum().item(), abs=1e-7
        )
        by_network = gde.x_0_from_eps(
            here, LINE.denoiser(LINEAR)(here, torch.tensor([t])), a
        ).item()
        assert by_network == pytest.approx((weight * grid).sum().item(), abs=1e-7)
