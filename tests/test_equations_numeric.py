"""Each labelled equation, by the name of its label, numerically: what the package as imported computes against the definition, by a grid, by autograd or by another library.

The tests take no fixtures, so that `test_mutations.py` can call each on a broken copy of the package."""
import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

import guided_diffusion_edu as gde
from guided_diffusion_edu.classifier import AttentionPool
from guided_diffusion_edu.layers import Norm, attend, halve, queries_first
from guided_diffusion_edu.samplers import ddim_sigma, shift_ratio
from guided_diffusion_edu.laboratory import (ddim_variance, ddpm_variance, lab_guidance, lab_model, lab_moments, lab_step_at_mean, lab_step_at_x_t,
                                             lab_step_by_eps, lab_step_ddim, target_variance, third_order_shift)
from guided_diffusion_edu.pretrained import standard_error
from guided_diffusion_edu.quadrature import (class_law, eps_tilt, exact_class, exact_kernel, gaussian_kernel, guided_chain, hessian_tilt, matched_kernel, mean_tilt,
                                             moments_tilt, no_tilt, product_tilt, step_moments, total_variation, x_t_tilt)
from guided_diffusion_edu.training import backward, clip_gradient, moving_average

DOUBLE = torch.float64
def randn(*shape, seed=0): return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


WORLD = gde.GaussianMixture(randn(4, 2), [0.3, 0.5, 0.4, 0.6], weights=[1, 2, 3, 4], labels=[0, 1, 1, 2])

LINEAR = gde.linear_schedule()
LINE = gde.GaussianMixture([[-1.0], [0.2], [1.2]], [0.2, 0.15, 0.25], weights=[0.3, 0.3, 0.4], labels=[0, 1, 0])


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
    assert ratio == pytest.approx(0.7) and (1 - s.alpha_bars[1]).item() == pytest.approx(0.7 * (1 - s.alpha_bars[0].item()) + 0.3)


def test_eq_alpha_bar():
    s = gde.Schedule([0.1, 0.2, 0.3])
    assert s.alpha_bars.tolist() == pytest.approx([0.9, 0.72, 0.504], abs=1e-15)
    assert s.alpha_bars_prev.tolist() == pytest.approx([1, 0.9, 0.72], abs=1e-15)


def test_eq_forward_marginal():
    x_0, noise, t = randn(5, 3, 2, 2), randn(5, 3, 2, 2, seed=1), torch.tensor([0, 10, 500, 998, 999])
    for i in range(5):
        a = torch.prod(1 - LINEAR.betas[:t[i] + 1])
        assert torch.allclose(LINEAR.add_noise(x_0, t, noise)[i], a ** 0.5 * x_0[i] + (1 - a) ** 0.5 * noise[i], atol=1e-12)


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
    s = gde.schedule_from_alpha_bar(lambda u: 3 * torch.exp(-2 * u - u ** 2), 20)
    u = torch.arange(1, 21, dtype=DOUBLE) / 20
    assert torch.allclose(s.alpha_bars, torch.exp(-2 * u - u ** 2), rtol=1e-12)
    assert gde.schedule_from_alpha_bar(lambda u: 1 - u ** 8, 10, max_beta=0.3).betas.max() == 0.3
    for wrong in (lambda u: 1 + u, lambda u: torch.cos(9 * u), lambda u: 0.5 - u):
        with pytest.raises(ValueError, match='alpha_bar must be positive and fall'): gde.schedule_from_alpha_bar(wrong, 10)


def test_eq_snr():
    assert torch.allclose(gde.log_snr(LINEAR).exp(), LINEAR.alpha_bars / (1 - LINEAR.alpha_bars), rtol=1e-9)


def test_eq_respaced_betas():
    for steps in (2, 25, 1000, 'ddim50', [3, 4, 5]):
        short = gde.respace(LINEAR, steps)
        assert torch.allclose(short.alpha_bars, LINEAR.alpha_bars[short.timesteps], rtol=1e-12)
    assert gde.respace(LINEAR, 25).timesteps[:4].tolist() == [0, 42, 83, 125]  # every 41.625th, rounded
    ten = gde.Schedule([0.1] * 10)
    assert gde.respace(ten, [2, 2, 2]).timesteps.tolist() == [0, 3, 4, 6, 7, 9]  # sections of 4, 3, 3
    assert gde.respace(ten, 'ddim5').timesteps.tolist() == [0, 2, 4, 6, 8]
    twice = gde.respace(gde.respace(LINEAR, 100), 10)
    assert torch.allclose(twice.alpha_bars, LINEAR.alpha_bars[twice.timesteps], rtol=1e-12)
    assert gde.respace(LINEAR, 2).betas[1].item() == pytest.approx(1 - (LINEAR.alpha_bars[999] / LINEAR.alpha_bars[0]).item())


def test_eq_mixture():
    points, weights = randn(20, 2, seed=2), WORLD.weights
    wanted = sum(w * gaussian_log(points, m, v.diag()).exp() for w, m, v in zip(weights, WORLD.means, WORLD.variances))
    assert torch.allclose(WORLD.log_prob(points).exp(), wanted) and weights.sum() == 1


def test_eq_mixture_noised():
    A = randn(3, 3, 3)
    covs, means, points = A @ A.mT + 0.1 * torch.eye(3), randn(3, 3, seed=3), randn(30, 3, seed=4)
    world = gde.GaussianMixture(means, covs, weights=[0.2, 0.3, 0.5])
    for a in (0.9, 0.3, 0.01):
        wanted = sum(w * gaussian_log(points, a ** 0.5 * m, a * C + (1 - a) * torch.eye(3, dtype=DOUBLE)).exp() for w, m, C in zip((0.2, 0.3, 0.5), means, covs))
        assert torch.allclose(world.at(a).log_prob(points).exp(), wanted)
    drawn = world.sample(400_000, label=1, generator=torch.Generator().manual_seed(0))
    assert (drawn.T.cov() - covs[1]).abs().max() < 0.05 and (drawn.mean(0) - means[1]).abs().max() < 0.02


def test_eq_mixture_score():
    points = randn(40, 2, seed=5).requires_grad_()
    by_autograd, = torch.autograd.grad(WORLD.log_prob(points).sum(), points)
    assert torch.allclose(WORLD.score(points), by_autograd, atol=1e-10)
    y = torch.arange(40) % 3
    by_autograd, = torch.autograd.grad(WORLD.log_prob(points, y).sum(), points)
    assert torch.allclose(WORLD.score(points, y), by_autograd, atol=1e-10)


def test_eq_class_posterior():
    points = randn(20, 2, seed=6)
    parts = torch.stack([w * gaussian_log(points, m, v.diag()).exp() for w, m, v in zip(WORLD.weights, WORLD.means, WORLD.variances)], -1)
    wanted = torch.stack([parts[:, 0], parts[:, 1] + parts[:, 2], parts[:, 3]], -1) / parts.sum(-1, keepdim=True)
    assert torch.allclose(WORLD.class_log_probs(points).exp(), wanted)


def test_eq_guided_posterior():
    points = randn(20, 2, seed=7)
    for label, prior in ((0, 0.1), (1, 0.5), (2, 0.4)):
        y = torch.full((20,), label)
        bayes = WORLD.log_prob(points) + WORLD.class_log_probs(points)[:, label] - torch.log(torch.tensor(prior, dtype=DOUBLE))
        assert torch.allclose(WORLD.log_prob(points, y), bayes)


