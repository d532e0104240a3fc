"""The labelled equations of "training free", in numbers."""

import math

import pytest
import torch
from torch.distributions import Normal

import guided_diffusion_edu as gde
from guided_diffusion_edu.training_free import (
    class_loss,
    colour,
    conjunction,
    corrected_guidance,
    disjunction,
    edges,
    known_pixels,
    low_pass,
    measured_guidance,
    measured_log_prob,
    measurement_loss,
    recurrent_sample,
    replace_known,
    x_0_guidance,
)
from helpers import DOUBLE, LINE, LINEAR, WORLD, randn


def test_eq_measurement():
    x_0, r = randn(3, 2, 4, 4), 0.3
    for look in (colour, low_pass(2), edges, known_pixels((randn(4, 4) > 0).to(DOUBLE))):
        value = look(randn(3, 2, 4, 4, seed=1))
        by_normal = -Normal(value, r).log_prob(look(x_0)).flatten(1).sum(1)
        constant = -Normal(value, r).log_prob(value).flatten(1).sum(1)
        assert torch.allclose(measurement_loss(look, value, r)(x_0), by_normal - constant)
    assert (
        torch.allclose(colour(x_0), x_0.mean((2, 3)))
        and low_pass(2)(x_0).shape == (3, 2, 2, 2)
        and edges(torch.ones(1, 1, 3, 3)).abs().max() == 0
    )
    edit = replace_known(torch.zeros(4, 4, dtype=DOUBLE), torch.eye(4, dtype=torch.bool))
    assert torch.equal(edit(x_0, None), x_0 * (1 - torch.eye(4)))


SEEN = torch.tensor([[1.0, -0.5]], dtype=DOUBLE)  # a look at a point of the plane


def test_eq_measured():
    # E[p(y | x_0) | x_t] by a grid over x_0, and the gradient by autograd
    value, r, a, x = (
        torch.tensor([0.4], dtype=DOUBLE),
        0.3,
        LINEAR.alpha_bars[300].item(),
        randn(4, 2),
    )
    u = torch.linspace(-5, 5, 301, dtype=DOUBLE)
    grid = torch.cartesian_prod(u, u)
    prior, measured = WORLD.log_prob(grid), Normal(grid @ SEEN[0], r).log_prob(value)
    for here in x:
        posterior = (prior - ((here - a**0.5 * grid) ** 2).sum(1) / (2 * (1 - a))).softmax(0)
        assert measured_log_prob(WORLD, SEEN, value, r)(a, here[None]).item() == pytest.approx(
            (posterior @ measured.exp()).log().item(), abs=1e-6
        )
    by_autograd = gde.log_prob_guidance(
        lambda x_t, t: measured_log_prob(WORLD, SEEN, value, r)(a, x_t)
    )(x, None)
    assert torch.allclose(
        measured_guidance(WORLD, LINEAR, SEEN, value, r)(x, torch.full((4,), 300)),
        by_autograd,
        atol=1e-9,
    )


def test_eq_x0_guidance():
    # one component: the estimate is linear, and the gradient known
    one, x, t, a = (
        gde.GaussianMixture([[0.3]], [0.8]),
        randn(5, 1),
        torch.full((5,), 400),
        LINEAR.alpha_bars[400].item(),
    )
    slope = a**0.5 * 0.64 / (a * 0.64 + 1 - a)
    estimate = 0.3 + slope * (x - a**0.5 * 0.3)
    guidance = x_0_guidance(
        one.denoiser(LINEAR), LINEAR, lambda x_0: (x_0**2).flatten(1).sum(1), scale=3.0, clip=False
    )
    assert torch.allclose(guidance(x, t), -3 * 2 * estimate * slope, atol=1e-9)
    clipped = x_0_guidance(one.denoiser(LINEAR), LINEAR, lambda x_0: x_0.flatten(1).sum(1))(
        torch.tensor([[9.0], [0.1]], dtype=DOUBLE), t[:2]
    )
    assert clipped[0] == 0 and clipped[1].item() == pytest.approx(-slope, abs=1e-9)
    quiet = gde.interval_guidance(guidance, 0, 399)
    assert quiet(x, t).abs().max() == 0 and torch.equal(quiet(x, t - 1), guidance(x, t - 1))


def test_eq_jensen_gap():
    # near the clean end the gap of the exact likelihood goes to the formula
    value, r, one = torch.tensor([0.5], dtype=DOUBLE), 0.5, torch.ones(1, 1, dtype=DOUBLE)
    for t in (3, 6):
        a, x = LINEAR.alpha_bars[t].item(), torch.tensor([[0.1], [0.25]], dtype=DOUBLE)
        estimate = (x + (1 - a) * LINE.at(a).score(x)) / a**0.5

        def f(d):
            return (-(d**2) / (2 * r**2)) - 0.5 * math.log(2 * math.pi * r**2)

        gap = measured_log_prob(LINE, one, value, r)(a, x) - f(value - estimate)[:, 0]
        V = (1 - a) * 0.0225 / (a * 0.0225 + 1 - a)  # both points belong to the middle component
        wanted = V / 2 * ((value - estimate) ** 2 / r**4 - 1 / r**2)[:, 0]
        assert torch.allclose(gap, wanted, rtol=0.02, atol=1e-6)


