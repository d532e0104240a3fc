"""The labelled equations of "taylor proof", in numbers."""

import math

import pytest
import torch
from torch.distributions import Normal

import guided_diffusion_edu as gde
from guided_diffusion_edu.guidance import error_law, second_order_step
from guided_diffusion_edu.lab.quadrature import (
    total_variation,
)
from helpers import DOUBLE, LINE, LINEAR, gaussian_log, randn


def exact_joint(schedule, t, x_next):
    """On a grid of x_t: q(x_t | x_next, k) w_k(x_next) for each component k, (N, K), from the joint
    law and nothing else.
    """
    grid, line = torch.linspace(-6, 6, 6001, dtype=DOUBLE), LINE.at(schedule.alpha_bars[t].item())
    a = schedule.alphas[t + 1].item()
    per_component = (
        line.weights
        * torch.exp(-((grid[:, None] - line.means[:, 0]) ** 2) / (2 * line.variances[:, 0]))
        / line.variances[:, 0] ** 0.5
    )
    joint = per_component * torch.exp(-((x_next - a**0.5 * grid) ** 2) / (2 * (1 - a)))[:, None]
    return grid, joint / joint.sum()


def test_eq_label_blind():
    # what `martingale_gap` noises, seen by the classifier that it asks: a step from x_t has the
    # same slope, centre and width for every class
    x_0, seen = (
        torch.cat(
            [LINE.sample(50_000, label, torch.Generator().manual_seed(label)) for label in (0, 1)]
        ),
        {},
    )

    def listen(x, t):
        seen.setdefault(t[0].item(), []).append(x)
        return torch.zeros(len(x), 2)

    gde.martingale_gap(listen, LINEAR, x_0, levels=3, generator=torch.Generator().manual_seed(2))
    beta, n = 1 - (LINEAR.alpha_bars[500] / LINEAR.alpha_bars[0]).item(), 50_000**0.5
    for x, later in zip(seen[0][0].split(50_000), seen[500][0].split(50_000)):
        rest = later - (1 - beta) ** 0.5 * x
        assert (
            abs(rest.mean()) < 5 * beta**0.5 / n and abs(rest.var() - beta) < 5 * beta * 2**0.5 / n
        )
        assert abs((rest * x).mean()) < 5 * beta**0.5 * x.square().mean() ** 0.5 / n


def test_eq_guided_product():
    for t, x_next in ((50, 0.3), (300, 0.5)):
        grid, joint = exact_joint(LINEAR, t, x_next)
        conditional = joint[:, 1] / joint[:, 1].sum()  # q(x_t | x_next, y = 1)
        Z = (
            1
            / LINE.at(LINEAR.alpha_bars[t + 1].item())
            .class_log_probs(torch.tensor([[x_next]], dtype=DOUBLE))
            .exp()[0, 1]
        )
        product = (
            Z
            * joint.sum(1)
            * LINE.at(LINEAR.alpha_bars[t].item()).class_log_probs(grid[:, None])[:, 1].exp()
        )
        assert (conditional - product).abs().max() < 1e-10


def test_eq_model_product():
    # the normalised product of a Gaussian and the exact classifier: its mean is the guided mean but
    # for an error of second order in the variance
    noised, centre = LINE.at(0.5), torch.tensor([[0.3]], dtype=DOUBLE)
    g = gde.classifier_guidance(lambda x, t: noised.class_log_probs(x), torch.tensor([1]))(
        centre, None
    ).item()
    miss = []
    for variance in (0.002, 0.001):
        d = variance**0.5 * torch.linspace(-9, 9, 9001, dtype=DOUBLE)
        p = (-(d**2) / (2 * variance) + noised.class_log_probs(0.3 + d[:, None])[:, 1]).softmax(0)
        miss.append((gde.guided_mean(0.3, variance, g) - 0.3 - (p * d).sum()).item())
    assert miss[0] / miss[1] == pytest.approx(4, rel=0.02) and abs(miss[1]) < 0.02 * abs(g) * 0.001


def test_eq_martingale():
    for t, x_next in ((10, 0.9), (300, 0.5), (700, -1.0)):
        grid, joint = exact_joint(LINEAR, t, x_next)
        now = LINE.at(LINEAR.alpha_bars[t].item()).class_log_probs(grid[:, None])[:, 1].exp()
        before = (
            LINE.at(LINEAR.alpha_bars[t + 1].item())
            .class_log_probs(torch.tensor([[x_next]], dtype=DOUBLE))
            .exp()[0, 1]
        )
        assert (joint.sum(1) * now).sum().item() == pytest.approx(before.item(), abs=1e-10)