def test_eq_exact_eps():
    # E[eps | x_t] by quadrature over x_0 in one dimension
    line = gde.GaussianMixture([[-1.0], [0.5]], [0.2, 0.4], weights=[0.3, 0.7])
    grid = torch.linspace(-4, 4, 4001, dtype=DOUBLE)
    for t, x in ((50, 0.3), (400, -0.7)):
        a = LINEAR.alpha_bars[t].item()
        noise = (x - a ** 0.5 * grid) / (1 - a) ** 0.5
        weight = line.log_prob(grid[:, None]).exp() * torch.exp(-noise ** 2 / 2)
        wanted = (weight * noise).sum() / weight.sum()
        assert line.denoiser(LINEAR)(torch.tensor([[x]], dtype=DOUBLE), torch.tensor([t])).item() == pytest.approx(wanted.item(), abs=1e-9)


def test_each_row_has_its_own_level():
    x, t, y = randn(6, 2), torch.tensor([900, 3, 3, 500, 900, 0]), torch.arange(6) % 3
    model, classifier = WORLD.denoiser(LINEAR), WORLD.classifier(LINEAR)
    for i in range(6):
        row = slice(i, i + 1)
        assert torch.allclose(model(x, t)[row], model(x[row], t[row])) and torch.allclose(model(x, t, y)[row], model(x[row], t[row], y[row]))
        assert torch.allclose(classifier(x, t)[row], classifier(x[row], t[row]))


def test_eq_learned_variance():
    t = torch.tensor([1, 10, 500])
    small, large = gde.small_variance(LINEAR)[t], LINEAR.betas[t]
    for v in (-1.0, -0.3, 0.0, 1.0):
        wanted = small ** ((1 - v) / 2) * large ** ((1 + v) / 2)
        assert torch.allclose(gde.learned_variance(torch.full((3, 1), v, dtype=DOUBLE), LINEAR, t)[:, 0], wanted, rtol=1e-10)
    first = gde.learned_variance(torch.full((1, 1), -1.0, dtype=DOUBLE), LINEAR, torch.tensor([0]))
    assert first.item() == pytest.approx(gde.small_variance(LINEAR)[1].item())
    assert gde.large_variance(LINEAR)[0] == gde.small_variance(LINEAR)[1] and torch.equal(gde.large_variance(LINEAR)[1:], LINEAR.betas[1:])


def test_eq_simple_loss():
    x_0, noise, t = randn(6, 1, 4, 4), randn(6, 1, 4, 4, seed=1), torch.tensor([0, 1, 10, 100, 500, 999])
    guess = lambda x, t, y=None: torch.cat([0.5 * x, 100 + x], 1)  # the second half is a variance: ignored
    wanted = torch.stack([(noise[i] - 0.5 * LINEAR.add_noise(x_0, t, noise)[i]).square().mean() for i in range(6)])
    assert torch.allclose(gde.simple_loss(guess, LINEAR, x_0, t, noise), wanted)
    # a respaced chain tells the model the original step
    heard = []
    gde.simple_loss(lambda x, t, y=None: heard.append(t) or x, gde.respace(LINEAR, 10), x_0[:2], torch.tensor([0, 9]), noise[:2])
    assert heard[0].tolist() == [0, 999]


def exact_joint(schedule, t, x_next):
    "On a grid of x_t: q(x_t | x_next, k) w_k(x_next) for each component k, (N, K), from the joint law and nothing else."
    grid, line = torch.linspace(-6, 6, 6001, dtype=DOUBLE), LINE.at(schedule.alpha_bars[t].item())
    a = schedule.alphas[t + 1].item()
    per_component = line.weights * torch.exp(-(grid[:, None] - line.means[:, 0]) ** 2 / (2 * line.variances[:, 0])) / line.variances[:, 0] ** 0.5
    joint = per_component * torch.exp(-(x_next - a ** 0.5 * grid) ** 2 / (2 * (1 - a)))[:, None]
    return grid, joint / joint.sum()


def test_eq_label_blind():
    # noising does not look at the label: a class's mixture noised by itself is the class's part of the noised mixture
    line, points = LINE, randn(20, 1)
    alone = gde.GaussianMixture([[-1.0], [1.2]], [0.2, 0.25], weights=[0.3, 0.4])
    assert torch.allclose(alone.at(0.3).log_prob(points), line.at(0.3).log_prob(points, torch.zeros(20, dtype=torch.long)))


def test_eq_guided_product():
    for t, x_next in ((50, 0.3), (300, 0.5)):
        grid, joint = exact_joint(LINEAR, t, x_next)
        conditional = joint[:, 1] / joint[:, 1].sum()  # q(x_t | x_next, y = 1)
        Z = 1 / LINE.at(LINEAR.alpha_bars[t + 1].item()).class_log_probs(torch.tensor([[x_next]], dtype=DOUBLE)).exp()[0, 1]
        product = Z * joint.sum(1) * LINE.at(LINEAR.alpha_bars[t].item()).class_log_probs(grid[:, None])[:, 1].exp()
        assert (conditional - product).abs().max() < 1e-10


def test_eq_martingale():
    for t, x_next in ((10, 0.9), (300, 0.5), (700, -1.0)):
        grid, joint = exact_joint(LINEAR, t, x_next)
        now = LINE.at(LINEAR.alpha_bars[t].item()).class_log_probs(grid[:, None])[:, 1].exp()
        before = LINE.at(LINEAR.alpha_bars[t + 1].item()).class_log_probs(torch.tensor([[x_next]], dtype=DOUBLE)).exp()[0, 1]
        assert (joint.sum(1) * now).sum().item() == pytest.approx(before.item(), abs=1e-10)


def test_eq_taylor():
    pair = gde.GaussianMixture([[-1.0], [1.0]], [0.5, 0.5])
    mu = torch.tensor([[0.2]], dtype=DOUBLE)
    gradient = gde.classifier_guidance(lambda x, t: pair.class_log_probs(x), torch.tensor([1]))(mu, None)
    remainder = lambda h: (pair.class_log_probs(mu + h)[0, 1] - pair.class_log_probs(mu)[0, 1] - h * gradient).item()
    assert remainder(0.01) / remainder(0.005) == pytest.approx(4, rel=0.02)  # what is left is of second order


def test_eq_scaled_shift():
    world = gde.four_corners()
    x, t, y = randn(10, 2), torch.full((10,), 200), torch.arange(10) % 2
    one, four = (gde.classifier_guidance(world.classifier(LINEAR), y, k)(x, t) for k in (1.0, 4.0))
    noised = world.at(LINEAR.alpha_bars[200].item())
    assert torch.allclose(four, 4 * (noised.score(x, y) - noised.score(x)), atol=1e-10)
    assert torch.allclose(gde.guided_mean(x, 0.1, four), x + 0.4 * one)
    logits = lambda x, t: world.classifier(LINEAR)(x, t) + 7 * x.sum(-1, keepdim=True)  # logits may differ from log-probabilities by anything common to all classes
    assert torch.allclose(gde.classifier_guidance(logits, y)(x, t), one, atol=1e-9)


def test_eq_score_eps():
    x = randn(10, 2)
    for t in (3, 500):
        score = gde.score_from_eps(WORLD.denoiser(LINEAR)(x, torch.full((10,), t)), LINEAR.alpha_bars[t].item())
        points = x.clone().requires_grad_()
        by_autograd, = torch.autograd.grad(WORLD.at(LINEAR.alpha_bars[t].item()).log_prob(points).sum(), points)
        assert torch.allclose(score, by_autograd, atol=1e-9)