def test_eq_dps_ratio():
    one, r, value = gde.GaussianMixture([[0.3]], [0.8]), 0.25, torch.tensor([1.0], dtype=DOUBLE)
    dps = x_0_guidance(
        one.denoiser(LINEAR), LINEAR, measurement_loss(lambda x_0: x_0, value, r), clip=False
    )
    for level in (0, 200, 999):
        x, t = randn(6, 1), torch.full((6,), level)
        exact = measured_guidance(one, LINEAR, torch.ones(1, 1, dtype=DOUBLE), value, r)(x, t)
        assert torch.allclose(corrected_guidance(dps, LINEAR, r, std=0.8)(x, t), exact, atol=1e-9)
    assert not torch.allclose(dps(x, t), exact, rtol=0.5)


def test_eq_jacobian_is_variance():
    # by a grid over x_0, in the three-component world; and the guidance moves the estimate by the
    # variance times the gradient of the loss
    grid = torch.linspace(-5, 5, 8001, dtype=DOUBLE)
    for level in (100, 500):
        a, x = LINEAR.alpha_bars[level].item(), torch.tensor([[-0.4], [0.5]], dtype=DOUBLE)
        guidance = x_0_guidance(
            LINE.denoiser(LINEAR), LINEAR, lambda x_0: x_0.flatten(1).sum(1), clip=False
        )
        for here, moved in zip(x, (1 - a) / a**0.5 * guidance(x, torch.full((2,), level))):
            posterior = (
                LINE.log_prob(grid[:, None]) - (here - a**0.5 * grid) ** 2 / (2 * (1 - a))
            ).softmax(0)
            variance = posterior @ grid**2 - (posterior @ grid) ** 2
            assert -moved.item() == pytest.approx(variance.item(), rel=1e-6)


def test_eq_all_of():
    def classifier(x, t):
        return WORLD.class_log_probs(x)

    x, first, second = (
        randn(6, 2),
        torch.zeros(6, dtype=torch.long),
        torch.ones(6, dtype=torch.long),
    )
    logs = WORLD.class_log_probs(x)
    both = conjunction(class_loss(classifier, first), class_loss(classifier, second))
    assert torch.allclose((-both(x)).exp(), logs[:, 0].exp() * logs[:, 1].exp())


def test_eq_any_of():
    def classifier(x, t):
        return WORLD.class_log_probs(x)

    x, first, second = (
        randn(6, 2),
        torch.zeros(6, dtype=torch.long),
        torch.ones(6, dtype=torch.long),
    )
    either = disjunction(class_loss(classifier, first), class_loss(classifier, second))
    merged = gde.GaussianMixture(
        WORLD.means, WORLD.variances[:, 0].sqrt(), WORLD.weights, labels=[0, 0, 0, 1]
    )  # classes 0 and 1 as one
    assert torch.allclose(-either(x), merged.class_log_probs(x)[:, 0])


def test_eq_recurrence():
    # one round is DDIM; two rounds with one step, by hand; and the exact law of one Gaussian is
    # kept by a round of the exact step
    s, one, x = gde.respace(LINEAR, 3), gde.GaussianMixture([[0.0]], [1.0]), randn(6, 1)
    model = one.denoiser(LINEAR)
    assert torch.allclose(
        recurrent_sample(model, s, x.shape, repeats=1, x_T=x, clip=False),
        gde.ddim_sample(model, s, x.shape, x_T=x, clip=False),
        atol=1e-12,
    )
    _, path = recurrent_sample(
        model,
        s,
        x.shape,
        repeats=2,
        x_T=x,
        clip=False,
        generator=torch.Generator().manual_seed(4),
        trajectory=True,
    )

    def factor(i):
        return (s.alpha_bars[i] * s.alpha_bars_prev[i]).sqrt() + (
            (1 - s.alpha_bars[i]) * (1 - s.alpha_bars_prev[i])
        ).sqrt()

    z = torch.randn(x.shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(4))
    assert torch.allclose(
        path[1],
        factor(2) * (s.alphas[2].sqrt() * factor(2) * x + s.betas[2].sqrt() * z),
        atol=1e-10,
    )
    with pytest.raises(ValueError, match="repeats"):
        recurrent_sample(model, s, x.shape, repeats=0)
