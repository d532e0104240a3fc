"""The labelled equations of "classifier free", in numbers."""

import pytest
import torch

import guided_diffusion_edu as gde
from guided_diffusion_edu.classifier_free import (
    asymmetry,
    autoguided_model,
    cfg_model,
    class_model,
    drop_labels,
    flow_distribution,
    guided_model,
    implicit_guidance,
    interval_model,
    interval_variance,
    pair_ddim_variance,
    pair_ddpm_variance,
    pair_target_variance,
    projected_model,
    rescaled_model,
    tilted_mixture,
)
from guided_diffusion_edu.diffusion import mean_from_eps
from guided_diffusion_edu.lab.linear_gaussian import (
    ddim_variance,
    toy_guidance,
    toy_model,
    toy_moments,
)
from guided_diffusion_edu.lab.quadrature import (
    total_variation,
)
from guided_diffusion_edu.samplers import score_from_eps
from helpers import BLUNT, DOUBLE, LINEAR, WORLD, randn

# ---- beyond the paper: two models in the place of a classifier


def test_eq_free_loss():
    y = torch.arange(20_000) % 5
    told = drop_labels(y, 0.3, null=7, generator=torch.Generator().manual_seed(0))
    hidden = told == 7
    assert hidden.double().mean().item() == pytest.approx(0.3, abs=0.02) and torch.equal(
        told[~hidden], y[~hidden]
    )
    for k in range(5):
        assert hidden[y == k].double().mean().item() == pytest.approx(
            0.3, abs=0.04
        )  # by chance, not by class
    assert torch.equal(drop_labels(y, 0.0, null=7), y) and (drop_labels(y, 1.0, null=7) == 7).all()


def test_eq_implicit_classifier():
    x, y, exact = randn(30, 2), torch.arange(30) % 3, WORLD.classifier(LINEAR)

    def with_null(x, t, y):
        return WORLD.denoiser(LINEAR)(
            x, t, None if (y == 9).all() else y
        )  # a network with a class for none

    for level in (3, 400, 990):
        t = torch.full((30,), level)
        by_classifier = gde.classifier_guidance(exact, y, 2.5)(x, t)
        assert torch.allclose(
            implicit_guidance(WORLD.denoiser(LINEAR), LINEAR, y, 2.5)(x, t),
            by_classifier,
            atol=1e-8,
        )
        assert torch.allclose(
            implicit_guidance(with_null, LINEAR, y, 2.5, null=9)(x, t), by_classifier, atol=1e-8
        )


def test_eq_free_eps():
    x, y, t, model = (
        randn(30, 2),
        torch.arange(30) % 3,
        torch.full((30,), 300),
        WORLD.denoiser(LINEAR),
    )
    guided = cfg_model(model, y, 3.0)(x, t)
    assert torch.allclose(guided, 3 * model(x, t, y) - 2 * model(x, t))  # w = 2
    assert torch.allclose(cfg_model(model, y, 1.0)(x, t), model(x, t, y)) and torch.allclose(
        cfg_model(model, y, 0.0)(x, t), model(x, t)
    )
    by_classifier = guided_model(
        model, LINEAR, gde.classifier_guidance(WORLD.classifier(LINEAR), y, 3.0)
    )(x, t)
    assert torch.allclose(guided, by_classifier, atol=1e-8)


def test_eq_autoguidance():
    # the variance channels stay those of the better model; the field is the score of the power
    def better(x, t, y=None):
        return torch.cat([x, 3 + x], 1)

    def weaker(x, t, y=None):
        return torch.cat([0.5 * x, 100 + x], 1)

    x, t = randn(4, 2, 3, 3), torch.full((4,), 300)
    assert torch.allclose(autoguided_model(better, weaker, 3.0)(x, t), torch.cat([2 * x, 3 + x], 1))
    p, q = gde.GaussianMixture([[0.4, 0.0]], [0.5]), gde.GaussianMixture([[0.0, 0.1]], [0.9])
    x, a = randn(5, 2).requires_grad_(), LINEAR.alpha_bars[300].item()
    power = 3 * p.at(a).log_prob(x) - 2 * q.at(a).log_prob(x)
    (score,) = torch.autograd.grad(power.sum(), x)
    eps = autoguided_model(p.denoiser(LINEAR), q.denoiser(LINEAR), 3.0)(
        x.detach(), torch.full((5,), 300)
    )
    assert torch.allclose(score_from_eps(eps, a), score)