def test_eq_eps_hat():
    x, y, t = randn(12, 2), torch.arange(12) % 3, torch.full((12,), 400)
    model = WORLD.denoiser(LINEAR)
    hat = gde.guided_eps(model(x, t), LINEAR.alpha_bars[400], gde.classifier_guidance(WORLD.classifier(LINEAR), y)(x, t))
    assert torch.allclose(hat, model(x, t, y), atol=1e-9)


def test_eq_ddim_family():
    noise, a, a_prev, eta = randn(400_000), 0.3, 0.6, 0.7
    x_0, x_t = 1.5, 0.3 ** 0.5 * 1.5 + 0.7 ** 0.5 * noise
    width = ddim_sigma(a, a_prev, eta)
    x_prev = a_prev ** 0.5 * x_0 + (1 - a_prev - width ** 2) ** 0.5 * gde.eps_from_x0(x_t, x_0, a) + width * randn(400_000, seed=1)
    assert x_prev.mean().item() == pytest.approx(a_prev ** 0.5 * 1.5, abs=0.005) and x_prev.var().item() == pytest.approx(0.4, abs=0.005)


def test_eq_ddim_step():
    # a denoiser that always says 0.5: every step can be followed by hand
    steps, x_T = gde.respace(LINEAR, 3), randn(2, 1, 2, 2)
    _, path = gde.ddim_sample(lambda x, t, y: torch.full_like(x, 0.5), steps, x_T.shape, x_T=x_T, clip=False, trajectory=True)
    for i, before, after in zip((2, 1, 0), path, path[1:]):
        a, a_prev = steps.alpha_bars[i], steps.alpha_bars_prev[i]
        assert torch.allclose(after, a_prev ** 0.5 * (before - (1 - a) ** 0.5 * 0.5) / a ** 0.5 + (1 - a_prev) ** 0.5 * 0.5, atol=1e-10)


def test_eq_ddim_sigma():
    for a, a_prev in ((0.4, 0.5), (0.01, 0.9)):
        assert ddim_sigma(a, a_prev, 0.3) == pytest.approx(0.3 * bayes_back(0.0, 0.0, a, a_prev)[1] ** 0.5, abs=1e-9)
    assert ddim_sigma(0.4, 0.5, 0.0) == 0 and ddim_sigma(0.4, 1.0, 1.0) == 0


def test_eq_timestep_embedding():
    emb = gde.timestep_embedding(torch.tensor([7]), 6)[0].double()
    omega = [10000 ** (-j / 3) for j in range(3)]
    wanted = [math.cos(7 * w) for w in omega] + [math.sin(7 * w) for w in omega]
    assert emb.tolist() == pytest.approx(wanted, abs=1e-5)


def test_eq_group_norm():
    norm, h = Norm(8, groups=4).double(), randn(3, 8, 5, 5)
    torch.nn.init.normal_(norm.weight); torch.nn.init.normal_(norm.bias)
    groups = h.view(3, 4, -1)
    wanted = ((groups - groups.mean(-1, keepdim=True)) / (groups.var(-1, unbiased=False, keepdim=True) + 1e-5) ** 0.5).view_as(h)
    wanted = wanted * norm.weight[:, None, None] + norm.bias[:, None, None]
    assert torch.allclose(norm(h), wanted)
    shift = torch.tensor([1.0, 1, -2, -2, 5, 5, 0, 0], dtype=DOUBLE)[:, None, None]  # constant within each group
    assert torch.allclose(norm(h + shift), norm(h), atol=1e-9)


def test_eq_added_norm():
    layer, h, emb = gde.AddedNorm(8, 6, groups=4).double(), randn(3, 8, 5, 5) + randn(8, 1, 1, seed=1), randn(3, 6, seed=2)
    torch.nn.init.normal_(layer.norm.weight); torch.nn.init.normal_(layer.norm.bias)
    e = layer.project(emb * torch.sigmoid(emb))[:, :, None, None].expand_as(h).reshape(3, 4, -1)
    x = h.view(3, 4, -1)
    x, e = (part - part.mean(-1, keepdim=True) for part in (x, e))  # within each group
    v = (x ** 2).mean(-1, keepdim=True) + 2 * (x * e).mean(-1, keepdim=True) + (e ** 2).mean(-1, keepdim=True)
    normalised = (x + e) / (v + 1e-5) ** 0.5
    assert torch.allclose(normalised.square().mean(-1, keepdim=True), v / (v + 1e-5)) and normalised.mean(-1).abs().max() < 1e-9
    wanted = normalised.view_as(h) * layer.norm.weight[:, None, None] + layer.norm.bias[:, None, None]
    assert torch.allclose(layer(h, emb), wanted)


def test_eq_adagn():
    layer, h, emb = gde.AdaGN(8, 6, groups=4).double(), randn(2, 8, 3, 3), randn(2, 6)
    y = layer.project(emb * torch.sigmoid(emb))
    for c in range(8):
        gain, shift = 1 + y[:, c], y[:, 8 + c]
        assert torch.allclose(layer(h, emb)[:, c], gain[:, None, None] * layer.norm(h)[:, c] + shift[:, None, None])


def test_eq_res_block():
    block, x, emb = gde.ResBlock(4, 6, out_channels=8, resample=halve, groups=2).double(), randn(2, 4, 6, 6), randn(2, 6, seed=1)
    pool, silu = torch.nn.functional.avg_pool2d, lambda h: h * torch.sigmoid(h)
    skip = torch.nn.functional.conv2d(pool(x, 2), block.skip.weight, block.skip.bias)
    assert torch.allclose(block(x, emb), skip)  # fresh: the skip and nothing else
    block(x, emb).square().sum().backward()
    assert block.last.weight.grad.abs().max() > 0 == block.conv.weight.grad.abs().max() == block.adagn.project.weight.grad.abs().max()
    torch.nn.init.normal_(block.last.weight); torch.nn.init.normal_(block.last.bias)
    h = torch.nn.functional.conv2d(pool(silu(block.norm(x)), 2), block.conv.weight, block.conv.bias, padding=1)
    correction = torch.nn.functional.conv2d(silu(block.adagn(h, emb)), block.last.weight, block.last.bias, padding=1)
    assert torch.allclose(block(x, emb), skip + correction)


def test_eq_head_order():
    heads, d = 2, 4
    rows = randn(heads * 3 * d, 5)
    moved = queries_first(rows, heads)
    for n in range(heads):
        for j in range(3):
            for i in range(d): assert torch.equal(moved[(j * heads + n) * d + i], rows[(3 * n + j) * d + i])


def test_eq_attention_pool():
    pool, h = AttentionPool(8, 2, 4, 3).double(), randn(2, 8, 2, 2)
    for example in range(2):
        features = h[example].flatten(1).T  # (4, 8)
        tokens = torch.cat([features.mean(0)[None], features]) + pool.position.T  # (5, 8)
        q, k, v = (tokens @ pool.qkv.weight[:, :, 0].T + pool.qkv.bias).split(8, dim=1)
        got = torch.cat([(q[0, part] @ k[:, part].T / 2).softmax(-1) @ v[:, part] for part in (slice(0, 4), slice(4, 8))])
        assert torch.allclose(pool(h)[example], pool.last.weight[:, :, 0] @ got + pool.last.bias)


def test_eq_attention():
    qkv = randn(2, 3 * 8, 5)
    out = attend(qkv, heads=2)
    for head in range(2):
        q, k, v = (qkv[0, part * 8 + head * 4:part * 8 + head * 4 + 4].T for part in range(3))
        assert torch.allclose(out[0, head * 4:head * 4 + 4].T, (q @ k.T / 2).softmax(-1) @ v)


