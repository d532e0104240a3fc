"""Each labelled equation, by the name of its label, numerically: what the package as imported computes against the definition, by a grid, by autograd or by another library.

The tests take no fixtures, so that `test_mutations.py` can call each on a broken copy of the package."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

import guided_diffusion_edu as gde
from guided_diffusion_edu import evaluation
from guided_diffusion_edu.classifier import AttentionPool
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
from guided_diffusion_edu.diagnostics import (
    contrast,
    dynamic_threshold,
    early_push,
    means_gradient,
    mode_shares,
    target_contrast,
    target_shares,
    transfer_gap,
)
from guided_diffusion_edu.flows import (
    eps_from_flow,
    flow_eps_model,
    flow_guidance,
    flow_sample,
    flow_time,
    guided_score,
    guided_velocity,
    model_velocity,
    reverse_drift,
    sde_sample,
    to_flow,
    velocity_from_eps,
    vp_rate,
)
from guided_diffusion_edu.lab.leaderboard import (
    BINS,
    METHODS,
    edm,
    map_variation,
    pushforward,
    sample_entry,
    sampling_floor,
    score_table,
    tilted_distribution,
)
from guided_diffusion_edu.lab.linear_gaussian import (
    ddim_variance,
    ddpm_variance,
    target_variance,
    third_order_shift,
    toy_guidance,
    toy_model,
    toy_moments,
    toy_step_at_mean,
    toy_step_at_x_t,
    toy_step_by_eps,
    toy_step_ddim,
)
from guided_diffusion_edu.lab.quadrature import (
    class_distribution,
    eps_tilt,
    exact_class,
    exact_kernel,
    gaussian_kernel,
    guided_chain,
    hessian_tilt,
    matched_kernel,
    mean_tilt,
    moments_tilt,
    no_tilt,
    product_tilt,
    step_moments,
    total_variation,
    x_t_tilt,
)
from guided_diffusion_edu.layers import Norm, attend, halve, queries_first
from guided_diffusion_edu.particles import (
    annealed_twist,
    effective_sample_size,
    log_ratio,
    particle_sample,
    power_twist,
    systematic,
    value_and_gradient,
)
from guided_diffusion_edu.performance import (
    guided_cost,
    interval_guidance,
    matmul_rate,
    speedup,
    utilisation,
)
from guided_diffusion_edu.pretrained import standard_error
from guided_diffusion_edu.samplers import ddim_sigma, shift_ratio
from guided_diffusion_edu.solvers import (
    edm_steps,
    exponential_step,
    flow_map,
    heun,
    mixture_cdf,
    noise_to_signal,
    stochastic_step,
    two_m,
)
from guided_diffusion_edu.tradeoff import matching_scale
from guided_diffusion_edu.training import backward, clip_gradient, moving_average
from guided_diffusion_edu.training_free import (
    class_loss,
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
    waiting,
    x_0_guidance,
)

DOUBLE = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


WORLD = gde.GaussianMixture(
    randn(4, 2), [0.3, 0.5, 0.4, 0.6], weights=[1, 2, 3, 4], labels=[0, 1, 1, 2]
)

LINEAR = gde.linear_schedule()
LINE = gde.GaussianMixture(
    [[-1.0], [0.2], [1.2]], [0.2, 0.15, 0.25], weights=[0.3, 0.3, 0.4], labels=[0, 1, 0]
)


def gaussian_log(points, mean, cov):
    return torch.distributions.MultivariateNormal(mean, cov).log_prob(points)


def test_eq_pixels():
    levels = torch.arange(256, dtype=torch.uint8)
    assert gde.from_pixels(levels)[[0, 255]].tolist() == [-1, 1]
    assert torch.equal(gde.to_pixels(gde.from_pixels(levels)), levels)
    assert gde.to_pixels(torch.tensor([0.0, 2.0, -2.0])).tolist() == [128, 255, 0]


def test_eq_forward_step():
    # one step of the package's chain, from alpha_bar to alpha_bar: mean factor sqrt(1 - beta), variance beta
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
    f = lambda u: math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
    s = gde.cosine_schedule(50)
    for t in (1, 2, 25, 49, 50):
        wanted = min(1 - f(t / 50) / f((t - 1) / 50), 0.999)
        assert s.betas[t - 1].item() == pytest.approx(wanted, rel=1e-9)


def test_eq_betas_from_curve():
    s = gde.schedule_from_alpha_bar(lambda u: 3 * torch.exp(-2 * u - u**2), 20)
    u = torch.arange(1, 21, dtype=DOUBLE) / 20
    assert torch.allclose(s.alpha_bars, torch.exp(-2 * u - u**2), rtol=1e-12)
    assert gde.schedule_from_alpha_bar(lambda u: 1 - u**8, 10, max_beta=0.3).betas.max() == 0.3
    for wrong in (lambda u: 1 + u, lambda u: torch.cos(9 * u), lambda u: 0.5 - u):
        with pytest.raises(ValueError, match="alpha_bar must be positive and fall"):
            gde.schedule_from_alpha_bar(wrong, 10)


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


def test_eq_mixture():
    points, weights = randn(20, 2, seed=2), WORLD.weights
    wanted = sum(
        w * gaussian_log(points, m, v.diag()).exp()
        for w, m, v in zip(weights, WORLD.means, WORLD.variances)
    )
    assert torch.allclose(WORLD.log_prob(points).exp(), wanted) and weights.sum() == 1
    # two trees of three branches: each a segment of uniform points, a little wide, and its turned twin
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
    world = gde.GaussianMixture(means, covs, weights=[0.2, 0.3, 0.5])
    for a in (0.9, 0.3, 0.01):
        wanted = sum(
            w * gaussian_log(points, a**0.5 * m, a * C + (1 - a) * torch.eye(3, dtype=DOUBLE)).exp()
            for w, m, C in zip((0.2, 0.3, 0.5), means, covs)
        )
        assert torch.allclose(world.at(a).log_prob(points).exp(), wanted)
    drawn = world.sample(400_000, label=1, generator=torch.Generator().manual_seed(0))
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


def test_eq_learned_variance():
    t = torch.tensor([1, 10, 500])
    small, large = gde.small_variance(LINEAR)[t], LINEAR.betas[t]
    for v in (-1.0, -0.3, 0.0, 1.0):
        wanted = small ** ((1 - v) / 2) * large ** ((1 + v) / 2)
        assert torch.allclose(
            gde.learned_variance(torch.full((3, 1), v, dtype=DOUBLE), LINEAR, t)[:, 0],
            wanted,
            rtol=1e-10,
        )
    first = gde.learned_variance(torch.full((1, 1), -1.0, dtype=DOUBLE), LINEAR, torch.tensor([0]))
    assert first.item() == pytest.approx(gde.small_variance(LINEAR)[1].item())
    assert gde.large_variance(LINEAR)[0] == gde.small_variance(LINEAR)[1] and torch.equal(
        gde.large_variance(LINEAR)[1:], LINEAR.betas[1:]
    )


def test_eq_simple_loss():
    x_0, noise, t = (
        randn(6, 1, 4, 4),
        randn(6, 1, 4, 4, seed=1),
        torch.tensor([0, 1, 10, 100, 500, 999]),
    )
    guess = lambda x, t, y=None: torch.cat(
        [0.5 * x, 100 + x], 1
    )  # the second half is a variance: ignored
    wanted = torch.stack(
        [(noise[i] - 0.5 * LINEAR.add_noise(x_0, t, noise)[i]).square().mean() for i in range(6)]
    )
    assert torch.allclose(gde.simple_loss(guess, LINEAR, x_0, t, noise), wanted)
    # a respaced chain tells the model the original step
    heard = []
    gde.simple_loss(
        lambda x, t, y=None: heard.append(t) or x,
        gde.respace(LINEAR, 10),
        x_0[:2],
        torch.tensor([0, 9]),
        noise[:2],
    )
    assert heard[0].tolist() == [0, 999]


def exact_joint(schedule, t, x_next):
    "On a grid of x_t: q(x_t | x_next, k) w_k(x_next) for each component k, (N, K), from the joint law and nothing else."
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
    # what `martingale_gap` noises, seen by the classifier that it asks: a step from x_t has the same slope, centre and width for every class
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
    # the normalised product of a Gaussian and the exact classifier: its mean is the guided mean but for an error of second order in the variance
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
    remainder = lambda h: (
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
    logits = lambda x, t: (
        world.classifier(LINEAR)(x, t) + 7 * x.sum(-1, keepdim=True)
    )  # logits may differ from log-probabilities by anything common to all classes
    assert torch.allclose(gde.classifier_guidance(logits, y)(x, t), one, atol=1e-9)


def test_eq_score_eps():
    x = randn(10, 2)
    for t in (3, 500):
        score = gde.score_from_eps(
            WORLD.denoiser(LINEAR)(x, torch.full((10,), t)), LINEAR.alpha_bars[t].item()
        )
        points = x.clone().requires_grad_()
        (by_autograd,) = torch.autograd.grad(
            WORLD.at(LINEAR.alpha_bars[t].item()).log_prob(points).sum(), points
        )
        assert torch.allclose(score, by_autograd, atol=1e-9)


def test_eq_eps_hat():
    x, y, t = randn(12, 2), torch.arange(12) % 3, torch.full((12,), 400)
    model = WORLD.denoiser(LINEAR)
    hat = gde.guided_eps(
        model(x, t),
        LINEAR.alpha_bars[400],
        gde.classifier_guidance(WORLD.classifier(LINEAR), y)(x, t),
    )
    assert torch.allclose(hat, model(x, t, y), atol=1e-9)


def test_eq_ddim_family():
    # a denoiser that knows x_0: whatever eta is, every step of the package's sampler lands on q(x_t | x_0)
    s, x_0 = gde.respace(LINEAR, 4), 1.5

    def knows(x, t, y):
        return gde.eps_from_x_0(x, x_0, LINEAR.alpha_bars[t[0]].item())

    x_T = s.alpha_bars[-1].sqrt() * x_0 + (1 - s.alpha_bars[-1]).sqrt() * randn(200_000, 1)
    for eta in (0.0, 0.7, 1.0):
        _, path = gde.ddim_sample(
            knows,
            s,
            x_T.shape,
            x_T=x_T,
            eta=eta,
            clip=False,
            trajectory=True,
            generator=torch.Generator().manual_seed(1),
        )
        for a, x in zip(s.alpha_bars_prev.flip(0).tolist(), path[1:]):
            assert x.mean().item() == pytest.approx(
                a**0.5 * x_0, abs=0.01
            ) and x.var().item() == pytest.approx(1 - a, rel=0.02, abs=1e-9)
    assert (path[-1] - x_0).abs().max() < 1e-9


def test_eq_ddim_step():
    # a denoiser that always says 0.5: every step can be followed by hand
    steps, x_T = gde.respace(LINEAR, 3), randn(2, 1, 2, 2)
    _, path = gde.ddim_sample(
        lambda x, t, y: torch.full_like(x, 0.5),
        steps,
        x_T.shape,
        x_T=x_T,
        clip=False,
        trajectory=True,
    )
    for i, before, after in zip((2, 1, 0), path, path[1:]):
        a, a_prev = steps.alpha_bars[i], steps.alpha_bars_prev[i]
        assert torch.allclose(
            after,
            a_prev**0.5 * (before - (1 - a) ** 0.5 * 0.5) / a**0.5 + (1 - a_prev) ** 0.5 * 0.5,
            atol=1e-10,
        )


def test_eq_ddim_sigma():
    for a, a_prev in ((0.4, 0.5), (0.01, 0.9)):
        assert ddim_sigma(a, a_prev, 0.3) == pytest.approx(
            0.3 * bayes_back(0.0, 0.0, a, a_prev)[1] ** 0.5, abs=1e-9
        )
    assert ddim_sigma(0.4, 0.5, 0.0) == 0 and ddim_sigma(0.4, 1.0, 1.0) == 0


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
        gde.AddedNorm(8, 6, groups=4).double(),
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
        gde.ResBlock(4, 6, out_channels=8, resample=halve, groups=2).double(),
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


def test_eq_attention():
    qkv = randn(2, 3 * 8, 5)
    out = attend(qkv, heads=2)
    for head in range(2):
        q, k, v = (qkv[0, part * 8 + head * 4 : part * 8 + head * 4 + 4].T for part in range(3))
        assert torch.allclose(out[0, head * 4 : head * 4 + 4].T, (q @ k.T / 2).softmax(-1) @ v)


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


def test_eq_ema():
    model = torch.nn.Linear(2, 2)
    start = model.weight.detach().clone()
    average = moving_average(model, 0.8)
    torch.nn.init.ones_(model.weight)
    average.update_parameters(model)
    assert torch.allclose(average.module.weight, 0.8 * start + 0.2)


def test_eq_shares():
    "The whole batch at once, in parts one after another, and as the mean over two processes of rows k, k + 2, ..."
    batch, idle = (
        (randn(8, 1), torch.zeros(8), torch.zeros(8), randn(8, 1, seed=1)),
        torch.amp.GradScaler("cpu", enabled=False),
    )

    def loss(model, schedule, x_0, y, t, eps):
        return (model(x_0) - eps).square()[:, 0]

    def gradient(accumulate, rows=slice(None)):
        model = torch.nn.Linear(1, 1).double()
        for p in model.parameters():
            torch.nn.init.constant_(p, 0.3)
        share = [part[rows] for part in batch]
        losses = backward(model, loss, None, share, torch.arange(8.0)[rows], idle, accumulate)
        assert torch.allclose(losses, loss(model, None, *share))
        return model.weight.grad

    whole = gradient(1)
    x, eps, weight = batch[0][:, 0], batch[3][:, 0], torch.arange(8.0)
    assert torch.allclose(whole, (weight * 2 * (0.3 * x + 0.3 - eps) * x).mean())
    assert torch.allclose(gradient(4), whole) and torch.allclose(
        (gradient(2, slice(0, None, 2)) + gradient(1, slice(1, None, 2))) / 2, whole
    )


def test_eq_clip():
    model = torch.nn.Linear(3, 2).double()
    for length, c in ((5.0, 1.0), (0.3, 1.0), (40.0, 2.0)):
        g = randn(8)
        g = g / g.norm() * length
        model.weight.grad, model.bias.grad = g[:6].view(2, 3).clone(), g[6:].clone()
        assert clip_gradient(model, c).item() == pytest.approx(length)
        cut = torch.cat([model.weight.grad.flatten(), model.bias.grad])
        assert torch.allclose(cut, g * min(1, c / length), rtol=1e-5)


def test_eq_share_error():
    shares = (
        (torch.rand(20_000, 300, generator=torch.Generator().manual_seed(0)) < 0.97)
        .double()
        .mean(1)
    )
    assert shares.std().item() == pytest.approx(standard_error(0.97, 300), rel=0.03)


def test_eq_forward_between():
    short = gde.respace(LINEAR, [3, 3])  # its steps jump over many of the long chain's
    for i in range(1, 6):
        first, last = short.timesteps[i - 1].item(), short.timesteps[i].item()
        between = torch.prod(1 - LINEAR.betas[first + 1 : last + 1])
        assert short.alphas[i].item() == pytest.approx(between.item(), rel=1e-12)


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


def bayes_back(x_0, x_t, a, a_prev):
    "Mean and variance of q(x_{t-1} | x_t, x_0) by Bayes' rule on a grid."
    grid, ratio = torch.linspace(-9, 9, 12_001, dtype=DOUBLE), a / a_prev
    p = (
        -((x_t - ratio**0.5 * grid) ** 2) / (2 * (1 - ratio))
        - (grid - a_prev**0.5 * x_0) ** 2 / (2 * (1 - a_prev))
    ).softmax(0)
    mean = (p * grid).sum()
    return mean.item(), (p * (grid - mean) ** 2).sum().item()


def test_eq_posterior_variance():
    assert torch.allclose(
        gde.small_variance(LINEAR)[1:],
        (1 / (LINEAR.alphas / LINEAR.betas + 1 / (1 - LINEAR.alpha_bars_prev)))[1:],
        rtol=1e-8,
    )
    assert gde.small_variance(LINEAR)[0] == 0 and gde.posterior_variance(0.4, 0.5) == pytest.approx(
        bayes_back(1.3, 0.4, 0.4, 0.5)[1], abs=1e-9
    )


def test_eq_posterior_mean():
    for case in ((1.3, 0.4, 0.4, 0.5), (-0.7, 2.0, 0.1, 0.7)):
        assert gde.posterior_mean(*case) == pytest.approx(bayes_back(*case)[0], abs=1e-9)


def test_eq_eps_to_x0():
    assert gde.x_0_from_eps(0.8**0.5 * 3 + 0.2**0.5 * 5, 5, 0.8) == pytest.approx(3)


def test_eq_x0_to_eps():
    assert gde.eps_from_x_0(0.8**0.5 * 3 + 0.2**0.5 * 5, 3, 0.8) == pytest.approx(5)


def test_eq_mean_from_eps():
    for a, a_prev in ((0.5, 0.6), (0.01, 0.3), (0.9998, 0.9999)):
        x, e = randn(7), randn(7, seed=1)
        assert torch.allclose(
            gde.mean_from_eps(x, e, a, a_prev),
            gde.posterior_mean(gde.x_0_from_eps(x, e, a), x, a, a_prev),
            atol=1e-10,
        )


def step_back(world, t_from, t_to, x, y=None):
    "Mean and variance of q(x_{t_to} | x_{t_from} = x) in a one-dimensional world by Bayes' rule on a grid."
    a, a_prev = LINEAR.alpha_bars[[t_from, t_to]].tolist()
    grid = torch.linspace(-9, 9, 36_001, dtype=DOUBLE)
    log = world.at(a_prev).log_prob(
        grid[:, None], None if y is None else torch.full((len(grid),), y)
    )
    p = (log - (x - (a / a_prev) ** 0.5 * grid) ** 2 / (2 * (1 - a / a_prev))).softmax(0)
    mean = (p * grid).sum()
    return mean.item(), (p * (grid - mean) ** 2).sum().item(), a, a_prev


def test_eq_step_tweedie():
    for t_from, t_to, x in ((600, 300, 0.4), (10, 9, 1.0), (999, 0, -0.5)):
        wanted, _, a, a_prev = step_back(LINE, t_from, t_to, x)
        here = torch.tensor([[x]], dtype=DOUBLE)
        assert gde.mean_from_eps(
            here, LINE.denoiser(LINEAR)(here, torch.tensor([t_from])), a, a_prev
        ).item() == pytest.approx(wanted, abs=1e-7)


def test_eq_step_variance():
    for t_from, t_to, x in ((600, 300, 0.4), (101, 100, 0.0)):
        _, wanted, a, a_prev = step_back(LINE, t_from, t_to, x)
        grid = torch.linspace(-4, 4, 40_001, dtype=DOUBLE)
        p = (LINE.log_prob(grid[:, None]) - (x - a**0.5 * grid) ** 2 / (2 * (1 - a))).softmax(0)
        of_x_0 = (p * grid**2).sum() - (p * grid).sum() ** 2
        assert gde.step_variance(of_x_0, a, a_prev).item() == pytest.approx(wanted, abs=1e-7)
        assert gde.step_variance(1 - a, a, a_prev) == pytest.approx(1 - a / a_prev, abs=1e-12)
        assert wanted > gde.posterior_variance(a, a_prev)


def pixels(*shape):
    return (
        torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)) / 127.5 - 1
    ).double()


def term_by_hand(s, step, x_0, x_t, eps, log_variance, clip=True):
    "The bound's term at `step` of the schedule, in bits a dimension, by torch.distributions."
    a, a_prev, small = (
        s.alpha_bars[step].item(),
        s.alpha_bars_prev[step].item(),
        gde.small_variance(s)[max(step, 1)].item(),
    )
    guess = (x_t - (1 - a) ** 0.5 * eps) / a**0.5
    model = Normal(
        gde.posterior_mean(guess.clamp(-1, 1) if clip else guess, x_t, a, a_prev),
        math.exp(log_variance / 2),
    )
    if step:
        wanted = kl_divergence(Normal(gde.posterior_mean(x_0, x_t, a, a_prev), small**0.5), model)
    else:
        wanted = -(
            model.cdf(torch.where(x_0 > 0.999, 99, x_0 + 1 / 255))
            - model.cdf(torch.where(x_0 < -0.999, -99, x_0 - 1 / 255))
        ).log()
    return wanted.mean().item() / math.log(2)


def learned_log(s, step, v):
    return (1 + v) / 2 * math.log(s.betas[step]) + (1 - v) / 2 * math.log(
        gde.small_variance(s)[max(step, 1)]
    )


def test_eq_vlb():
    # term by term, for a network with a learned variance and for fixed ones, whose first is the second small one
    x_0, t, noise = pixels(4, 1, 3, 3), torch.tensor([0, 1, 50, 999]), randn(4, 1, 3, 3)
    x_t = LINEAR.add_noise(x_0, t, noise)
    learned = gde.bound_term(
        torch.cat([0.9 * noise, torch.full_like(noise, 0.3)], 1), LINEAR, x_0, x_t, t
    )
    small, large = (
        gde.bound_term(0.9 * noise, LINEAR, x_0, x_t, t, fixed)
        for fixed in (gde.small_variance, gde.large_variance)
    )
    for i, step in enumerate(t.tolist()):
        for got, v in ((learned, 0.3), (small, -1), (large, 1 if step else -1)):
            wanted = term_by_hand(
                LINEAR, step, x_0[i], x_t[i], 0.9 * noise[i], learned_log(LINEAR, step, v)
            )
            assert got[i].item() == pytest.approx(wanted, rel=1e-6), (step, v)


def test_eq_gaussian_kl():
    for m, s, n, r in ((0.3, 0.5, -0.2, 0.8), (0.0, 1e-3, 0.1, 1e-2), (5.0, 2.0, 5.0, 2.0)):
        p, q = (
            Normal(torch.tensor(m, dtype=DOUBLE), torch.tensor(s, dtype=DOUBLE)),
            Normal(torch.tensor(n, dtype=DOUBLE), torch.tensor(r, dtype=DOUBLE)),
        )
        assert gde.gaussian_kl(
            p.loc, 2 * p.scale.log(), q.loc, 2 * q.scale.log()
        ).item() == pytest.approx(kl_divergence(p, q).item(), abs=1e-12)


def test_eq_decoder():
    levels = torch.arange(256, dtype=DOUBLE) / 127.5 - 1
    for mean, std in ((0.1, 0.2), (0.99, 0.01), (-3.0, 1.0), (0.0, 100.0)):
        law = Normal(torch.tensor(mean, dtype=DOUBLE), std)
        log = gde.decoder_log_prob(levels, law.loc, torch.tensor(2 * math.log(std), dtype=DOUBLE))
        assert log.exp().sum().item() == pytest.approx(1, abs=1e-12)
        inner = law.cdf(levels + 1 / 255) - law.cdf(levels - 1 / 255)
        assert torch.allclose(log.exp()[1:-1], inner[1:-1], atol=1e-12)
        assert log[0].exp().item() == pytest.approx(law.cdf(levels[0] + 1 / 255).item(), abs=1e-12)
    far = gde.decoder_log_prob(
        levels[250:252], torch.tensor(-1.0), torch.tensor(-5.0)
    )  # 24 standard deviations up
    assert (
        far[0] > far[1] > -700
    )  # digits are not lost in the upper tail: the nearer level is the likelier, and no floor was hit


def test_eq_vlb_weight():
    x_0, noise, error = (
        0.1 * randn(5, 1, 2, 2),
        0.3 * randn(5, 1, 2, 2, seed=1),
        0.2 * randn(5, 1, 2, 2, seed=2),
    )
    t = torch.tensor([1, 2, 10, 100, 300])
    got = gde.bound_term(noise + error, LINEAR, x_0, LINEAR.add_noise(x_0, t, noise), t) * math.log(
        2
    )
    assert torch.allclose(
        got, gde.bound_weight(LINEAR)[t] * error.square().flatten(1).mean(1), rtol=1e-8
    )
    assert gde.bound_weight(LINEAR)[0] == torch.inf


def test_eq_hybrid_loss():
    x_0, t, noise = pixels(4, 1, 2, 2), torch.tensor([0, 1, 50, 99]), randn(4, 1, 2, 2)
    s = gde.linear_schedule(100)
    guess = randn(4, 2, 2, 2, seed=3).requires_grad_()
    loss = gde.hybrid_loss(lambda x, t, y: guess, s, x_0, t, noise)
    simple = (guess[:, :1] - noise).square().flatten(1).mean(1)
    x_t = s.add_noise(x_0, t, noise)
    for i, step in enumerate(t.tolist()):  # the variance differs from pixel to pixel: one at a time
        logs, parts = (
            [learned_log(s, step, v) for v in guess[i, 1].flatten().tolist()],
            [a[i].detach().flatten() for a in (x_0, x_t, guess[:, :1])],
        )
        bits = (
            sum(
                term_by_hand(s, step, *(part[k : k + 1] for part in parts), logs[k], clip=False)
                for k in range(4)
            )
            / 4
        )
        # T = 100 terms, lambda = 0.001 in bits; in nats it is 0.001 / log 2
        assert loss[i].item() == pytest.approx(
            simple[i].item() + 100 * 0.001 / math.log(2) * (bits * math.log(2)), rel=1e-6
        )
    heard = []  # on a short chain the model is told the step of the long one, and the class
    gde.hybrid_loss(
        lambda *asked: heard.append(asked[1:]) or guess[:2],
        gde.respace(LINEAR, 10),
        x_0[:2],
        torch.tensor([0, 9]),
        noise[:2],
        torch.tensor([3, 4]),
    )
    assert [asked.tolist() for asked in heard[0]] == [[0, 999], [3, 4]]
    (of_all,) = torch.autograd.grad(loss.sum(), guess, retain_graph=True)
    (of_simple,) = torch.autograd.grad(simple.sum(), guess)
    assert torch.allclose(of_all[:, :1], of_simple[:, :1]) and (of_all[:, 1:] != 0).all()
    with pytest.raises(ValueError, match="model must give 2 channels"):
        gde.hybrid_loss(lambda x, t, y: x, s, x_0, t, noise)


def test_eq_v_to_eps():
    x_0, noise = randn(5, 3), randn(5, 3, seed=1)
    for a in (0.9999, 0.5, 1e-4):
        x_t, v = a**0.5 * x_0 + (1 - a) ** 0.5 * noise, a**0.5 * noise - (1 - a) ** 0.5 * x_0
        assert torch.allclose(gde.eps_from_v(x_t, v, a), noise, atol=1e-12)


def test_eq_mean_to_eps():
    x_t, noise = randn(5, 3), randn(5, 3, seed=1)
    for a, b in ((0.5, 0.6), (0.01, 0.02), (0.998, 0.999)):
        mean = gde.posterior_mean(gde.x_0_from_eps(x_t, noise, a), x_t, a, b)
        assert torch.allclose(gde.eps_from_mean(x_t, mean, a, b), noise, atol=1e-10)


def test_eq_target_weight():
    # a model of each output, wrong by a constant: the squared error of the output itself is the weighted error of its noise
    x_0, noise, t = randn(4, 2), randn(4, 2, seed=1), torch.tensor([1, 20, 500, 999])
    a, b = LINEAR.alpha_bars[t][:, None], LINEAR.alpha_bars_prev[t][:, None]
    x_t = LINEAR.add_noise(x_0, t, noise)
    right = {
        gde.eps_from_x_0: x_0,
        gde.eps_from_v: a**0.5 * noise - (1 - a) ** 0.5 * x_0,
        gde.eps_from_mean: gde.posterior_mean(x_0, x_t, a, b),
    }
    for eps_from, output in right.items():
        model = gde.eps_model(lambda x, t, y=None: output + 0.3, LINEAR, eps_from)
        loss = gde.simple_loss(
            model, LINEAR, x_0, t, noise, weight=gde.target_weight(LINEAR, eps_from)
        )
        assert torch.allclose(loss, torch.tensor(0.09, dtype=DOUBLE), rtol=1e-6)


def test_eq_bound_estimate():
    s, x_0 = gde.linear_schedule(40), pixels(2, 1, 2, 2)
    model = lambda x, t, y: 0.1 * x
    _, terms = gde.bits_per_dim(model, s, x_0, generator=torch.Generator().manual_seed(5))
    g = torch.Generator().manual_seed(5)
    noises = [torch.randn(x_0.shape, dtype=DOUBLE, generator=g) for _ in range(40)]
    losses = torch.stack(
        [gde.bound_loss(model, s, x_0, torch.full((2,), i), noises[i]) for i in range(40)], 1
    )
    clipped = [
        (
            gde.x_0_from_eps(
                s.add_noise(x_0, torch.full((2,), i), noises[i]),
                0.1 * s.add_noise(x_0, torch.full((2,), i), noises[i]),
                s.alpha_bars[i].item(),
            ).abs()
            > 1
        )
        .flatten(1)
        .any(1)
        for i in range(40)
    ]
    free = ~torch.stack(clipped, 1)  # where the bound's clip at 1 did nothing
    assert free.sum() > 10 and torch.allclose(losses[free] / 40, terms[free])


def trained_steps():
    steps, g = gde.SecondMomentSteps(4), torch.Generator().manual_seed(0)
    mean, spread = torch.tensor([1.0, 0.1, 5.0, 0.1]), torch.tensor([0.1, 3.0, 0.5, 0.1])
    history = mean + spread * torch.randn(10, 4, generator=g)
    for row in history:
        steps.update(torch.arange(4), row)
    return steps, history.double()


def test_eq_importance():
    steps, history = trained_steps()
    t, weight = steps.draw(40_000, torch.Generator().manual_seed(1))
    values = torch.tensor([3.0, -1.0, 0.5, 7.0], dtype=DOUBLE)
    sample = weight * values[t]
    assert abs(sample.mean() - values.mean()) < 5 * sample.std() / 200


def test_eq_second_moment():
    steps, history = trained_steps()
    M = history.square().mean(0)
    p = steps.probabilities()
    assert torch.allclose(p, 0.999 * M.sqrt() / M.sqrt().sum() + 0.001 / 4)
    second = lambda p: (M / p).sum()
    for other in torch.distributions.Dirichlet(torch.ones(4)).sample((200,)).double():
        assert second(other) >= second(M.sqrt() / M.sqrt().sum())
    assert (
        gde.SecondMomentSteps(4).probabilities().tolist() == [0.25] * 4
    )  # until every step has a history


def test_eq_bits_per_dim():
    s, x_0 = gde.linear_schedule(50), pixels(3, 1, 2, 2)
    prior, terms = gde.bits_per_dim(
        lambda x, t, y: 0.1 * x, s, x_0, generator=torch.Generator().manual_seed(5)
    )
    a = s.alpha_bars[-1].item()
    wanted = kl_divergence(
        Normal(a**0.5 * x_0, (1 - a) ** 0.5), Normal(torch.zeros(1, dtype=DOUBLE), 1)
    ).flatten(1).mean(1) / math.log(2)
    assert torch.allclose(prior, wanted, atol=1e-9) and terms.shape == (3, 50)
    g = torch.Generator().manual_seed(5)
    for i in range(50):
        t = torch.full((3,), i)
        x_t = s.add_noise(x_0, t, torch.randn(x_0.shape, dtype=DOUBLE, generator=g))
        assert torch.allclose(terms[:, i], gde.bound_term(0.1 * x_t, s, x_0, x_t, t))
    for fixed in (
        gde.small_variance,
        gde.large_variance,
    ):  # a short chain: the model hears the long one's steps, the variance is the one asked for
        short, heard = gde.respace(LINEAR, 10), []

        def model(x, t, y):
            heard.append(t[0].item())
            return 0.1 * x

        _, terms = gde.bits_per_dim(
            model, short, x_0, fixed=fixed, generator=torch.Generator().manual_seed(5)
        )
        assert heard == short.timesteps.tolist()
        g = torch.Generator().manual_seed(5)
        for i in range(10):
            x_t = short.add_noise(
                x_0, torch.full((3,), i), torch.randn(x_0.shape, dtype=DOUBLE, generator=g)
            )
            log_variance = learned_log(short, i, 1 if fixed is gde.large_variance and i else -1)
            wanted = [
                term_by_hand(short, i, x_0[k], x_t[k], 0.1 * x_t[k], log_variance) for k in range(3)
            ]
            assert terms[:, i].tolist() == pytest.approx(wanted, rel=1e-6)


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
    # the product of a Gaussian with a log-linear factor, on a grid in the plane, is the Gaussian that the square names
    sigma, g, mu = (
        torch.tensor([[0.3, 0.1], [0.1, 0.2]], dtype=DOUBLE),
        torch.tensor([0.7, -1.1], dtype=DOUBLE),
        torch.tensor([0.2, 0.1], dtype=DOUBLE),
    )
    side = torch.linspace(-5, 5, 401, dtype=DOUBLE)
    grid = torch.cartesian_prod(side, side)
    product = gaussian_log(grid, mu, sigma) + (grid - mu) @ g
    shifted, covariance = gde.second_order_step(
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
    mean, covariance = gde.second_order_step(
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
    assert torch.allclose(gde.second_order_step(mu[None], wide, mu[None], flat)[0], 5 * mu[None])
    with pytest.raises(ValueError, match="hessian must be smaller"):
        gde.second_order_step(mu[None], S[None], mu[None], 9 * torch.eye(2, dtype=DOUBLE)[None])


def test_eq_small_difference():
    # total variation and divergence of laws that differ by e^r, from the moments of r on the grid, are those of the error law
    z = torch.linspace(-9, 9, 18_001, dtype=DOUBLE)
    q = (-(z**2) / 2).softmax(0)
    mean = lambda f: (q * f).sum()
    for size, power, order in ((0.02, 1, 0), (0.01, 2, 1), (0.003, 3, 2)):
        r = size * z**power / math.factorial(power)
        true = (q.log() + r).softmax(0)
        tv, kl = total_variation(true, q), mean(true / q * (true / q).log()).item()
        assert tv == pytest.approx((0.5 * mean((r - mean(r)).abs())).item(), rel=0.02)
        assert kl == pytest.approx((0.5 * mean((r - mean(r)) ** 2)).item(), rel=0.06)
        derivatives = [0.0, 0.0, 0.0]
        derivatives[order] = -size
        law = gde.error_law(1.0, *derivatives)
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
            second = gde.second_order_step(
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
            predicted = torch.tensor(gde.error_law(std**2, g, H, T), dtype=DOUBLE)
            assert torch.allclose(measured[std], predicted, rtol=0.04, atol=0), (
                s,
                std,
                measured[std] / predicted,
            )
        slopes = (measured[0.008] / measured[0.004]).log2() / 2  # in Sigma
        assert (slopes - torch.tensor([[0.5, 1], [1, 2], [1.5, 3]])).abs().max() < 0.03


def test_eq_exact_shift():
    for t_from, t_to, x in ((600, 300, 0.4), (999, 10, -1.0), (5, 4, 0.1)):
        class_model, _, a, a_prev = step_back(LINE, t_from, t_to, x, y=1)
        of_all = step_back(LINE, t_from, t_to, x)[0]
        here, t = torch.tensor([[x]], dtype=DOUBLE), torch.tensor([t_from])
        g, e = (
            gde.classifier_guidance(LINE.classifier(LINEAR), torch.tensor([1]))(here, t),
            LINE.denoiser(LINEAR)(here, t),
        )
        assert (1 - a / a_prev) / (a / a_prev) ** 0.5 * g.item() == pytest.approx(
            class_model - of_all, abs=1e-7
        )
        assert gde.mean_from_eps(here, gde.guided_eps(e, a, g), a, a_prev).item() == pytest.approx(
            class_model, abs=1e-7
        )


def one_step(sampler, schedule, guidance=None, **options):
    "Where the first step of a sampler goes from 0 when the model sees no noise."
    x_T = torch.zeros(1, 1, 1, 1, dtype=DOUBLE)
    _, path = sampler(
        lambda x, t, y: torch.zeros_like(x),
        schedule,
        x_T.shape,
        guidance=guidance,
        x_T=x_T,
        clip=False,
        trajectory=True,
        generator=torch.Generator().manual_seed(0),
        **options,
    )
    return path[1].item()


def test_eq_shift_ratio():
    push = lambda x, t: torch.ones_like(x)
    for count in (3, 10, 100):
        s = gde.respace(LINEAR, count)
        by_rule = one_step(gde.ddpm_sample, s, push) - one_step(gde.ddpm_sample, s)
        exact = one_step(gde.ddim_sample, s, push, eta=1.0) - one_step(gde.ddim_sample, s, eta=1.0)
        wanted = s.alphas[-1].sqrt() * (1 - s.alpha_bars_prev[-1]) / (1 - s.alpha_bars[-1])
        assert shift_ratio(s)[-1].item() == pytest.approx(wanted.item(), rel=1e-12)
        assert by_rule / exact == pytest.approx(wanted.item(), rel=1e-6) and exact == pytest.approx(
            (s.betas[-1] / s.alphas[-1].sqrt()).item(), rel=1e-6
        )


def test_eq_ddim_shift():
    push = lambda x, t: 2 * torch.ones_like(x)
    for count, eta in ((3, 0.0), (10, 0.5), (1000, 0.0)):
        s = gde.respace(LINEAR, count)
        a, a_prev, alpha = (
            s.alpha_bars[-1].item(),
            s.alpha_bars_prev[-1].item(),
            s.alphas[-1].item(),
        )
        sigma = eta * ((1 - a_prev) / (1 - a) * (1 - alpha)) ** 0.5
        wanted = (1 - a) ** 0.5 * (((1 - a) / alpha) ** 0.5 - (1 - a_prev - sigma**2) ** 0.5)
        got = (
            one_step(gde.ddim_sample, s, push, eta=eta) - one_step(gde.ddim_sample, s, eta=eta)
        ) / 2
        assert got == pytest.approx(wanted, rel=1e-8)
    assert got == pytest.approx(s.betas[-1].item() / 2, rel=0.02)  # a short step: half of beta


def test_eq_flow():
    s, model = gde.respace(LINEAR, 7), WORLD.denoiser(LINEAR)
    x_T = randn(4, 2)
    _, path = gde.ddim_sample(model, s, x_T.shape, x_T=x_T, clip=False, trajectory=True)
    noise_to_signal = ((1 - s.alpha_bars) / s.alpha_bars).sqrt().tolist()
    for i, before, after in zip(range(6, -1, -1), path, path[1:]):
        e = model(before, torch.full((4,), s.timesteps[i].item()))
        lower = noise_to_signal[i - 1] if i else 0.0
        assert torch.allclose(
            after / s.alpha_bars_prev[i] ** 0.5,
            before / s.alpha_bars[i] ** 0.5 + (lower - noise_to_signal[i]) * e,
            atol=1e-9,
        )


def test_eq_ddim_inversion():
    s, asked = gde.respace(LINEAR, 5), []

    def constant(x, t, y=None):
        asked.append(t[0].item())
        return torch.full_like(x, 0.3)

    x_0 = randn(2, 1, 2, 2)
    x_T = gde.ddim_invert(constant, s, x_0)
    assert asked == [0, *s.timesteps[:-1].tolist()]  # each step up asks at the level it leaves
    assert torch.allclose(
        gde.ddim_sample(constant, s, x_0.shape, x_T=x_T, clip=False), x_0, atol=1e-9
    )  # a constant field is inverted exactly
    world, miss = gde.four_corners(), {}
    points, y = world.sample(200, generator=torch.Generator().manual_seed(0)), torch.arange(200) % 2
    guidance = gde.classifier_guidance(world.classifier(LINEAR), y, 0.5)
    for count in (100, 200):
        s = gde.respace(LINEAR, count)
        x_T = gde.ddim_invert(world.denoiser(LINEAR), s, points, guidance=guidance)
        back = gde.ddim_sample(
            world.denoiser(LINEAR), s, points.shape, guidance=guidance, x_T=x_T, clip=False
        )
        miss[count] = (back - points).square().mean().sqrt().item()
    assert miss[200] < 0.03 and miss[200] < 0.6 * miss[100]


def test_eq_chain_law():
    # Appendix H for the whole chain, to rounding, and no accident: without guidance it fails
    s = gde.respace(LINEAR, 12)
    for tilt, holds in ((product_tilt(exact_class(LINE, 1)), True), (no_tilt, False)):
        x, law = guided_chain(LINE, s, 1, exact_kernel(LINE), tilt)
        assert law.sum().item() == pytest.approx(1, abs=1e-12)
        assert (
            total_variation(law, class_distribution(LINE, 1, s.alpha_bars[0].item(), x)) < 1e-8
        ) == holds


def test_eq_matched_variance():
    x, below = torch.linspace(-2, 2, 9, dtype=DOUBLE), torch.linspace(-6, 6, 6001, dtype=DOUBLE)
    for count, i in ((25, 3), (25, 20), (10, 5)):
        s = gde.respace(LINEAR, count)
        weights = exact_kernel(LINE)(s, i, x, below)[0].softmax(1)
        mean, variance = step_moments(LINE, s, i, x)
        assert torch.allclose(mean, weights @ below, atol=1e-9)
        assert torch.allclose(variance, weights @ below**2 - (weights @ below) ** 2, atol=1e-9)


def test_eq_guided_variance():
    # against the moments of the exact kernel times the classifier, on a grid
    x, below, s = (
        torch.linspace(-1.5, 1.5, 7, dtype=DOUBLE),
        torch.linspace(-6, 6, 6001, dtype=DOUBLE),
        gde.respace(LINEAR, 25),
    )
    for i in (3, 12, 20):
        logs, mean = exact_kernel(LINE)(s, i, x, below)
        exact = (logs + product_tilt(exact_class(LINE, 1))(s, i, x, mean, below)).softmax(1)
        logs, mean = matched_kernel(LINE)(s, i, x, below)
        ours = (logs + moments_tilt(exact_class(LINE, 1), LINE)(s, i, x, mean, below)).softmax(1)
        for power in (1, 2):
            assert torch.allclose(ours @ below**power, exact @ below**power, atol=1e-6)


def test_eq_third_order_shift():
    z = torch.linspace(-12, 12, 40_001, dtype=DOUBLE)
    g, H, T = 0.7, -1.1, 0.9  # log p = g d + H d^2 / 2 + T d^3 / 6 - d^4 / 10, to be integrable

    def off(variance):
        d = z * variance**0.5
        law = (g * d + H * d**2 / 2 + T * d**3 / 6 - d**4 / 10 - z**2 / 2).softmax(0)
        return (law * d).sum().item() - third_order_shift(variance, g, H, T)

    assert off(0.01) / off(0.005) == pytest.approx(8, abs=0.4)


def test_eq_total_variation():
    x = torch.linspace(-10, 10, 4001, dtype=DOUBLE)
    for distance in (0.1, 1.0, 3.0):  # two unit Gaussians: 2 Phi(d / 2) - 1
        p, q = ((-((x - m) ** 2) / 2).softmax(0) for m in (0.0, distance))
        assert total_variation(p, q) == pytest.approx(math.erf(distance / 8**0.5), abs=1e-5)
    assert total_variation(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])) == 1


def test_eq_tilted_kernel():
    # one step from a chosen point: mean and variance of kernel times tilt are those of the formulas, for every tilt
    s, log_class, i = gde.respace(LINEAR, 40), exact_class(LINE, 1), 12
    x, below = torch.tensor([0.4], dtype=DOUBLE), torch.linspace(-6, 6, 24_001, dtype=DOUBLE)
    logs, mean = gaussian_kernel(LINE)(s, i, x, below)
    variance, level, here = (
        gde.small_variance(s)[i].item(),
        LINEAR.alpha_bars[s.timesteps[i - 1]].item(),
        LINEAR.alpha_bars[s.timesteps[i]].item(),
    )

    def derivatives(alpha_bar, at):
        at = at.clone().requires_grad_()
        (g,) = torch.autograd.grad(
            LINE.at(alpha_bar).class_log_probs(at[:, None])[:, 1].sum(), at, create_graph=True
        )
        return g.item(), torch.autograd.grad(g, at)[0].item()

    (g_mean, H), (g_here, _) = derivatives(level, mean), derivatives(here, x)
    exact = (s.betas[i] / s.alphas[i].sqrt()).item()
    narrowed = 1 / (1 / variance - min(H, 0.9 / variance))
    wanted = {
        mean_tilt: (variance * g_mean, variance),
        x_t_tilt: (variance * g_here, variance),
        eps_tilt: (exact * g_here, variance),
        hessian_tilt: (narrowed * g_mean, narrowed),
    }
    for tilt, (shift, width) in wanted.items():
        p = (logs + tilt(log_class)(s, i, x, mean, below)).softmax(1)[0]
        got = (p * below).sum()
        assert (got - mean).item() == pytest.approx(shift, abs=1e-9) and (
            p * (below - got) ** 2
        ).sum().item() == pytest.approx(width, abs=1e-9)


def lab_target(r, y, s):
    "Mean and variance of p(x) p(y | x)^s in the laboratory, by a grid."
    x = torch.linspace(-8, 8, 32_001, dtype=DOUBLE)
    p = (-(x**2) / 2 - s * (y - x) ** 2 / (2 * r**2)).softmax(0)
    mean = (p * x).sum()
    return mean.item(), (p * (x - mean) ** 2).sum().item()


def test_eq_tilted_target():
    # at s = 1 guided DDIM in the laboratory reaches it, at s = 2 it does not
    for s, reached in ((1.0, True), (2.0, False)):
        mean, variance = toy_moments(lambda i: toy_step_ddim(LINEAR, i, 0.7, 1.0, s), LINEAR)
        target = lab_target(0.7, 1.0, s)
        assert (abs(mean - target[0]) < 0.01 and abs(variance - target[1]) < 0.01) == reached
        assert target_variance(0.7, s) == pytest.approx(target[1], abs=1e-9)


def test_eq_lab_gradient():
    x, r = randn(6, 1).requires_grad_(), 0.6
    for t in (3, 300, 999):
        a = LINEAR.alpha_bars[t].item()
        (by_autograd,) = torch.autograd.grad(
            Normal(a**0.5 * x, (1 - a + r**2) ** 0.5)
            .log_prob(torch.tensor(1.3, dtype=DOUBLE))
            .sum(),
            x,
        )
        assert torch.allclose(
            toy_guidance(LINEAR, r, 1.3, 2.0)(x.detach(), torch.full((6,), t)), 2 * by_autograd
        )
        one = gde.GaussianMixture([[0.0]], [1.0])
        assert torch.allclose(
            toy_model(LINEAR)(x.detach(), torch.full((6,), t)),
            one.denoiser(LINEAR)(x.detach(), torch.full((6,), t)),
        )


def test_eq_lab_recursion():
    # the package's samplers, number by number, and the moments of their samples
    s = gde.respace(LINEAR, 20)
    rules = {
        toy_step_at_x_t: (gde.ddpm_sample, dict(variance="large")),
        toy_step_at_mean: (gde.ddpm_sample, dict(variance="large", gradient_at="mean")),
        toy_step_ddim: (gde.ddim_sample, {}),
    }
    for step, (sampler, options) in rules.items():
        x_T, g = randn(40_000, 1, seed=8), torch.Generator().manual_seed(0)
        drawn = sampler(
            toy_model(LINEAR),
            s,
            x_T.shape,
            x_T=x_T,
            clip=False,
            guidance=toy_guidance(LINEAR, 0.5, 1.0, 2.0),
            generator=torch.Generator().manual_seed(0),
            **options,
        )
        x = x_T
        for i in range(19, -1, -1):
            a, b, c = step(s, i, 0.5, 1.0, 2.0)
            x = a * x + b + c * torch.randn(x.shape, dtype=DOUBLE, generator=g)
        assert (drawn - x).abs().max() < 1e-10
        mean, variance = toy_moments(lambda i: step(s, i, 0.5, 1.0, 2.0), s)
        assert drawn.mean().item() == pytest.approx(
            mean, abs=0.02
        ) and drawn.var().item() == pytest.approx(variance, rel=0.04)


def test_eq_law_target():
    for r, s in ((0.5, 1.0), (0.5, 8.0), (2.0, 0.3)):
        assert target_variance(r, s) == pytest.approx(lab_target(r, 0.4, s)[1], abs=1e-8)


def in_the_limit(step, r, scale):
    "Variance at infinitely many steps, from 1000 and 2000 by Richardson's extrapolation."
    values = [
        toy_moments(lambda i: step(s, i, r, 0.0, scale), s)[1]
        for s in (gde.linear_schedule(1000), gde.linear_schedule(2000))
    ]
    return 2 * values[1] - values[0]


def test_eq_law_ddpm():
    for r, s in ((0.5, 0.5), (0.5, 1.0), (0.5, 2.0), (1.5, 3.0)):
        for step in (toy_step_at_x_t, toy_step_at_mean, toy_step_by_eps):
            assert in_the_limit(step, r, s) == pytest.approx(ddpm_variance(r, s), rel=2e-3)
    assert ddpm_variance(0.5, 2.0) == pytest.approx(0.0827, abs=1e-4) and ddpm_variance(
        0.5, 8.0
    ) == pytest.approx(0.0167, abs=1e-4)


def test_eq_law_ddim():
    for r, s in ((0.5, 0.5), (0.5, 1.0), (0.5, 2.0), (1.5, 3.0)):
        assert in_the_limit(toy_step_ddim, r, s) == pytest.approx(ddim_variance(r, s), rel=2e-3)


def test_eq_place_error():
    r, s = 0.7, gde.respace(LINEAR, 30)
    for i in (2, 10, 25):
        alpha, beta, before = s.alphas[i].item(), s.betas[i].item(), s.alpha_bars_prev[i].item()
        curvature, x = before / (1 - before + r**2), 0.4
        shift = {
            step: (a * x + b) - alpha**0.5 * x
            for step in (toy_step_at_mean, toy_step_at_x_t, toy_step_by_eps)
            for a, b, _ in [step(s, i, r, 1.0, 1.0)]
        }
        # exact by Bayes' rule for two Gaussians: prior N(sqrt(alpha) x, beta), measurement of sqrt(before) x_{t-1}
        prior, gain = alpha**0.5 * x, before**0.5
        exact = beta * gain * (1.0 - gain * prior) / (gain**2 * beta + 1 - before + r**2)
        assert shift[toy_step_by_eps] == pytest.approx(exact, rel=1e-9)
        assert shift[toy_step_at_mean] / exact == pytest.approx(
            1 + beta * curvature, rel=1e-9
        ) and shift[toy_step_at_x_t] / exact == pytest.approx(alpha**0.5, rel=1e-9)


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
    # the least cost over linear maps, by the definition: with Y = m_b + A (X - m_a), A S_a A' = S_b, E|X - Y|^2
    root_a, root_b = randn(3, 3, seed=1), randn(3, 3, seed=2)
    a, b = (
        evaluation.Gaussian(mean, root @ root.T)
        for mean, root in ((randn(3, seed=3), root_a), (randn(3, seed=4), root_b))
    )
    cost = lambda turn: (
        ((a.mean - b.mean) ** 2).sum() + ((root_a - root_b @ turn) ** 2).sum()
    )  # the same white noise drives both
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
    entropy = lambda q: -(q * q.log()).sum(-1)
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


def test_eq_told_ahead():
    world = gde.GaussianMixture(
        [[-1.0, 0.0], [0.5, 1.0], [1.0, -1.0]],
        [0.4, 0.7, 0.5],
        weights=[0.2, 0.5, 0.3],
        labels=[0, 1, 1],
    )
    x = randn(50, 2, seed=4)
    for label, prior in ((0, 0.2), (1, 0.8)):
        y, answer = torch.full((50,), label), world.class_log_probs(x)[:, label]
        for s in (
            0.0,
            0.5,
            3.0,
        ):  # log p(x | y) + s log p(y | x) and log p(x) + (s + 1) log p(y | x): a constant apart, log p(y)
            apart = world.log_prob(x) + (s + 1) * answer - world.log_prob(x, y) - s * answer
            assert torch.allclose(apart, torch.full((50,), prior, dtype=DOUBLE).log(), atol=1e-10)


def test_eq_matching_scale():
    x = torch.linspace(-15, 15, 20_001, dtype=DOUBLE)

    def spread(width, r, s):
        law = (-(x**2) / (2 * width**2) - s * (0.8 - x) ** 2 / (2 * r**2)).softmax(0)
        return (law @ (x - law @ x) ** 2).item()

    for width, r in ((1.25, 0.5), (1.5, 2.0), (0.8, 0.7)):
        assert spread(width, r, matching_scale(r, width)) == pytest.approx(
            spread(1.0, r, 1.0), rel=1e-8
        )


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
    with_null = lambda x, t, y: WORLD.denoiser(LINEAR)(
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
    better = lambda x, t, y=None: torch.cat([x, 3 + x], 1)
    weaker = lambda x, t, y=None: torch.cat([0.5 * x, 100 + x], 1)
    x, t = randn(4, 2, 3, 3), torch.full((4,), 300)
    assert torch.allclose(autoguided_model(better, weaker, 3.0)(x, t), torch.cat([2 * x, 3 + x], 1))
    p, q = gde.GaussianMixture([[0.4, 0.0]], [0.5]), gde.GaussianMixture([[0.0, 0.1]], [0.9])
    x, a = randn(5, 2).requires_grad_(), LINEAR.alpha_bars[300].item()
    power = 3 * p.at(a).log_prob(x) - 2 * q.at(a).log_prob(x)
    (score,) = torch.autograd.grad(power.sum(), x)
    eps = autoguided_model(p.denoiser(LINEAR), q.denoiser(LINEAR), 3.0)(
        x.detach(), torch.full((5,), 300)
    )
    assert torch.allclose(gde.score_from_eps(eps, a), score)


BLUNT = gde.GaussianMixture(
    [[-1.0], [0.2], [1.2]], [0.4, 0.35, 0.45], weights=[0.3, 0.3, 0.4], labels=[0, 1, 0]
)


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
            alpha, beta = LINEAR.alphas[i].item(), LINEAR.betas[i].item()
            eps = pair(v, u, s)(torch.ones(1, 1, dtype=DOUBLE), torch.tensor([i])).item()
            return (
                gde.mean_from_eps(
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
    turning = lambda x, t: x @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=DOUBLE)
    half = lambda x, t: x @ torch.tensor([[1.0, 1.0], [0.0, 1.0]], dtype=DOUBLE)
    assert asymmetry(WORLD.denoiser(LINEAR), x, t).max() < 1e-9
    assert torch.allclose(asymmetry(turning, x, t), torch.full((20,), 2.0, dtype=DOUBLE))
    assert torch.allclose(asymmetry(half, x, t), torch.full((20,), (2 / 3) ** 0.5, dtype=DOUBLE))
    better = class_model(WORLD.denoiser(LINEAR), torch.zeros(20, dtype=torch.long))
    assert asymmetry(autoguided_model(better, WORLD.denoiser(LINEAR), 3.0), x, t).max() < 1e-9
    assert (
        asymmetry(projected_model(better, WORLD.denoiser(LINEAR), LINEAR, 3.0), x, t).mean() > 0.01
    )


# ---- exact guidance by particles


def particles(scale, n, seed=0, steps=20, twist=None, **options):
    s, g = gde.respace(LINEAR, steps), torch.Generator().manual_seed(seed)
    x_T = torch.randn(n, 1, dtype=DOUBLE, generator=g)
    twist = twist or annealed_twist(BLUNT.classifier(LINEAR), 1, scale, s)
    return particle_sample(
        BLUNT.denoiser(LINEAR), s, (n, 1), twist, x_T=x_T, clip=False, generator=g, **options
    )


def particle_target(scale, steps=20):
    "Of the unguided chain with these steps, tilted: grid, weights, evidence; by quadrature."
    s = gde.respace(LINEAR, steps)
    one_class = gde.GaussianMixture(
        BLUNT.means, BLUNT.variances[:, 0].sqrt(), BLUNT.weights, [0, 0, 0]
    )
    x, law = guided_chain(one_class, s, 0, gaussian_kernel(one_class), no_tilt)
    logs = law.log() + scale * BLUNT.at(s.alpha_bars[0].item()).class_log_probs(x[:, None])[:, 1]
    return x, logs.softmax(0), logs.logsumexp(0).exp().item()


def mean_and_spread(x, weights):
    mean = (weights * x).sum()
    return mean.item(), (weights * (x - mean) ** 2).sum().sqrt().item()


def test_eq_smc_target():
    for scale in (1.0, 4.0):
        p, (x, target, _) = particles(scale, 6000), particle_target(scale)
        drawn, wanted = (
            mean_and_spread(p.x_0[:, 0], p.log_weights.softmax(0)),
            mean_and_spread(x, target),
        )
        assert drawn[0] == pytest.approx(wanted[0], abs=0.03) and drawn[1] == pytest.approx(
            wanted[1], abs=0.03
        )


def test_eq_smc_weight():
    # twists on the way change the work and not the answer: a useless one, and the annealed one
    s = gde.respace(LINEAR, 20)

    def late(x, t):  # says nothing before the last level
        return 2 * BLUNT.classifier(LINEAR)(x, t)[:, 1] if t[0] == s.timesteps[0] else 0 * x[:, 0]

    x, target, evidence = particle_target(2.0)
    for twist in (late, None):
        p = particles(2.0, 6000, twist=twist)
        assert mean_and_spread(p.x_0[:, 0], p.log_weights.softmax(0)) == pytest.approx(
            mean_and_spread(x, target), abs=0.03
        )
        assert math.exp(p.log_evidence) == pytest.approx(evidence, rel=0.1)


def test_eq_gaussian_weight():
    noise, shift, variance = randn(6, 2, 3), randn(6, 2, 3, seed=1), randn(6, 2, 3, seed=2).exp()
    at = shift + noise
    by_density = Normal(0 * shift, variance.sqrt()).log_prob(at) - Normal(
        shift, variance.sqrt()
    ).log_prob(at)
    assert torch.allclose(log_ratio(noise, shift, variance), by_density.flatten(1).sum(1))
    x, t = randn(6, 1), torch.full((6,), 300)
    twist = power_twist(BLUNT.classifier(LINEAR), 1, 3.0)
    values, gradient = value_and_gradient(twist, x, t)
    assert torch.allclose(values, twist(x, t)) and torch.allclose(
        gradient, gde.log_prob_guidance(twist)(x, t)
    )
    # one step: a linear twist that is a martingale leaves all weights equal, whatever is drawn
    chain = gde.Schedule([0.3, 0.4])
    variance, mean = (
        gde.small_variance(chain)[1].item(),
        gde.mean_from_eps(
            1.0, 0.0, *(v[1].item() for v in (chain.alpha_bars, chain.alpha_bars_prev))
        ),
    )
    constant = {0: 0.0, 1: 0.7 * (mean - 1) + variance * 0.7**2 / 2}  # E[h_0 | x_1 = 1] = h_1(1)
    p = particle_sample(
        lambda x, t, y: torch.zeros_like(x),
        chain,
        (50, 1),
        lambda x, t: 0.7 * x[:, 0] + constant[t[0].item()],
        x_T=torch.ones(50, 1, dtype=DOUBLE),
        clip=False,
        generator=torch.Generator().manual_seed(0),
    )
    assert (
        torch.allclose(p.log_weights, torch.full((50,), 0.7 + constant[1], dtype=DOUBLE))
        and p.x_0.std() > 0.1
    )


def test_eq_smc_evidence():
    # resampled at every step, and never: without bias either way
    _, _, evidence = particle_target(2.0, steps=8)
    for threshold in (1.1, 0.0):
        found = torch.tensor(
            [
                math.exp(particles(2.0, 24, seed, steps=8, threshold=threshold).log_evidence)
                for seed in range(80)
            ],
            dtype=DOUBLE,
        )
        sure = found.std().item() / 80**0.5
        assert (
            found.mean().item() == pytest.approx(evidence, abs=4 * sure) and sure < 0.06 * evidence
        )


def test_eq_ess():
    assert effective_sample_size(torch.zeros(7)) == pytest.approx(7) and effective_sample_size(
        torch.tensor([0.0, -1e4, -1e4])
    ) == pytest.approx(1)
    w = randn(50).exp()
    assert effective_sample_size(w.log() + 300) == pytest.approx(
        (w.sum() ** 2 / (w**2).sum()).item()
    )


def test_eq_systematic():
    w, g = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=DOUBLE), torch.Generator().manual_seed(0)
    copies = torch.stack(
        [systematic(w.log() - 5, 10, g).bincount(minlength=4) for _ in range(3000)]
    ).double()
    assert torch.allclose(copies.mean(0), 10 * w, atol=0.05) and ((copies - 10 * w).abs() < 1).all()
    assert systematic(torch.tensor([0.0, -1e4])).tolist() == [0, 0] and systematic(
        torch.zeros(5)
    ).tolist() == [0, 1, 2, 3, 4]


def test_eq_twist_bounds():
    points = torch.linspace(-4, 4, 1601, dtype=DOUBLE)[:, None]
    x = torch.tensor([[-0.8], [0.2], [1.1]], dtype=DOUBLE)
    for t in (50, 300, 700):
        a = LINEAR.alpha_bars[t].item()
        seen = (
            BLUNT.log_prob(points) - (x - a**0.5 * points[:, 0]) ** 2 / (2 * (1 - a))
        ).log_softmax(1)
        best = (seen + 3 * BLUNT.class_log_probs(points)[:, 1]).logsumexp(1)
        low, high = (
            power_twist(BLUNT.classifier(LINEAR), 1, s)(x, torch.full((3,), t)) for s in (3.0, 1.0)
        )
        assert (
            (low <= best + 1e-6).all() and (best <= high + 1e-6).all() and (low < best - 1e-3).any()
        )


def test_eq_annealed_twist():
    s = gde.respace(LINEAR, 20)
    twist, classifier, x = (
        annealed_twist(BLUNT.classifier(LINEAR), 1, 4.0, s),
        BLUNT.classifier(LINEAR),
        randn(3, 1),
    )
    for i, k in ((0, 4.0), (8, 1 + 3 * (s.alpha_bars[8] / s.alpha_bars[0]).item()), (19, 1.0)):
        t = torch.full((3,), s.timesteps[i].item())
        assert torch.allclose(
            twist(x, t), k * classifier(x, t)[:, 1], rtol=1e-3 if i == 19 else 1e-9
        )
    at_once = twist(x, s.timesteps[[0, 8, 19]])
    assert torch.allclose(
        at_once,
        torch.stack(
            [twist(x[k : k + 1], s.timesteps[i : i + 1])[0] for k, i in enumerate((0, 8, 19))]
        ),
    )


# ---- where guidance goes wrong


def test_eq_transfer_gap():
    x, y = torch.arange(10.0), torch.tensor([0, 1] * 5)
    fooled, honest = (lambda x: torch.tensor([0, 1] * 5)), (lambda x: (x > 4).long())
    assert transfer_gap(x, y, fooled, honest) == pytest.approx(
        0.5 + 0.5 - (honest(x) == y).double().mean().item()
    )
    assert (
        transfer_gap(x, y, honest, fooled) == -transfer_gap(x, y, fooled, honest)
        and transfer_gap(x, y, honest, honest) == 0
    )


def test_eq_contrast():
    # the package's sampler in the laboratory, on a picture of many pixels
    s, r = gde.respace(LINEAR, 30), 0.8
    x_0, noise, x_T = randn(3, 1, 40_000)
    guidance = toy_guidance(LINEAR, r, x_0 + r * noise, 3.0)
    drawn = gde.ddim_sample(toy_model(LINEAR), s, x_T.shape, guidance=guidance, x_T=x_T, clip=False)
    slope, variance = toy_moments(lambda i: toy_step_ddim(s, i, r, 1.0, 3.0), s)
    assert drawn.std().item() == pytest.approx(contrast(slope, variance, r), rel=0.02)


def test_eq_contrast_target():
    for r, s in ((0.5, 1.0), (0.5, 4.0), (2.0, 7.0)):
        mean, variance = lab_target(r, 1.0, s)
        assert target_contrast(r, s) == pytest.approx(
            (mean**2 * (1 + r**2) + variance) ** 0.5, rel=1e-6
        )


def test_eq_dynamic_threshold():
    x = torch.stack([0.5 * torch.linspace(-1, 1, 101), 3 * torch.linspace(-1, 1, 101)]).double()[
        :, None
    ]
    edited = dynamic_threshold(0.9)(x, None)
    assert torch.equal(edited[0], x[0])  # inside: not touched
    assert torch.allclose(edited[1], (x[1] / 2.7).clamp(-1, 1)) and edited.abs().max() <= 1
    assert torch.allclose(dynamic_threshold(1.0)(x, None)[1], x[1] / 3)


def test_eq_mode_shares():
    x = WORLD.sample(40_000, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(mode_shares(WORLD, x), WORLD.weights, atol=0.01)
    chosen = torch.zeros(40_000, dtype=DOUBLE)
    chosen[7] = 3.0
    parts = torch.stack(
        [
            w.log() + gaussian_log(x[7], m, std**2 * torch.eye(2, dtype=DOUBLE))
            for w, m, std in zip(WORLD.weights, WORLD.means, (0.3, 0.5, 0.4, 0.6))
        ]
    )
    assert (
        torch.allclose(mode_shares(WORLD, x, chosen), parts.softmax(0)) and WORLD.num_classes == 3
    )  # the world itself is as it was


def test_eq_kept_modes():
    # by sampling each component: w_k E_k[p^s]; the other classes' own part counts too
    points, s = torch.linspace(-4, 4, 1601, dtype=DOUBLE)[:, None], 3.0
    draws = BLUNT.means[:, 0] + BLUNT.variances[:, 0].sqrt() * randn(200_000, 3)
    worth = (
        torch.stack(
            [(s * BLUNT.class_log_probs(draws[:, k : k + 1])[:, 1]).exp().mean() for k in range(3)]
        )
        * BLUNT.weights
    )
    assert torch.allclose(target_shares(BLUNT, 1, s, points), worth / worth.sum(), atol=3e-3)
    apart = gde.GaussianMixture(
        [[-2.0], [0.0], [2.0]], [0.2] * 3, weights=[0.1, 0.5, 0.4], labels=[1, 0, 1]
    )
    for s in (1.0, 20.0):
        assert torch.allclose(
            target_shares(apart, 1, s, points),
            torch.tensor([0.2, 0.0, 0.8], dtype=DOUBLE),
            atol=0.01,
        )


def test_eq_gradient_of_means():
    x, y = randn(20, 2), torch.arange(20) % 3
    for level in (5, 300, 900):
        t = torch.full((20,), level)
        assert torch.allclose(
            means_gradient(WORLD, LINEAR, x, t, y),
            gde.classifier_guidance(WORLD.classifier(LINEAR), y)(x, t),
            atol=1e-7,
        )


def test_eq_early_push():
    faint, x = gde.schedule_from_alpha_bar(lambda u: 10 ** (-8 * u), 10), randn(6, 2)
    g = gde.classifier_guidance(WORLD.classifier(faint), torch.ones(6, dtype=torch.long))(
        x, torch.full((6,), 9)
    )
    push = early_push(WORLD, 1, faint.alpha_bars[9].item())
    means = WORLD.means
    assert torch.allclose(
        push / faint.alpha_bars[9] ** 0.5,
        (2 * means[1] + 3 * means[2]) / 5
        - (means[0] + 2 * means[1] + 3 * means[2] + 4 * means[3]) / 10,
    )
    assert torch.allclose(g, push.expand_as(g), rtol=2e-2)


def even_levels(n, low=0.05, high=20.0):
    "A schedule of n + 1 levels, even in log-SNR."
    noise = torch.linspace(math.log(low), math.log(high), n + 1, dtype=DOUBLE).exp()
    alpha_bars = 1 / (1 + noise**2)
    return gde.Schedule(1 - alpha_bars / torch.cat([torch.ones(1, dtype=DOUBLE), alpha_bars[:-1]]))


def flow_error(sampler, n, points=60):
    "Of n guided steps in one dimension, at the last level above the clean end, to the exact flow of class 0: the median, as points near the watershed of the two components decide any mean square."
    s = even_levels(n)
    x_T = torch.special.ndtri((torch.arange(points) + 0.5).to(DOUBLE) / points)
    guidance = gde.exact_guidance(LINE, s, torch.zeros(points, dtype=torch.long))
    _, path = sampler(
        LINE.denoiser(s),
        s,
        (points, 1),
        guidance=guidance,
        x_T=x_T[:, None],
        clip=False,
        trajectory=True,
    )
    return (
        (path[-2][:, 0] - flow_map(LINE, x_T, s.alpha_bars[-1].item(), s.alpha_bars[0].item(), 0))
        .abs()
        .median()
        .item()
    )


def test_eq_flow_log_snr():
    # d x_bar / d lambda of the exact flow, by differences of the quantile map, is x_0 - x_bar
    x, noise, width = torch.tensor([-0.8, 0.1, 0.9], dtype=DOUBLE), 0.7, 1e-4
    level = lambda noise: 1 / (1 + noise**2)
    moved = [
        flow_map(LINE, x * level(noise) ** 0.5, level(noise), level(noise * math.exp(-h)))
        / level(noise * math.exp(-h)) ** 0.5
        for h in (width, -width)
    ]
    estimate = gde.x_0_from_eps(
        x * level(noise) ** 0.5,
        -((1 - level(noise)) ** 0.5)
        * LINE.at(level(noise)).score(x[:, None] * level(noise) ** 0.5)[:, 0],
        level(noise),
    )
    assert torch.allclose((moved[0] - moved[1]) / (2 * width), estimate - x, atol=1e-6)
    step = (
        exponential_step(
            x * level(noise) ** 0.5, estimate, level(noise), level(noise * math.exp(-width))
        )
        / level(noise * math.exp(-width)) ** 0.5
        - x
    ) / width
    assert torch.allclose(step, estimate - x, atol=1e-3)


def test_eq_variation_of_constants():
    # the integral by a fine sum over the exact flow, against where the exact flow ends
    a, b = 1 / (1 + 2.0**2), 1 / (1 + 0.4**2)
    x, lambdas = (
        torch.tensor([-0.5, 0.2, 0.7], dtype=DOUBLE),
        torch.linspace(-math.log(2.0), -math.log(0.4), 401, dtype=DOUBLE),
    )
    total, h = torch.zeros(3, dtype=DOUBLE), (lambdas[1] - lambdas[0]).item()
    for k, lam in enumerate(lambdas.tolist()):
        level = 1 / (1 + math.exp(-2 * lam))
        here = flow_map(LINE, x, a, level)
        estimate = gde.x_0_from_eps(
            here, -((1 - level) ** 0.5) * LINE.at(level).score(here[:, None])[:, 0], level
        )
        weight = h / 3 * (1 if k in (0, 400) else 4 if k % 2 else 2)  # Simpson's rule
        total += weight * math.exp(lam - lambdas[-1].item()) * estimate
    ends = (0.4 / 2.0) * x / a**0.5 + total
    assert torch.allclose(ends, flow_map(LINE, x, a, b) / b**0.5, atol=1e-8)
    assert torch.allclose(
        exponential_step(x, torch.zeros(3, dtype=DOUBLE), a, b), b**0.5 * 0.2 * x / a**0.5
    )


def test_eq_guided_x0():
    x, e, gradient = randn(3), randn(3, seed=1), randn(3, seed=2)
    for a in (0.1, 0.6, 0.99):
        assert torch.allclose(
            gde.guided_x_0(gde.x_0_from_eps(x, e, a), a, gradient),
            gde.x_0_from_eps(x, gde.guided_eps(e, a, gradient), a),
            atol=1e-12,
        )


def test_eq_exponential_step():
    # without memory it is DDIM to rounding, guided, down to the clean end
    s, y, x = gde.respace(LINEAR, 8), torch.arange(20) % 3, randn(20, 2)
    model, guidance, ended = WORLD.denoiser(LINEAR), gde.exact_guidance(WORLD, LINEAR, y, 2.0), None
    ended = gde.ddim_sample(model, s, x.shape, guidance=guidance, x_T=x, clip=False)
    for i in range(7, -1, -1):
        t, a = torch.full((20,), s.timesteps[i].item()), s.alpha_bars[i].item()
        x = exponential_step(
            x,
            gde.guided_x_0(gde.x_0_from_eps(x, model(x, t), a), a, guidance(x, t)),
            a,
            s.alpha_bars_prev[i].item(),
        )
    assert torch.allclose(x, ended, atol=1e-11)


def test_eq_two_m():
    assert two_m(1.0, 0.4, 0.5, 0.25) == pytest.approx(
        1.6
    )  # the line through (-0.25, 0.4) and (0, 1), at 0.25
    errors = [flow_error(gde.dpmpp_2m_sample, n) for n in (60, 120)]
    assert 1.85 < math.log2(errors[0] / errors[1]) < 2.15
    assert 0.8 < math.log2(flow_error(gde.ddim_sample, 60) / flow_error(gde.ddim_sample, 120)) < 1.3
    assert errors[0] < 0.1 * flow_error(gde.ddim_sample, 60)


def test_eq_two_m_error():
    # one step along x_0(lambda) = sin(2 lambda + 0.3), integrated exactly by a fine sum
    f = lambda u: math.sin(2 * u + 0.3)
    for h in (0.02, 0.01):
        u = (torch.arange(20_000) + 0.5).to(DOUBLE) / 20_000 * h
        exact = ((u - h).exp() * torch.sin(2 * u + 0.3)).mean().item() * h
        error = exact - (1 - math.exp(-h)) * two_m(f(0.0), f(-h), h, h)
        assert error == pytest.approx(
            h**3 / 12 * (2 * math.cos(0.3) - 5 * 4 * math.sin(0.3)), rel=6 * h
        )


def test_eq_stochastic_flow():
    # a short noisy step leaves mean and variance of the noised class right, to second order in its length
    for h in (0.02, 0.01):
        noise = 0.8
        a, b = 1 / (1 + noise**2), 1 / (1 + (noise * math.exp(-h)) ** 2)
        x = torch.linspace(-9, 9, 4001, dtype=DOUBLE)
        law = class_distribution(LINE, 0, a, x)
        estimate = gde.x_0_from_eps(
            x,
            -((1 - a) ** 0.5)
            * LINE.at(a).score(x[:, None], torch.zeros(4001, dtype=torch.long))[:, 0],
            a,
        )
        mean, fresh = stochastic_step(x, estimate, 0.0, a, b), stochastic_step(0.0, 0.0, 1.0, a, b)
        below = class_distribution(LINE, 0, b, x)
        assert (law @ mean).item() == pytest.approx((below @ x).item(), abs=1e-9)
        variance = (law @ mean**2 - (law @ mean) ** 2).item() + fresh**2
        assert variance == pytest.approx((below @ x**2 - (below @ x) ** 2).item(), abs=4 * h**2)
        assert fresh**2 / b == pytest.approx(2 * h * noise**2, rel=3 * h)


def test_eq_stochastic_step():
    # the posterior's mean and variance; the package's sampler, number by number
    x, estimate = randn(5), randn(5, seed=1)
    for a, b in ((0.1, 0.3), (0.6, 0.95), (0.999, 1.0)):
        assert torch.allclose(
            stochastic_step(x, estimate, 0.0, a, b),
            gde.posterior_mean(estimate, x, a, b),
            atol=1e-12,
        )
        assert stochastic_step(0.0, 0.0, 1.0, a, b) ** 2 == pytest.approx(
            gde.posterior_variance(a, b), abs=1e-12
        )
    s, one = even_levels(4), gde.GaussianMixture([[0.3]], [0.5])
    x, g, before = randn(7, 1), torch.Generator().manual_seed(3), None
    drawn = gde.dpmpp_2m_sde_sample(
        one.denoiser(s), s, x.shape, x_T=x, clip=False, generator=torch.Generator().manual_seed(3)
    )
    for i in range(4, -1, -1):
        a, b = s.alpha_bars[i].item(), s.alpha_bars_prev[i].item()
        estimate = gde.x_0_from_eps(x, one.denoiser(s)(x, torch.full((7,), i)), a)
        middle = estimate if before is None or i == 0 else 1.5 * estimate - 0.5 * before
        x, before = (
            stochastic_step(x, middle, torch.randn(x.shape, dtype=DOUBLE, generator=g), a, b),
            estimate,
        )
    assert torch.allclose(x, drawn, atol=1e-10)


def test_eq_heun():
    assert heun(1.0, 2.0, 4.0, -0.1) == pytest.approx(0.7)
    errors = [flow_error(gde.heun_sample, n) for n in (60, 120)]
    assert 1.85 < math.log2(errors[0] / errors[1]) < 2.15


def test_eq_heun_in_x0():
    x, estimate, estimate_below, noise, below = 1.3, 0.4, 0.7, 2.0, 0.5
    euler = estimate + below / noise * (x - estimate)
    ended = heun(x, (x - estimate) / noise, (euler - estimate_below) / below, below - noise)
    assert ended == pytest.approx(
        euler + (noise - below) / (2 * below) * (estimate_below - estimate), abs=1e-12
    )


def test_eq_edm_levels():
    s = edm_steps(LINEAR, 12)
    noise, trained = noise_to_signal(s.alpha_bars), noise_to_signal(LINEAR.alpha_bars)
    low, high = trained[0].item(), trained[-1].item()
    wanted = torch.tensor(
        [(low ** (1 / 7) + i / 11 * (high ** (1 / 7) - low ** (1 / 7))) ** 7 for i in range(12)],
        dtype=DOUBLE,
    )
    assert len(s) == 12 and torch.allclose(s.alpha_bars, LINEAR.alpha_bars[s.timesteps])
    for k in range(12):
        assert (noise[k] / wanted[k]).log().abs() <= (trained / wanted[k]).log().abs().min() + 1e-12
    even = (
        (edm_steps(LINEAR, 6, rho=1e4).alpha_bars / (1 - edm_steps(LINEAR, 6, rho=1e4).alpha_bars))
        .log()
        .diff()
    )
    assert (even / even.mean() - 1).abs().max() < 0.05
    with pytest.raises(ValueError, match="steps must be few enough"):
        edm_steps(LINEAR, 200)


def test_eq_quantile_flow():
    # against the sampler in very many steps, and the closed form for one Gaussian
    one, x = gde.GaussianMixture([[0.0]], [0.5]), torch.tensor([-1.0, 0.3, 2.0], dtype=DOUBLE)
    a, b = 0.2, 0.9
    spread = lambda level: (0.25 * level + 1 - level) ** 0.5
    assert torch.allclose(flow_map(one, x, a, b), x * spread(b) / spread(a), atol=1e-10)
    assert torch.allclose(mixture_cdf(one, x), Normal(0.0, 0.5).cdf(x), atol=1e-12)
    assert flow_error(gde.heun_sample, 200, 20) < 5e-4


def test_eq_measurement():
    x_0, r = randn(3, 2, 4, 4), 0.3
    for look in (gde.colour, low_pass(2), edges, known_pixels((randn(4, 4) > 0).to(DOUBLE))):
        value = look(randn(3, 2, 4, 4, seed=1))
        by_normal = -Normal(value, r).log_prob(look(x_0)).flatten(1).sum(1)
        constant = -Normal(value, r).log_prob(value).flatten(1).sum(1)
        assert torch.allclose(measurement_loss(look, value, r)(x_0), by_normal - constant)
    assert (
        torch.allclose(gde.colour(x_0), x_0.mean((2, 3)))
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
    quiet = waiting(guidance, 399)
    assert quiet(x, t).abs().max() == 0 and torch.equal(quiet(x, t - 1), guidance(x, t - 1))


def test_eq_jensen_gap():
    # near the clean end the gap of the exact likelihood goes to the formula
    value, r, one = torch.tensor([0.5], dtype=DOUBLE), 0.5, torch.ones(1, 1, dtype=DOUBLE)
    for t in (3, 6):
        a, x = LINEAR.alpha_bars[t].item(), torch.tensor([[0.1], [0.25]], dtype=DOUBLE)
        estimate = (x + (1 - a) * LINE.at(a).score(x)) / a**0.5
        f = lambda d: (-(d**2) / (2 * r**2)) - 0.5 * math.log(2 * math.pi * r**2)
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
        assert torch.allclose(
            corrected_guidance(dps, LINEAR, r, spread=0.8)(x, t), exact, atol=1e-9
        )
    assert not torch.allclose(dps(x, t), exact, rtol=0.5)


def test_eq_jacobian_is_variance():
    # by a grid over x_0, in the three-component world; and the guidance moves the estimate by the variance times the gradient of the loss
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
    classifier = lambda x, t: WORLD.class_log_probs(x)
    x, first, second = (
        randn(6, 2),
        torch.zeros(6, dtype=torch.long),
        torch.ones(6, dtype=torch.long),
    )
    logs = WORLD.class_log_probs(x)
    both = conjunction(class_loss(classifier, first), class_loss(classifier, second))
    assert torch.allclose((-both(x)).exp(), logs[:, 0].exp() * logs[:, 1].exp())


def test_eq_any_of():
    classifier = lambda x, t: WORLD.class_log_probs(x)
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
    # one round is DDIM; two rounds with one step, by hand; and the exact law of one Gaussian is kept by a round of the exact step
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
    factor = lambda i: (
        (s.alpha_bars[i] * s.alpha_bars_prev[i]).sqrt()
        + ((1 - s.alpha_bars[i]) * (1 - s.alpha_bars_prev[i])).sqrt()
    )
    z = torch.randn(x.shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(4))
    assert torch.allclose(
        path[1],
        factor(2) * (s.alphas[2].sqrt() * factor(2) * x + s.betas[2].sqrt() * z),
        atol=1e-10,
    )
    with pytest.raises(ValueError, match="repeats"):
        recurrent_sample(model, s, x.shape, repeats=0)


def test_eq_vp_sde():
    # the rate is the same curve for any number of steps, and its integral is -log alpha_bar
    for T in (500, 4000):
        s = gde.linear_schedule(T)
        assert torch.allclose((-vp_rate(s).cumsum(0) / T).exp(), s.alpha_bars, atol=1e-12)
        assert vp_rate(s)[T // 2].item() == pytest.approx(
            0.1 + 19.9 / 2, rel=0.03
        )  # of the linear schedule: from 0.1 to 20


def test_eq_fokker_planck():
    # both sides in the exact world, for a process that is not the family's: drift -x / 2, noise 1, the way up
    x, level, h = torch.linspace(-2, 2, 41, dtype=DOUBLE)[:, None].requires_grad_(), 0.6, 1e-5
    grad = lambda values: torch.autograd.grad(values.sum(), x, create_graph=True)[0]
    density = lambda a: LINE.at(a).log_prob(x).exp()
    change = (density(level * math.exp(-h)) - density(level * math.exp(h))) / (2 * h)
    p = density(level)[:, None]
    assert torch.allclose(change, (-grad(-x / 2 * p) + grad(grad(p)) / 2)[:, 0], atol=1e-6)
    # back, any amount of noise
    for kappa in (0.0, 1.0, 2.0):
        assert torch.allclose(
            -change,
            (-grad(reverse_drift(x, grad(p.log()), 1.0, kappa) * p) + kappa / 2 * grad(grad(p)))[
                :, 0
            ],
            atol=1e-6,
        )


def test_eq_reverse_family():
    # one short step of each process leaves mean and variance of the exact law right to first order; the sampler takes that step
    s = gde.Schedule([0.3, 1e-3])
    one = gde.GaussianMixture([[0.4]], [0.6])
    before, after = one.at(s.alpha_bars[1].item()), one.at(s.alpha_bars[0].item())
    x, draws = randn(300_000, 1) * before.variances.sqrt() + before.means, {}
    for kappa in (0.0, 1.0, 2.0):
        _, path = sde_sample(
            one.denoiser(s),
            s,
            x.shape,
            kappa=kappa,
            x_T=x,
            clip=False,
            generator=torch.Generator().manual_seed(1),
            trajectory=True,
        )
        span = -math.log(1 - 1e-3)
        z = torch.randn(x.shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
        assert torch.allclose(
            path[1],
            x + reverse_drift(x, before.score(x), span, kappa) + (kappa * span) ** 0.5 * z,
            atol=1e-9,
        )
        gain = 1 + span / 2 * (1 - (1 + kappa) / before.variances.item())
        assert gain**2 * before.variances.item() + kappa * span == pytest.approx(
            after.variances.item(), abs=5e-6
        )
    with pytest.raises(ValueError, match="kappa"):
        sde_sample(one.denoiser(s), s, (2, 1), kappa=-1.0)


def test_eq_guided_score():
    x, y = randn(8, 2), torch.arange(8) % 3
    for level in (10, 500):
        t, a = torch.full((8,), level), LINEAR.alpha_bars[level].item()
        eps, g = WORLD.denoiser(LINEAR)(x, t), gde.exact_guidance(WORLD, LINEAR, y)(x, t)
        assert torch.allclose(guided_score(eps, a, g), WORLD.at(a).score(x, y), atol=1e-9)
        assert torch.allclose(guided_score(eps, a, 3 * g), WORLD.at(a).score(x) + 3 * g, atol=1e-9)


def test_eq_linear_path():
    x_0, e, t = randn(4, 2), randn(4, 2, seed=1), torch.tensor([0, 200, 600, 999])
    for k in range(4):
        a = LINEAR.alpha_bars[t[k]].item()
        tau = flow_time(a)
        assert torch.allclose(
            to_flow(LINEAR.add_noise(x_0, t, e)[k], a), (1 - tau) * x_0[k] + tau * e[k], atol=1e-12
        )


def test_eq_velocity():
    # E[eps - x_0 | x_tau] by a grid, in the three-component world, given the class and not
    grid, x = (
        torch.linspace(-6, 6, 12_001, dtype=DOUBLE),
        torch.tensor([[0.3], [-0.5]], dtype=DOUBLE),
    )
    for level in (100, 700):
        tau = flow_time(LINEAR.alpha_bars[level]).expand(2)
        for label in (None, torch.ones(2, dtype=torch.long)):
            prior = LINE.log_prob(
                grid[:, None], None if label is None else torch.ones(len(grid), dtype=torch.long)
            )
            noise = (x - (1 - tau[0]) * grid) / tau[0]
            wanted = ((prior - noise**2 / 2).softmax(1) * (noise - grid)).sum(1)
            assert torch.allclose(
                model_velocity(LINE.denoiser(LINEAR), LINEAR)(x, tau, label)[:, 0],
                wanted,
                atol=1e-8,
            )
    assert velocity_from_eps(0.6 * 2.0 + 0.4 * -1.0, -1.0, 0.4) == pytest.approx(-3.0)


def test_eq_path_change():
    for a in (0.01, 0.5, 0.99):
        tau = flow_time(a)
        assert (1 - tau) / tau == pytest.approx((a / (1 - a)) ** 0.5) and to_flow(
            1.0, a
        ) == pytest.approx((1 - tau) / a**0.5)
        assert a == pytest.approx((1 - tau) ** 2 / ((1 - tau) ** 2 + tau**2))


def test_eq_flow_to_eps():
    x_0, e = randn(3), randn(3, seed=1)
    for a in (0.05, 0.7):
        assert torch.allclose(
            eps_from_flow(a**0.5 * x_0 + (1 - a) ** 0.5 * e, e - x_0, a), e, atol=1e-12
        )
    x, t = randn(4, 1), torch.tensor([0, 30, 500, 999])
    model = LINE.denoiser(LINEAR)
    assert torch.allclose(
        flow_eps_model(model_velocity(model, LINEAR), LINEAR)(x, t), model(x, t), atol=1e-9
    )


def test_eq_guided_velocity():
    x, y, tau = (
        randn(6, 2),
        torch.arange(6) % 3,
        flow_time(LINEAR.alpha_bars)[[5, 100, 300, 500, 800, 999]],
    )
    velocity = model_velocity(WORLD.denoiser(LINEAR), LINEAR)
    g = flow_guidance(gde.exact_guidance(WORLD, LINEAR, y), LINEAR)(x, tau)
    assert torch.allclose(
        guided_velocity(velocity(x, tau), tau[:, None], g), velocity(x, tau, y), atol=1e-8
    )
    assert torch.allclose(
        guided_velocity(velocity(x, tau), tau[:, None], 2 * g),
        2 * velocity(x, tau, y) - velocity(x, tau),
        atol=1e-8,
    )


def test_eq_euler_is_ddim():
    s, y, x = gde.respace(LINEAR, 6), torch.arange(20) % 3, randn(20, 2)
    guidance = gde.exact_guidance(WORLD, LINEAR, y, 2.0)
    times = flow_time(s.alpha_bars).flip(0)
    drawn = flow_sample(
        model_velocity(WORLD.denoiser(LINEAR), LINEAR),
        times,
        to_flow(x, s.alpha_bars[-1].item()),
        guidance=flow_guidance(guidance, LINEAR),
    )
    assert torch.allclose(
        drawn,
        gde.ddim_sample(WORLD.denoiser(LINEAR), s, x.shape, guidance=guidance, x_T=x, clip=False),
        atol=1e-9,
    )
    with pytest.raises(ValueError, match="times must fall"):
        flow_sample(None, times.flip(0), x)


def test_eq_pushed_law():
    # a map that keeps the order, by the distribution function; one that folds, by hand; and a sampler's law against samples of the same sampler
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
        sample_entry(gde.dpmpp_2m_sample, edm, 20_000)(LINE, LINEAR, 0, 1.0, 10),
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
        [weights[(x >= low) & (x < high)].sum() for low, high in zip(BINS[:-1], BINS[1:])]
    )
    assert total_variation(tilted_distribution(LINE, 0, 3.0, 1 - 1e-9), by_bin) < 2e-3
    scores = score_table(
        {"DDIM": METHODS["DDIM"], "2M": METHODS["2M"]}, LINE, LINEAR, 1, budgets=(24,)
    )
    assert scores["2M"][0] < 0.3 * scores["DDIM"][0]


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
        sum(part.flops for part in gde.survey(network, x, t)) for network in (model, classifier)
    )
    short, guidance = (
        gde.respace(LINEAR, 10),
        gde.classifier_guidance(lambda x, t: classifier(x + 0, t), torch.tensor([0, 2])),
    )  # no leaf: the counter stumbles over one
    for first, last in ((0, 999), (0, 500), (300, 700), (2000, 3000)):
        share = ((first <= short.timesteps) & (short.timesteps <= last)).double().mean().item()
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            gde.ddim_sample(
                model, short, x.shape, guidance=interval_guidance(guidance, first, last), x_T=x
            )
        assert counter.get_total_flops() / (10 * unet) == pytest.approx(
            guided_cost(unet, opinion, share), rel=0.02
        )