def test_eq_tilt_gap():
    # E[p(y | x_0)^s | x_t] by Bayes' rule on a grid, against the tilted world's own score
    points, at = (
        torch.linspace(-4, 4, 1601, dtype=DOUBLE)[:, None],
        torch.tensor([[-0.8], [0.1], [0.9]], dtype=DOUBLE),
    )
    clean = BLUNT.log_prob(points)
    for s, a in ((1.0, 0.5), (3.0, 0.5), (2.0, 0.95)):

        def log_worth(x):  # log E[p^s | x] - s log p(y | x)
            seen = (clean - (x - a**0.5 * points[:, 0]) ** 2 / (2 * (1 - a))).log_softmax(
                1
            )  # (B, N)
            return (seen + s * BLUNT.class_log_probs(points)[:, 1]).logsumexp(1) - s * BLUNT.at(
                a
            ).class_log_probs(x)[:, 1]

        x = at.clone().requires_grad_()
        (lacking,) = torch.autograd.grad(log_worth(x).sum(), x)
        guided = (1 - s) * BLUNT.at(a).score(at) + s * BLUNT.at(a).score(
            at, torch.ones(3, dtype=torch.long)
        )
        assert torch.allclose(
            tilted_mixture(BLUNT, 1, s, points).at(a).score(at) - guided, lacking, atol=4e-3
        )
        assert (s == 1) == (lacking.abs().max().item() < 1e-6)


def test_eq_flow_quantiles():
    x, narrow = torch.linspace(-3, 3, 601, dtype=DOUBLE), gde.GaussianMixture([[0.5]], [0.4])
    law = flow_distribution(narrow.denoiser(LINEAR), LINEAR, x, 101)
    assert law.sum().item() == pytest.approx(1, abs=1e-12)
    assert total_variation(law, narrow.log_prob(x[:, None]).softmax(0)) < 0.01
    with pytest.raises(ValueError, match="change places"):
        flow_distribution(lambda x, t, y=None: 30 * x, gde.respace(LINEAR, 4), x, 11)


def pair(v, u, s):
    "The package's guided model of two centred Gaussians, and its slope at each level."
    strong, weak = (gde.GaussianMixture([[0.0]], [std**0.5]).denoiser(LINEAR) for std in (v, u))
    return autoguided_model(strong, weak, s)


def test_eq_pair_target():
    x = torch.linspace(-9, 9, 9001, dtype=DOUBLE)
    for v, u, s in ((0.4, 1.0, 3.0), (1.0, 2.0, 1.5)):
        p = (-s * x**2 / (2 * v) + (s - 1) * x**2 / (2 * u)).softmax(0)
        assert pair_target_variance(v, u, s) == pytest.approx((p * x**2).sum().item(), rel=1e-6)


def test_eq_pair_ddim():
    for v, u, s in ((0.4, 1.0, 1.0), (0.4, 1.0, 3.0), (1.0, 2.0, 2.0)):
        end = gde.ddim_sample(
            pair(v, u, s), LINEAR, (1, 1), x_T=torch.ones(1, 1, dtype=DOUBLE), clip=False
        )
        assert end.item() ** 2 == pytest.approx(pair_ddim_variance(v, u, s), rel=0.03)


def test_eq_pair_ddpm():
    for v, u, s in ((0.4, 1.0, 1.0), (0.4, 1.0, 3.0), (1.0, 2.0, 2.0)):

        def step(i):
            _alpha, beta = LINEAR.alphas[i].item(), LINEAR.betas[i].item()
            eps = pair(v, u, s)(torch.ones(1, 1, dtype=DOUBLE), torch.tensor([i])).item()
            return (
                mean_from_eps(
                    1.0, eps, LINEAR.alpha_bars[i].item(), LINEAR.alpha_bars_prev[i].item()
                ),
                0.0,
                beta**0.5 * (i > 0),
            )

        assert toy_moments(step, LINEAR)[1] == pytest.approx(pair_ddpm_variance(v, u, s), rel=0.02)