def test_eq_noisy_cross_entropy():
    x_0, y, noise = randn(9, 2), torch.arange(9) % 3, randn(9, 2, seed=1)
    t = torch.linspace(0, 999, 9).long()
    wanted = [-WORLD.at(LINEAR.alpha_bars[t[i]].item()).class_log_probs(LINEAR.add_noise(x_0, t, noise)[i:i + 1])[0, y[i]].item() for i in range(9)]
    assert gde.classifier_loss(WORLD.classifier(LINEAR), LINEAR, x_0, y, t, noise).tolist() == pytest.approx(wanted)


def test_eq_ema():
    model = torch.nn.Linear(2, 2)
    start = model.weight.detach().clone()
    average = moving_average(model, 0.8)
    torch.nn.init.ones_(model.weight)
    average.update_parameters(model)
    assert torch.allclose(average.module.weight, 0.8 * start + 0.2)


def test_eq_shares():
    "The whole batch at once, in parts one after another, and as the mean over two processes of rows k, k + 2, ..."
    batch, idle = (randn(8, 1), torch.zeros(8), torch.zeros(8), randn(8, 1, seed=1)), torch.amp.GradScaler('cpu', enabled=False)
    def loss(model, schedule, x_0, y, t, eps): return (model(x_0) - eps).square()[:, 0]
    def gradient(accumulate, rows=slice(None)):
        model = torch.nn.Linear(1, 1).double()
        for p in model.parameters(): torch.nn.init.constant_(p, 0.3)
        share = [part[rows] for part in batch]
        losses = backward(model, loss, None, share, torch.arange(8.0)[rows], idle, accumulate)
        assert torch.allclose(losses, loss(model, None, *share))
        return model.weight.grad
    whole = gradient(1)
    x, eps, weight = batch[0][:, 0], batch[3][:, 0], torch.arange(8.0)
    assert torch.allclose(whole, (weight * 2 * (0.3 * x + 0.3 - eps) * x).mean())
    assert torch.allclose(gradient(4), whole) and torch.allclose((gradient(2, slice(0, None, 2)) + gradient(1, slice(1, None, 2))) / 2, whole)


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
    shares = (torch.rand(20_000, 300, generator=torch.Generator().manual_seed(0)) < 0.97).double().mean(1)
    assert shares.std().item() == pytest.approx(standard_error(0.97, 300), rel=0.03)

def test_eq_forward_between():
    short = gde.respace(LINEAR, [3, 3])  # its steps jump over many of the long chain's
    for i in range(1, 6):
        first, last = short.timesteps[i - 1].item(), short.timesteps[i].item()
        between = torch.prod(1 - LINEAR.betas[first + 1:last + 1])
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
        weight = (LINE.log_prob(grid[:, None]) - (x - a ** 0.5 * grid) ** 2 / (2 * (1 - a))).softmax(0)
        here = torch.tensor([[x]], dtype=DOUBLE)
        assert (here + (1 - a) * LINE.at(a).score(here)).item() / a ** 0.5 == pytest.approx((weight * grid).sum().item(), abs=1e-7)
        by_network = gde.x0_from_eps(here, LINE.denoiser(LINEAR)(here, torch.tensor([t])), a).item()
        assert by_network == pytest.approx((weight * grid).sum().item(), abs=1e-7)


def bayes_back(x_0, x_t, a, a_prev):
    "Mean and variance of q(x_{t-1} | x_t, x_0) by Bayes' rule on a grid."
    grid, ratio = torch.linspace(-9, 9, 12_001, dtype=DOUBLE), a / a_prev
    p = (-(x_t - ratio ** 0.5 * grid) ** 2 / (2 * (1 - ratio)) - (grid - a_prev ** 0.5 * x_0) ** 2 / (2 * (1 - a_prev))).softmax(0)
    mean = (p * grid).sum()
    return mean.item(), (p * (grid - mean) ** 2).sum().item()


def test_eq_posterior_variance():
    assert torch.allclose(gde.small_variance(LINEAR)[1:], (1 / (LINEAR.alphas / LINEAR.betas + 1 / (1 - LINEAR.alpha_bars_prev)))[1:], rtol=1e-8)
    assert gde.small_variance(LINEAR)[0] == 0 and gde.posterior_variance(0.4, 0.5) == pytest.approx(bayes_back(1.3, 0.4, 0.4, 0.5)[1], abs=1e-9)


def test_eq_posterior_mean():
    for case in ((1.3, 0.4, 0.4, 0.5), (-0.7, 2.0, 0.1, 0.7)):
        assert gde.posterior_mean(*case) == pytest.approx(bayes_back(*case)[0], abs=1e-9)


def test_eq_eps_to_x0():
    assert gde.x0_from_eps(0.8 ** 0.5 * 3 + 0.2 ** 0.5 * 5, 5, 0.8) == pytest.approx(3)


def test_eq_x0_to_eps():
    assert gde.eps_from_x0(0.8 ** 0.5 * 3 + 0.2 ** 0.5 * 5, 3, 0.8) == pytest.approx(5)


def test_eq_mean_from_eps():
    for a, a_prev in ((0.5, 0.6), (0.01, 0.3), (0.9998, 0.9999)):
        x, e = randn(7), randn(7, seed=1)
        assert torch.allclose(gde.mean_from_eps(x, e, a, a_prev), gde.posterior_mean(gde.x0_from_eps(x, e, a), x, a, a_prev), atol=1e-10)


def step_back(world, t_from, t_to, x, y=None):
    "Mean and variance of q(x_{t_to} | x_{t_from} = x) in a one-dimensional world by Bayes' rule on a grid."
    a, a_prev = LINEAR.alpha_bars[[t_from, t_to]].tolist()
    grid = torch.linspace(-9, 9, 36_001, dtype=DOUBLE)
    log = world.at(a_prev).log_prob(grid[:, None], None if y is None else torch.full((len(grid),), y))
    p = (log - (x - (a / a_prev) ** 0.5 * grid) ** 2 / (2 * (1 - a / a_prev))).softmax(0)
    mean = (p * grid).sum()
    return mean.item(), (p * (grid - mean) ** 2).sum().item(), a, a_prev


def test_eq_step_tweedie():
    for t_from, t_to, x in ((600, 300, 0.4), (10, 9, 1.0), (999, 0, -0.5)):
        wanted, _, a, a_prev = step_back(LINE, t_from, t_to, x)
        here = torch.tensor([[x]], dtype=DOUBLE)
        assert gde.mean_from_eps(here, LINE.denoiser(LINEAR)(here, torch.tensor([t_from])), a, a_prev).item() == pytest.approx(wanted, abs=1e-7)


def test_eq_step_variance():
    for t_from, t_to, x in ((600, 300, 0.4), (101, 100, 0.0)):
        _, wanted, a, a_prev = step_back(LINE, t_from, t_to, x)
        grid = torch.linspace(-4, 4, 40_001, dtype=DOUBLE)
        p = (LINE.log_prob(grid[:, None]) - (x - a ** 0.5 * grid) ** 2 / (2 * (1 - a))).softmax(0)
        of_x_0 = (p * grid ** 2).sum() - (p * grid).sum() ** 2
        coefficient = gde.posterior_mean(1.0, 0.0, a, a_prev)
        assert (gde.posterior_variance(a, a_prev) + coefficient ** 2 * of_x_0).item() == pytest.approx(wanted, abs=1e-7)
        assert wanted > gde.posterior_variance(a, a_prev)


def pixels(*shape): return (torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)) / 127.5 - 1).double()