def test_eq_taylor():
    pair = gde.GaussianMixture([[-1.0], [1.0]], [0.5, 0.5])
    mu = torch.tensor([[0.2]], dtype=DOUBLE)
    gradient = gde.classifier_guidance(lambda x, t: pair.class_log_probs(x), torch.tensor([1]))(
        mu, None
    )

    def remainder(h):
        return (
            pair.class_log_probs(mu + h)[0, 1] - pair.class_log_probs(mu)[0, 1] - h * gradient
        ).item()

    assert remainder(0.01) / remainder(0.005) == pytest.approx(
        4, rel=0.02
    )  # what is left is of second order


def test_eq_scaled_shift():
    world = gde.four_corners()
    x, t, y = randn(10, 2), torch.full((10,), 200), torch.arange(10) % 2
    one, four = (gde.classifier_guidance(world.classifier(LINEAR), y, k)(x, t) for k in (1.0, 4.0))
    noised = world.at(LINEAR.alpha_bars[200].item())
    assert torch.allclose(four, 4 * (noised.score(x, y) - noised.score(x)), atol=1e-10)
    assert torch.allclose(gde.guided_mean(x, 0.1, four), x + 0.4 * one)

    def logits(x, t):
        return world.classifier(LINEAR)(x, t) + 7 * x.sum(
            -1, keepdim=True
        )  # logits may differ from log-probabilities by anything common to all classes

    assert torch.allclose(gde.classifier_guidance(logits, y)(x, t), one, atol=1e-9)


def test_eq_martingale_gap():
    x_0, clean = LINE.sample(20_000, generator=torch.Generator().manual_seed(0)), LINE.at(1.0)
    exact = LINE.classifier(LINEAR)

    def z(classifier):
        t, gap, error = gde.martingale_gap(
            classifier, LINEAR, x_0, generator=torch.Generator().manual_seed(1)
        )
        assert t.tolist() == [0, 111, 222, 333, 444, 555, 666, 777, 888]
        return gap / error

    assert z(exact).abs().max() < 4
    assert z(lambda x, t: 3 * exact(x, t)).min() < -20  # overconfident: taken back
    assert z(lambda x, t: 0.3 * exact(x, t)).max() > 20  # too timid
    assert z(lambda x, t: clean.class_log_probs(x)).min() < -20  # never saw noise
    assert (
        z(lambda x, t: torch.zeros(len(x), 2)).nan_to_num().abs().max() == 0
    )  # no opinion passes: the test is not sufficient
    few, short, g, rows = x_0[:5], gde.respace(LINEAR, 3), torch.Generator().manual_seed(2), []
    for i, t, t_next in ((0, 0, 500), (1, 500, 999)):  # by hand, with the same noise
        x_t = short.add_noise(
            few, torch.full((5,), i), torch.randn(few.shape, dtype=DOUBLE, generator=g)
        )
        later = exact(
            (1 - short.betas[i + 1]).sqrt() * x_t
            + short.betas[i + 1].sqrt() * torch.randn(few.shape, dtype=DOUBLE, generator=g),
            torch.full((5,), t_next),
        ).softmax(1)
        rows.append(((exact(x_t, torch.full((5,), t)).softmax(1) - later) * later).sum(1))
    t, gap, error = gde.martingale_gap(
        exact, LINEAR, few, levels=3, generator=torch.Generator().manual_seed(2)
    )
    assert t.tolist() == [0, 500] and torch.allclose(gap, torch.stack(rows).mean(1), rtol=1e-9)
    assert torch.allclose(error, torch.stack([row.std() for row in rows]) / 5**0.5, rtol=1e-9)


def test_eq_complete_square():
    # the product of a Gaussian with a log-linear factor, on a grid in the plane, is the Gaussian
    # that the square names
    sigma, g, mu = (
        torch.tensor([[0.3, 0.1], [0.1, 0.2]], dtype=DOUBLE),
        torch.tensor([0.7, -1.1], dtype=DOUBLE),
        torch.tensor([0.2, 0.1], dtype=DOUBLE),
    )
    side = torch.linspace(-5, 5, 401, dtype=DOUBLE)
    grid = torch.cartesian_prod(side, side)
    product = gaussian_log(grid, mu, sigma) + (grid - mu) @ g
    shifted, covariance = second_order_step(
        mu[None], sigma[None], g[None], torch.zeros(1, 2, 2, dtype=DOUBLE)
    )
    difference = product - gaussian_log(grid, shifted[0], covariance[0])
    assert torch.allclose(
        difference, 0.5 * g @ sigma @ g * torch.ones(len(grid), dtype=DOUBLE), atol=1e-9
    )  # C_3 - C_2: one constant everywhere