def test_eq_interval_law():
    r, free = 0.5, toy_model(LINEAR)
    of_y = guided_model(free, LINEAR, toy_guidance(LINEAR, r, 0.0))
    for first, last in ((0, 999), (200, 600)):
        limited = interval_model(autoguided_model(of_y, free, 3.0), of_y, first, last)
        end = (
            gde.ddim_sample(
                limited, LINEAR, (1, 1), x_T=torch.ones(1, 1, dtype=DOUBLE), clip=False
            ).item()
            ** 2
        )
        high, low = LINEAR.alpha_bars[first].item(), LINEAR.alpha_bars[last].item()
        assert end == pytest.approx(interval_variance(r, 3.0, low, high), rel=0.03)
    assert interval_variance(r, 3.0, 0.0, 1.0) == pytest.approx(ddim_variance(r, 3.0))
    asked = []

    def named(name):
        return lambda x, t, y=None: asked.append(name) or torch.full_like(x, name)

    mixed = interval_model(named(1), named(0), 10, 20)
    assert mixed(torch.zeros(4, 1), torch.tensor([9, 10, 20, 21]))[:, 0].tolist() == [0, 1, 1, 0]
    asked.clear()
    (
        mixed(torch.zeros(2, 1), torch.tensor([12, 15])),
        mixed(torch.zeros(2, 1), torch.tensor([1, 50])),
    )
    assert asked == [1, 0]  # one model a step where all examples share a level


def estimates(*models, x, t):
    return [gde.x_0_from_eps(x, model(x, t), LINEAR.alpha_bars[t[0]].item()) for model in models]


def test_eq_rescaled():
    better, weaker = (lambda x, t, y=None: 0.3 * x + 0.1), (lambda x, t, y=None: 0.6 * x)
    x, t = randn(5, 1, 4, 4), torch.full((5,), 300)
    for share in (1.0, 0.4):
        own, free, drawn = estimates(
            better,
            autoguided_model(better, weaker, 4.0),
            rescaled_model(better, weaker, LINEAR, 4.0, share),
            x=x,
            t=t,
        )
        own_std, free_std = (v.flatten(1).std(1) for v in (own, free))
        assert torch.allclose(drawn.flatten(1).std(1), share * own_std + (1 - share) * free_std)
        assert torch.allclose(
            drawn / free, (drawn / free)[:, :, :1, :1].expand_as(free)
        )  # one factor a picture


def test_eq_projected():
    better, weaker = (lambda x, t, y=None: 0.3 * x + 0.1), (lambda x, t, y=None: 0.6 * x.flip(-1))
    x, t = randn(5, 1, 4, 4), torch.full((5,), 300)
    models = (
        better,
        weaker,
        autoguided_model(better, weaker, 4.0),
        projected_model(better, weaker, LINEAR, 4.0),
        projected_model(better, weaker, LINEAR, 4.0, parallel=1.0),
    )
    own, weak, free, across, whole = (v.flatten(1) for v in estimates(*models, x=x, t=t))
    assert torch.allclose(whole, free) and not torch.allclose(across, free)
    assert torch.allclose(
        ((across - own) * own).sum(1), torch.zeros(5, dtype=DOUBLE), atol=1e-9
    )  # nothing along its own estimate
    change = own - weak
    for k in range(5):  # by least squares
        along = torch.linalg.lstsq(own[k, :, None], change[k, :, None]).solution.item() * own[k]
        assert torch.allclose(across[k], own[k] + 3 * (change[k] - along))


def test_eq_gradient_field():
    x, t = randn(20, 2), torch.full((20,), 300)

    def turning(x, t):
        return x @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=DOUBLE)

    def half(x, t):
        return x @ torch.tensor([[1.0, 1.0], [0.0, 1.0]], dtype=DOUBLE)

    assert asymmetry(WORLD.denoiser(LINEAR), x, t).max() < 1e-9
    assert torch.allclose(asymmetry(turning, x, t), torch.full((20,), 2.0, dtype=DOUBLE))
    assert torch.allclose(asymmetry(half, x, t), torch.full((20,), (2 / 3) ** 0.5, dtype=DOUBLE))
    better = class_model(WORLD.denoiser(LINEAR), torch.zeros(20, dtype=torch.long))
    assert asymmetry(autoguided_model(better, WORLD.denoiser(LINEAR), 3.0), x, t).max() < 1e-9
    assert (
        asymmetry(projected_model(better, WORLD.denoiser(LINEAR), LINEAR, 3.0), x, t).mean() > 0.01
    )