def test_eq_vlb():
    # term by term against torch.distributions, for a network with a learned variance
    x_0, t, noise = pixels(4, 1, 3, 3), torch.tensor([0, 1, 50, 999]), randn(4, 1, 3, 3)
    x_t = LINEAR.add_noise(x_0, t, noise)
    output = torch.cat([0.9 * noise, torch.full_like(noise, 0.3)], 1)
    got = gde.bound_term(output, LINEAR, x_0, x_t, t)
    small = gde.small_variance(LINEAR)
    for i, step in enumerate(t.tolist()):
        a, a_prev = LINEAR.alpha_bars[step].item(), LINEAR.alpha_bars_prev[step].item()
        guess = ((x_t[i] - (1 - a) ** 0.5 * 0.9 * noise[i]) / a ** 0.5).clamp(-1, 1)
        lower = small[max(step, 1)].item()
        model = Normal(gde.posterior_mean(guess, x_t[i], a, a_prev), LINEAR.betas[step].item() ** (0.65 / 2) * lower ** (0.35 / 2))
        if step: wanted = kl_divergence(Normal(gde.posterior_mean(x_0[i], x_t[i], a, a_prev), lower ** 0.5), model)
        else: wanted = -(model.cdf(torch.where(x_0[i] > 0.999, 99, x_0[i] + 1 / 255)) - model.cdf(torch.where(x_0[i] < -0.999, -99, x_0[i] - 1 / 255))).log()
        assert got[i].item() == pytest.approx((wanted.mean() / math.log(2)).item(), rel=1e-6), step


def test_eq_gaussian_kl():
    for m, s, n, r in ((0.3, 0.5, -0.2, 0.8), (0.0, 1e-3, 0.1, 1e-2), (5.0, 2.0, 5.0, 2.0)):
        p, q = Normal(torch.tensor(m, dtype=DOUBLE), torch.tensor(s, dtype=DOUBLE)), Normal(torch.tensor(n, dtype=DOUBLE), torch.tensor(r, dtype=DOUBLE))
        assert gde.gaussian_kl(p.loc, 2 * p.scale.log(), q.loc, 2 * q.scale.log()).item() == pytest.approx(kl_divergence(p, q).item(), abs=1e-12)


def test_eq_decoder():
    levels = torch.arange(256, dtype=DOUBLE) / 127.5 - 1
    for mean, std in ((0.1, 0.2), (0.99, 0.01), (-3.0, 1.0), (0.0, 100.0)):
        law = Normal(torch.tensor(mean, dtype=DOUBLE), std)
        log = gde.decoder_log_prob(levels, law.loc, torch.tensor(2 * math.log(std), dtype=DOUBLE))
        assert log.exp().sum().item() == pytest.approx(1, abs=1e-12)
        inner = law.cdf(levels + 1 / 255) - law.cdf(levels - 1 / 255)
        assert torch.allclose(log.exp()[1:-1], inner[1:-1], atol=1e-12)
        assert log[0].exp().item() == pytest.approx(law.cdf(levels[0] + 1 / 255).item(), abs=1e-12)
    far = gde.decoder_log_prob(levels[250:252], torch.tensor(-1.0), torch.tensor(-5.0))  # 24 standard deviations up
    assert far[0] > far[1] > -700  # digits are not lost in the upper tail: the nearer level is the likelier, and no floor was hit


def test_eq_vlb_weight():
    x_0, noise, error = 0.1 * randn(5, 1, 2, 2), 0.3 * randn(5, 1, 2, 2, seed=1), 0.2 * randn(5, 1, 2, 2, seed=2)
    t = torch.tensor([1, 2, 10, 100, 300])
    got = gde.bound_term(noise + error, LINEAR, x_0, LINEAR.add_noise(x_0, t, noise), t) * math.log(2)
    c = LINEAR.betas ** 2 / (2 * gde.small_variance(LINEAR) * LINEAR.alphas * (1 - LINEAR.alpha_bars))
    assert torch.allclose(got, c[t] * error.square().flatten(1).mean(1), rtol=1e-8)


def test_eq_hybrid_loss():
    x_0, t, noise = pixels(4, 1, 2, 2), torch.tensor([0, 1, 50, 99]), randn(4, 1, 2, 2)
    s = gde.linear_schedule(100)
    guess = randn(4, 2, 2, 2, seed=3).requires_grad_()
    loss = gde.hybrid_loss(lambda x, t, y: guess, s, x_0, t, noise)
    simple = gde.simple_loss(lambda x, t, y: guess, s, x_0, t, noise)
    bound = gde.bound_term(guess, s, x_0, s.add_noise(x_0, t, noise), t, clip=False)
    assert torch.allclose(loss, simple + 0.1 * bound)  # T / 1000 = 0.1
    of_all, = torch.autograd.grad(loss.sum(), guess, retain_graph=True)
    of_simple, = torch.autograd.grad(simple.sum(), guess)
    assert torch.allclose(of_all[:, :1], of_simple[:, :1]) and (of_all[:, 1:] != 0).all()
    with pytest.raises(ValueError, match='model must give 2 channels'): gde.hybrid_loss(lambda x, t, y: x, s, x_0, t, noise)


def test_eq_v_to_eps():
    x_0, noise = randn(5, 3), randn(5, 3, seed=1)
    for a in (0.9999, 0.5, 1e-4):
        x_t, v = a ** 0.5 * x_0 + (1 - a) ** 0.5 * noise, a ** 0.5 * noise - (1 - a) ** 0.5 * x_0
        assert torch.allclose(gde.eps_from_v(x_t, v, a), noise, atol=1e-12)


def test_eq_mean_to_eps():
    x_t, noise = randn(5, 3), randn(5, 3, seed=1)
    for a, b in ((0.5, 0.6), (0.01, 0.02), (0.998, 0.999)):
        mean = gde.posterior_mean(gde.x0_from_eps(x_t, noise, a), x_t, a, b)
        assert torch.allclose(gde.eps_from_mean(x_t, mean, a, b), noise, atol=1e-10)


def test_eq_target_weight():
    # a model of each output, wrong by a constant: the squared error of the output itself is the weighted error of its noise
    x_0, noise, t = randn(4, 2), randn(4, 2, seed=1), torch.tensor([1, 20, 500, 999])
    a, b = LINEAR.alpha_bars[t][:, None], LINEAR.alpha_bars_prev[t][:, None]
    x_t = LINEAR.add_noise(x_0, t, noise)
    right = {gde.eps_from_x0: x_0, gde.eps_from_v: a ** 0.5 * noise - (1 - a) ** 0.5 * x_0, gde.eps_from_mean: gde.posterior_mean(x_0, x_t, a, b)}
    for eps_from, output in right.items():
        model = gde.as_eps(lambda x, t, y=None: output + 0.3, LINEAR, eps_from)
        loss = gde.simple_loss(model, LINEAR, x_0, t, noise, weight=gde.target_weight(LINEAR, eps_from))
        assert torch.allclose(loss, torch.tensor(0.09, dtype=DOUBLE), rtol=1e-6)


def test_eq_bound_estimate():
    s, x_0 = gde.linear_schedule(40), pixels(2, 1, 2, 2)
    model = lambda x, t, y: 0.1 * x
    _, terms = gde.bits_per_dim(model, s, x_0, generator=torch.Generator().manual_seed(5))
    g = torch.Generator().manual_seed(5)
    noises = [torch.randn(x_0.shape, dtype=DOUBLE, generator=g) for _ in range(40)]
    losses = torch.stack([gde.bound_loss(model, s, x_0, torch.full((2,), i), noises[i]) for i in range(40)], 1)
    clipped = [(gde.x0_from_eps(s.add_noise(x_0, torch.full((2,), i), noises[i]), 0.1 * s.add_noise(x_0, torch.full((2,), i), noises[i]), s.alpha_bars[i].item()).abs() > 1).flatten(1).any(1) for i in range(40)]
    free = ~torch.stack(clipped, 1)  # where the bound's clip at 1 did nothing
    assert free.sum() > 10 and torch.allclose(losses[free] / 40, terms[free])