def test_eq_mean_shift():
    # a log-linear classifier makes it exact: compare with the normalised product on a grid
    grid = torch.linspace(-8, 8, 8001, dtype=DOUBLE)
    product = (-((grid - 0.3) ** 2) / (2 * 0.25) + 1.7 * grid).softmax(0)
    assert gde.guided_mean(0.3, 0.25, 1.7) == pytest.approx((product * grid).sum().item(), abs=1e-9)


def test_eq_hessian_step():
    # a Gaussian likelihood is exactly quadratic, so the step is exactly Bayes' rule for Gaussians
    S, R = (
        torch.tensor([[0.5, 0.2], [0.2, 0.4]], dtype=DOUBLE),
        torch.tensor([[0.3, -0.1], [-0.1, 0.6]], dtype=DOUBLE),
    )
    mu, c = randn(2), randn(2, seed=1)
    mean, covariance = second_order_step(
        mu[None], S[None], (R.inverse() @ (c - mu))[None], -R.inverse()[None]
    )
    precision = S.inverse() + R.inverse()
    assert torch.allclose(covariance[0], precision.inverse()) and torch.allclose(
        mean[0], precision.inverse() @ (S.inverse() @ mu + R.inverse() @ c)
    )
    wide, flat = (
        4 * torch.eye(2, dtype=DOUBLE)[None],
        torch.zeros(1, 2, 2, dtype=DOUBLE),
    )  # a precision of 1/4 is positive as well
    assert torch.allclose(second_order_step(mu[None], wide, mu[None], flat)[0], 5 * mu[None])
    with pytest.raises(ValueError, match="hessian must be smaller"):
        second_order_step(mu[None], S[None], mu[None], 9 * torch.eye(2, dtype=DOUBLE)[None])


def test_eq_small_difference():
    # total variation and divergence of laws that differ by e^r, from the moments of r on the grid,
    # are those of the error law
    z = torch.linspace(-9, 9, 18_001, dtype=DOUBLE)
    q = (-(z**2) / 2).softmax(0)

    def mean(f):
        return (q * f).sum()

    for size, power, order in ((0.02, 1, 0), (0.01, 2, 1), (0.003, 3, 2)):
        r = size * z**power / math.factorial(power)
        true = (q.log() + r).softmax(0)
        tv, kl = total_variation(true, q), mean(true / q * (true / q).log()).item()
        assert tv == pytest.approx((0.5 * mean((r - mean(r)).abs())).item(), rel=0.02)
        assert kl == pytest.approx((0.5 * mean((r - mean(r)) ** 2)).item(), rel=0.06)
        derivatives = [0.0, 0.0, 0.0]
        derivatives[order] = -size
        law = error_law(1.0, *derivatives)
        assert law[order] == pytest.approx((tv, kl), rel=0.06) and sum(map(sum, law)) == sum(
            law[order]
        )


def test_eq_error_law():
    pair, place = (
        gde.GaussianMixture([[-1.0], [1.0]], [0.5, 0.5]),
        torch.tensor([[0.2]], dtype=DOUBLE, requires_grad=True),
    )
    for s in (1, 4):
        value, derivatives = s * pair.class_log_probs(place)[0, 1], []
        for _ in range(3):
            value = torch.autograd.grad(value, place, create_graph=True)[0].sum()
            derivatives.append(value.item())
        g, H, T = derivatives
        measured = {}
        for std in (0.004, 0.008):
            d = std * torch.linspace(-9, 9, 6001, dtype=DOUBLE)
            true = -(d**2) / (2 * std**2) + s * pair.class_log_probs(0.2 + d[:, None])[:, 1]
            true = (true - torch.trapezoid(true.exp(), d).log()).detach()
            second = second_order_step(
                *(torch.tensor(v, dtype=DOUBLE) for v in ([[0.0]], [[[std**2]]], [[g]], [[[H]]]))
            )
            laws = [
                (0.0, std),
                (gde.guided_mean(0.0, std**2, g), std),
                (second[0].item(), second[1].item() ** 0.5),
            ]
            logs = [Normal(torch.tensor(m, dtype=DOUBLE), v).log_prob(d) for m, v in laws]
            measured[std] = torch.tensor(
                [
                    [
                        0.5 * torch.trapezoid((true.exp() - q.exp()).abs(), d),
                        torch.trapezoid(true.exp() * (true - q), d),
                    ]
                    for q in logs
                ],
                dtype=DOUBLE,
            )
            predicted = torch.tensor(error_law(std**2, g, H, T), dtype=DOUBLE)
            assert torch.allclose(measured[std], predicted, rtol=0.04, atol=0), (
                s,
                std,
                measured[std] / predicted,
            )
        slopes = (measured[0.008] / measured[0.004]).log2() / 2  # in Sigma
        assert (slopes - torch.tensor([[0.5, 1], [1, 2], [1.5, 3]])).abs().max() < 0.03