def trained_steps():
    steps, g = gde.SecondMomentSteps(4), torch.Generator().manual_seed(0)
    mean, spread = torch.tensor([1.0, 0.1, 5.0, 0.1]), torch.tensor([0.1, 3.0, 0.5, 0.1])
    history = mean + spread * torch.randn(10, 4, generator=g)
    for row in history: steps.update(torch.arange(4), row)
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
    for other in torch.distributions.Dirichlet(torch.ones(4)).sample((200,)).double(): assert second(other) >= second(M.sqrt() / M.sqrt().sum())
    assert gde.SecondMomentSteps(4).probabilities().tolist() == [0.25] * 4  # until every step has a history


def test_eq_bits_per_dim():
    s, x_0 = gde.linear_schedule(50), pixels(3, 1, 2, 2)
    prior, terms = gde.bits_per_dim(lambda x, t, y: 0.1 * x, s, x_0, generator=torch.Generator().manual_seed(5))
    a = s.alpha_bars[-1].item()
    wanted = kl_divergence(Normal(a ** 0.5 * x_0, (1 - a) ** 0.5), Normal(torch.zeros(1, dtype=DOUBLE), 1)).flatten(1).mean(1) / math.log(2)
    assert torch.allclose(prior, wanted, atol=1e-9) and terms.shape == (3, 50)
    g = torch.Generator().manual_seed(5)
    for i in range(50):
        t = torch.full((3,), i)
        x_t = s.add_noise(x_0, t, torch.randn(x_0.shape, dtype=DOUBLE, generator=g))
        assert torch.allclose(terms[:, i], gde.bound_term(0.1 * x_t, s, x_0, x_t, t))


def test_eq_martingale_gap():
    x_0, clean = LINE.sample(20_000, generator=torch.Generator().manual_seed(0)), LINE.at(1.0)
    exact = LINE.classifier(LINEAR)
    def z(classifier):
        t, gap, error = gde.martingale_gap(classifier, LINEAR, x_0, generator=torch.Generator().manual_seed(1))
        assert t.tolist() == [0, 111, 222, 333, 444, 555, 666, 777, 888]
        return gap / error
    assert z(exact).abs().max() < 4
    assert z(lambda x, t: 3 * exact(x, t)).min() < -20  # overconfident: taken back
    assert z(lambda x, t: 0.3 * exact(x, t)).max() > 20  # too timid
    assert z(lambda x, t: clean.class_log_probs(x)).min() < -20  # never saw noise
    assert z(lambda x, t: torch.zeros(len(x), 2)).nan_to_num().abs().max() == 0  # no opinion passes: the test is not sufficient


def test_eq_complete_square():
    # the product of a Gaussian with a log-linear factor, on a grid in the plane, is the Gaussian that the square names
    sigma, g, mu = torch.tensor([[0.3, 0.1], [0.1, 0.2]], dtype=DOUBLE), torch.tensor([0.7, -1.1], dtype=DOUBLE), torch.tensor([0.2, 0.1], dtype=DOUBLE)
    side = torch.linspace(-5, 5, 401, dtype=DOUBLE)
    grid = torch.cartesian_prod(side, side)
    product = gaussian_log(grid, mu, sigma) + (grid - mu) @ g
    shifted, covariance = gde.second_order_step(mu[None], sigma[None], g[None], torch.zeros(1, 2, 2, dtype=DOUBLE))
    difference = product - gaussian_log(grid, shifted[0], covariance[0])
    assert torch.allclose(difference, 0.5 * g @ sigma @ g * torch.ones(len(grid), dtype=DOUBLE), atol=1e-9)  # C_3 - C_2: one constant everywhere


def test_eq_mean_shift():
    # a log-linear classifier makes it exact: compare with the normalised product on a grid
    grid = torch.linspace(-8, 8, 8001, dtype=DOUBLE)
    product = (-(grid - 0.3) ** 2 / (2 * 0.25) + 1.7 * grid).softmax(0)
    assert gde.guided_mean(0.3, 0.25, 1.7) == pytest.approx((product * grid).sum().item(), abs=1e-9)


def test_eq_hessian_step():
    # a Gaussian likelihood is exactly quadratic, so the step is exactly Bayes' rule for Gaussians
    S, R = torch.tensor([[0.5, 0.2], [0.2, 0.4]], dtype=DOUBLE), torch.tensor([[0.3, -0.1], [-0.1, 0.6]], dtype=DOUBLE)
    mu, c = randn(2), randn(2, seed=1)
    mean, covariance = gde.second_order_step(mu[None], S[None], (R.inverse() @ (c - mu))[None], -R.inverse()[None])
    precision = S.inverse() + R.inverse()
    assert torch.allclose(covariance[0], precision.inverse()) and torch.allclose(mean[0], precision.inverse() @ (S.inverse() @ mu + R.inverse() @ c))
    with pytest.raises(ValueError, match='hessian must be smaller'): gde.second_order_step(mu[None], S[None], mu[None], 9 * torch.eye(2, dtype=DOUBLE)[None])


def test_eq_error_law():
    pair, place = gde.GaussianMixture([[-1.0], [1.0]], [0.5, 0.5]), torch.tensor([[0.2]], dtype=DOUBLE, requires_grad=True)
    for s in (1, 4):
        value, derivatives = s * pair.class_log_probs(place)[0, 1], []
        for _ in range(3):
            value = torch.autograd.grad(value, place, create_graph=True)[0].sum()
            derivatives.append(value.item())
        g, H, T = derivatives
        measured = {}
        for std in (0.004, 0.008):
            d = std * torch.linspace(-9, 9, 6001, dtype=DOUBLE)
            true = -d ** 2 / (2 * std ** 2) + s * pair.class_log_probs(0.2 + d[:, None])[:, 1]
            true = (true - torch.trapezoid(true.exp(), d).log()).detach()
            second = gde.second_order_step(*(torch.tensor(v, dtype=DOUBLE) for v in ([[0.0]], [[[std ** 2]]], [[g]], [[[H]]])))
            laws = [(0.0, std), (gde.guided_mean(0.0, std ** 2, g), std), (second[0].item(), second[1].item() ** 0.5)]
            logs = [Normal(torch.tensor(m, dtype=DOUBLE), v).log_prob(d) for m, v in laws]
            measured[std] = torch.tensor([[0.5 * torch.trapezoid((true.exp() - q.exp()).abs(), d), torch.trapezoid(true.exp() * (true - q), d)] for q in logs], dtype=DOUBLE)
            root = (2 * math.pi) ** 0.5
            predicted = torch.tensor([[std * abs(g) / root, std ** 2 * g ** 2 / 2], [std ** 2 * abs(H) / (2 * math.pi * math.e) ** 0.5, std ** 4 * H ** 2 / 4],
                                      [std ** 3 * abs(T) / (3 * root), 5 * std ** 6 * T ** 2 / 24]], dtype=DOUBLE)
            assert torch.allclose(measured[std], predicted, rtol=0.04), (s, std, measured[std] / predicted)
        slopes = (measured[0.008] / measured[0.004]).log2() / 2  # in Sigma
        assert (slopes - torch.tensor([[0.5, 1], [1, 2], [1.5, 3]])).abs().max() < 0.03


def test_eq_exact_shift():
    for t_from, t_to, x in ((600, 300, 0.4), (999, 10, -1.0), (5, 4, 0.1)):
        of_class, _, a, a_prev = step_back(LINE, t_from, t_to, x, y=1)
        of_all = step_back(LINE, t_from, t_to, x)[0]
        here, t = torch.tensor([[x]], dtype=DOUBLE), torch.tensor([t_from])
        g, e = gde.classifier_guidance(LINE.classifier(LINEAR), torch.tensor([1]))(here, t), LINE.denoiser(LINEAR)(here, t)
        assert (1 - a / a_prev) / (a / a_prev) ** 0.5 * g.item() == pytest.approx(of_class - of_all, abs=1e-7)
        assert gde.mean_from_eps(here, gde.guided_eps(e, a, g), a, a_prev).item() == pytest.approx(of_class, abs=1e-7)


def one_step(sampler, schedule, guidance=None, **options):
    "Where the first step of a sampler goes from 0 when the model sees no noise."
    x_T = torch.zeros(1, 1, 1, 1, dtype=DOUBLE)
    _, path = sampler(lambda x, t, y: torch.zeros_like(x), schedule, x_T.shape, guidance=guidance, x_T=x_T, clip=False, trajectory=True,
                      generator=torch.Generator().manual_seed(0), **options)
    return path[1].item()


def test_eq_shift_ratio():
    push = lambda x, t: torch.ones_like(x)
    for count in (3, 10, 100):
        s = gde.respace(LINEAR, count)
        by_rule = one_step(gde.ddpm_sample, s, push) - one_step(gde.ddpm_sample, s)
        exact = one_step(gde.ddim_sample, s, push, eta=1.0) - one_step(gde.ddim_sample, s, eta=1.0)
        wanted = s.alphas[-1].sqrt() * (1 - s.alpha_bars_prev[-1]) / (1 - s.alpha_bars[-1])
        assert shift_ratio(s)[-1].item() == pytest.approx(wanted.item(), rel=1e-12)
        assert by_rule / exact == pytest.approx(wanted.item(), rel=1e-6) and exact == pytest.approx((s.betas[-1] / s.alphas[-1].sqrt()).item(), rel=1e-6)


def test_eq_ddim_shift():
    push = lambda x, t: 2 * torch.ones_like(x)
    for count, eta in ((3, 0.0), (10, 0.5), (1000, 0.0)):
        s = gde.respace(LINEAR, count)
        a, a_prev, alpha = s.alpha_bars[-1].item(), s.alpha_bars_prev[-1].item(), s.alphas[-1].item()
        sigma = eta * ((1 - a_prev) / (1 - a) * (1 - alpha)) ** 0.5
        wanted = (1 - a) ** 0.5 * (((1 - a) / alpha) ** 0.5 - (1 - a_prev - sigma ** 2) ** 0.5)
        got = (one_step(gde.ddim_sample, s, push, eta=eta) - one_step(gde.ddim_sample, s, eta=eta)) / 2
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
        assert torch.allclose(after / s.alpha_bars_prev[i] ** 0.5, before / s.alpha_bars[i] ** 0.5 + (lower - noise_to_signal[i]) * e, atol=1e-9)


def test_eq_ddim_inversion():
    s, asked = gde.respace(LINEAR, 5), []
    def constant(x, t, y=None): asked.append(t[0].item()); return torch.full_like(x, 0.3)
    x_0 = randn(2, 1, 2, 2)
    x_T = gde.ddim_invert(constant, s, x_0)
    assert asked == [0, *s.timesteps[:-1].tolist()]  # each step up asks at the level it leaves
    assert torch.allclose(gde.ddim_sample(constant, s, x_0.shape, x_T=x_T, clip=False), x_0, atol=1e-9)  # a constant field is inverted exactly
    world, miss = gde.four_corners(), {}
    points, y = world.sample(200, generator=torch.Generator().manual_seed(0)), torch.arange(200) % 2
    guidance = gde.classifier_guidance(world.classifier(LINEAR), y, 0.5)
    for count in (100, 200):
        s = gde.respace(LINEAR, count)
        x_T = gde.ddim_invert(world.denoiser(LINEAR), s, points, guidance=guidance)
        back = gde.ddim_sample(world.denoiser(LINEAR), s, points.shape, guidance=guidance, x_T=x_T, clip=False)
        miss[count] = (back - points).square().mean().sqrt().item()
    assert miss[200] < 0.03 and miss[200] < 0.6 * miss[100]


def test_eq_chain_law():
    # Appendix H for the whole chain, to rounding, and no accident: without guidance it fails
    s = gde.respace(LINEAR, 12)
    for tilt, holds in ((product_tilt(exact_class(LINE, 1)), True), (no_tilt, False)):
        x, law = guided_chain(LINE, s, 1, exact_kernel(LINE), tilt)
        assert law.sum().item() == pytest.approx(1, abs=1e-12)
        assert (total_variation(law, class_law(LINE, 1, s.alpha_bars[0].item(), x)) < 1e-8) == holds


def test_eq_matched_variance():
    x, below = torch.linspace(-2, 2, 9, dtype=DOUBLE), torch.linspace(-6, 6, 6001, dtype=DOUBLE)
    for count, i in ((25, 3), (25, 20), (10, 5)):
        s = gde.respace(LINEAR, count)
        weights = exact_kernel(LINE)(s, i, x, below)[0].softmax(1)
        mean, variance = step_moments(LINE, s, i, x)
        assert torch.allclose(mean, weights @ below, atol=1e-9)
        assert torch.allclose(variance, weights @ below ** 2 - (weights @ below) ** 2, atol=1e-9)


def test_eq_guided_variance():
    # against the moments of the exact kernel times the classifier, on a grid
    x, below, s = torch.linspace(-1.5, 1.5, 7, dtype=DOUBLE), torch.linspace(-6, 6, 6001, dtype=DOUBLE), gde.respace(LINEAR, 25)
    for i in (3, 12, 20):
        logs, mean = exact_kernel(LINE)(s, i, x, below)
        exact = (logs + product_tilt(exact_class(LINE, 1))(s, i, x, mean, below)).softmax(1)
        logs, mean = matched_kernel(LINE)(s, i, x, below)
        ours = (logs + moments_tilt(exact_class(LINE, 1), LINE)(s, i, x, mean, below)).softmax(1)
        for power in (1, 2): assert torch.allclose(ours @ below ** power, exact @ below ** power, atol=1e-6)


def test_eq_third_order_shift():
    z = torch.linspace(-12, 12, 40_001, dtype=DOUBLE)
    g, H, T = 0.7, -1.1, 0.9  # log p = g d + H d^2 / 2 + T d^3 / 6 - d^4 / 10, to be integrable
    def off(variance):
        d = z * variance ** 0.5
        law = (g * d + H * d ** 2 / 2 + T * d ** 3 / 6 - d ** 4 / 10 - z ** 2 / 2).softmax(0)
        return (law * d).sum().item() - third_order_shift(variance, g, H, T)
    assert off(0.01) / off(0.005) == pytest.approx(8, abs=0.4)


def test_eq_total_variation():
    x = torch.linspace(-10, 10, 4001, dtype=DOUBLE)
    for distance in (0.1, 1.0, 3.0):  # two unit Gaussians: 2 Phi(d / 2) - 1
        p, q = ((-(x - m) ** 2 / 2).softmax(0) for m in (0.0, distance))
        assert total_variation(p, q) == pytest.approx(math.erf(distance / 8 ** 0.5), abs=1e-5)
    assert total_variation(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])) == 1


def test_eq_tilted_kernel():
    # one step from a chosen point: mean and variance of kernel times tilt are those of the formulas, for every tilt
    s, log_class, i = gde.respace(LINEAR, 40), exact_class(LINE, 1), 12
    x, below = torch.tensor([0.4], dtype=DOUBLE), torch.linspace(-6, 6, 24_001, dtype=DOUBLE)
    logs, mean = gaussian_kernel(LINE)(s, i, x, below)
    variance, level, here = gde.small_variance(s)[i].item(), LINEAR.alpha_bars[s.timesteps[i - 1]].item(), LINEAR.alpha_bars[s.timesteps[i]].item()
    def derivatives(alpha_bar, at):
        at = at.clone().requires_grad_()
        g, = torch.autograd.grad(LINE.at(alpha_bar).class_log_probs(at[:, None])[:, 1].sum(), at, create_graph=True)
        return g.item(), torch.autograd.grad(g, at)[0].item()
    (g_mean, H), (g_here, _) = derivatives(level, mean), derivatives(here, x)
    exact = (s.betas[i] / s.alphas[i].sqrt()).item()
    narrowed = 1 / (1 / variance - min(H, 0.9 / variance))
    wanted = {mean_tilt: (variance * g_mean, variance), x_t_tilt: (variance * g_here, variance), eps_tilt: (exact * g_here, variance), hessian_tilt: (narrowed * g_mean, narrowed)}
    for tilt, (shift, width) in wanted.items():
        p = (logs + tilt(log_class)(s, i, x, mean, below)).softmax(1)[0]
        got = (p * below).sum()
        assert (got - mean).item() == pytest.approx(shift, abs=1e-9) and (p * (below - got) ** 2).sum().item() == pytest.approx(width, abs=1e-9)


def lab_target(r, y, s):
    "Mean and variance of p(x) p(y | x)^s in the laboratory, by a grid."
    x = torch.linspace(-8, 8, 32_001, dtype=DOUBLE)
    p = (-x ** 2 / 2 - s * (y - x) ** 2 / (2 * r ** 2)).softmax(0)
    mean = (p * x).sum()
    return mean.item(), (p * (x - mean) ** 2).sum().item()


def test_eq_tilted_target():
    # at s = 1 guided DDIM in the laboratory reaches it, at s = 2 it does not
    for s, reached in ((1.0, True), (2.0, False)):
        mean, variance = lab_moments(lambda i: lab_step_ddim(LINEAR, i, 0.7, 1.0, s), LINEAR)
        target = lab_target(0.7, 1.0, s)
        assert (abs(mean - target[0]) < 0.01 and abs(variance - target[1]) < 0.01) == reached
        assert target_variance(0.7, s) == pytest.approx(target[1], abs=1e-9)


def test_eq_lab_gradient():
    x, r = randn(6, 1).requires_grad_(), 0.6
    for t in (3, 300, 999):
        a = LINEAR.alpha_bars[t].item()
        by_autograd, = torch.autograd.grad(Normal(a ** 0.5 * x, (1 - a + r ** 2) ** 0.5).log_prob(torch.tensor(1.3, dtype=DOUBLE)).sum(), x)
        assert torch.allclose(lab_guidance(LINEAR, r, 1.3, 2.0)(x.detach(), torch.full((6,), t)), 2 * by_autograd)
        one = gde.GaussianMixture([[0.0]], [1.0])
        assert torch.allclose(lab_model(LINEAR)(x.detach(), torch.full((6,), t)), one.denoiser(LINEAR)(x.detach(), torch.full((6,), t)))


def test_eq_lab_recursion():
    # the package's samplers, number by number, and the moments of their samples
    s = gde.respace(LINEAR, 20)
    rules = {lab_step_at_x_t: (gde.ddpm_sample, dict(variance='large')), lab_step_at_mean: (gde.ddpm_sample, dict(variance='large', gradient_at='mean')), lab_step_ddim: (gde.ddim_sample, {})}
    for step, (sampler, options) in rules.items():
        x_T, g = randn(40_000, 1, seed=8), torch.Generator().manual_seed(0)
        drawn = sampler(lab_model(LINEAR), s, x_T.shape, x_T=x_T, clip=False, guidance=lab_guidance(LINEAR, 0.5, 1.0, 2.0), generator=torch.Generator().manual_seed(0), **options)
        x = x_T
        for i in range(19, -1, -1):
            a, b, c = step(s, i, 0.5, 1.0, 2.0)
            x = a * x + b + c * torch.randn(x.shape, dtype=DOUBLE, generator=g)
        assert (drawn - x).abs().max() < 1e-10
        mean, variance = lab_moments(lambda i: step(s, i, 0.5, 1.0, 2.0), s)
        assert drawn.mean().item() == pytest.approx(mean, abs=0.02) and drawn.var().item() == pytest.approx(variance, rel=0.04)


def test_eq_law_target():
    for r, s in ((0.5, 1.0), (0.5, 8.0), (2.0, 0.3)):
        assert target_variance(r, s) == pytest.approx(lab_target(r, 0.4, s)[1], abs=1e-8)


def in_the_limit(step, r, scale):
    "Variance at infinitely many steps, from 1000 and 2000 by Richardson's extrapolation."
    values = [lab_moments(lambda i: step(s, i, r, 0.0, scale), s)[1] for s in (gde.linear_schedule(1000), gde.linear_schedule(2000))]
    return 2 * values[1] - values[0]


def test_eq_law_ddpm():
    for r, s in ((0.5, 0.5), (0.5, 1.0), (0.5, 2.0), (1.5, 3.0)):
        for step in (lab_step_at_x_t, lab_step_at_mean, lab_step_by_eps):
            assert in_the_limit(step, r, s) == pytest.approx(ddpm_variance(r, s), rel=2e-3)
    assert ddpm_variance(0.5, 2.0) == pytest.approx(0.0827, abs=1e-4) and ddpm_variance(0.5, 8.0) == pytest.approx(0.0167, abs=1e-4)


def test_eq_law_ddim():
    for r, s in ((0.5, 0.5), (0.5, 1.0), (0.5, 2.0), (1.5, 3.0)):
        assert in_the_limit(lab_step_ddim, r, s) == pytest.approx(ddim_variance(r, s), rel=2e-3)


def test_eq_place_error():
    r, s = 0.7, gde.respace(LINEAR, 30)
    for i in (2, 10, 25):
        alpha, beta, before = s.alphas[i].item(), s.betas[i].item(), s.alpha_bars_prev[i].item()
        curvature, x = before / (1 - before + r ** 2), 0.4
        shift = {step: (a * x + b) - alpha ** 0.5 * x for step in (lab_step_at_mean, lab_step_at_x_t, lab_step_by_eps) for a, b, _ in [step(s, i, r, 1.0, 1.0)]}
        # exact by Bayes' rule for two Gaussians: prior N(sqrt(alpha) x, beta), measurement of sqrt(before) x_{t-1}
        prior, gain = alpha ** 0.5 * x, before ** 0.5
        exact = beta * gain * (1.0 - gain * prior) / (gain ** 2 * beta + 1 - before + r ** 2)
        assert shift[lab_step_by_eps] == pytest.approx(exact, rel=1e-9)
        assert shift[lab_step_at_mean] / exact == pytest.approx(1 + beta * curvature, rel=1e-9) and shift[lab_step_at_x_t] / exact == pytest.approx(alpha ** 0.5, rel=1e-9)
