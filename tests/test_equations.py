"""Each labelled equation, by the name of its label: symbolically (SymPy) where there is algebra, and numerically on the package as imported.

Where a test compares two formulas, one side is what the package computes and the other is written out here from the definition."""
import re

import nbformat
import pytest
import sympy as sp
import torch

import guided_diffusion_edu as gde
from guided_diffusion_edu.classifier import AttentionPool
from guided_diffusion_edu.layers import attend
from guided_diffusion_edu.samplers import ddim_sigma
from guided_diffusion_edu.training import moving_average

DOUBLE = torch.float64
alpha, ab_prev = sp.symbols('alpha alpha_bar_prev', positive=True)  # alpha_t and alpha_bar_{t-1}
ab, beta = alpha * ab_prev, 1 - alpha
x, x_0, x_t, eps, g, s = sp.symbols('x x_0 x_t epsilon g s', real=True)
same = lambda a, b: sp.simplify(sp.nsimplify(a - b, rational=True)) == 0  # the package's 0.5 as one half


def randn(*shape, seed=0): return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def world(): return gde.GaussianMixture(randn(4, 2), [0.3, 0.5, 0.4, 0.6], weights=[1, 2, 3, 4], labels=[0, 1, 1, 2])


@pytest.fixture
def linear(): return gde.linear_schedule()


def gaussian_log(points, mean, cov):
    return torch.distributions.MultivariateNormal(mean, cov).log_prob(points)


def test_every_label_has_its_test(root):
    text = '\n'.join(c.source for p in sorted((root / 'nbs').glob('*.ipynb')) for c in nbformat.read(p, 4).cells if c.cell_type == 'markdown')
    labels = re.findall(r'^\$\$ \((eq-[\w-]+)\)', text, re.M)
    assert len(labels) > 30 and len(set(labels)) == len(labels)
    tests = {name for name in globals() if name.startswith('test_eq_')}
    assert tests == {'test_' + label.replace('-', '_') for label in labels}


def test_eq_pixels():
    levels = torch.arange(256, dtype=torch.uint8)
    assert gde.from_pixels(levels)[[0, 255]].tolist() == [-1, 1]
    assert torch.equal(gde.to_pixels(gde.from_pixels(levels)), levels)
    assert gde.to_pixels(torch.tensor([0.0, 2.0, -2.0])).tolist() == [128, 255, 0]


def test_eq_forward_step():
    v = sp.symbols('v', positive=True)
    assert same(alpha * 1 + beta, 1)  # variance 1 is kept
    # one step of the package's chain, from alpha_bar to alpha_bar: mean factor sqrt(1 - beta), variance beta
    s = gde.Schedule([0.1, 0.3])
    ratio = (s.alpha_bars[1] / s.alpha_bars[0]).item()
    assert ratio == pytest.approx(0.7) and (1 - s.alpha_bars[1]).item() == pytest.approx(0.7 * (1 - s.alpha_bars[0].item()) + 0.3)


def test_eq_alpha_bar():
    s = gde.Schedule([0.1, 0.2, 0.3])
    assert s.alpha_bars.tolist() == pytest.approx([0.9, 0.72, 0.504], abs=1e-15)
    assert s.alpha_bars_prev.tolist() == pytest.approx([1, 0.9, 0.72], abs=1e-15)


def test_eq_forward_marginal(linear):
    # two steps are one: the variances of the merged noises (the induction step of the proof)
    assert same(alpha * (1 - ab_prev) + 1 - alpha, 1 - ab)
    x_0, noise, t = randn(5, 3, 2, 2), randn(5, 3, 2, 2, seed=1), torch.tensor([0, 10, 500, 998, 999])
    for i in range(5):
        a = torch.prod(1 - linear.betas[:t[i] + 1])
        assert torch.allclose(linear.add_noise(x_0, t, noise)[i], a ** 0.5 * x_0[i] + (1 - a) ** 0.5 * noise[i], atol=1e-12)


def test_eq_linear_schedule():
    for T in (1000, 250):
        betas = [1000 / T * (1e-4 + k / (T - 1) * (0.02 - 1e-4)) for k in range(T)]
        assert gde.linear_schedule(T).betas.tolist() == pytest.approx(betas, rel=1e-12)
    assert gde.linear_schedule().betas[[0, -1]].tolist() == pytest.approx([1e-4, 0.02])


def test_eq_cosine_schedule():
    f = lambda u: sp.cos((sp.Float(u, 30) + sp.Rational(8, 1000)) / sp.Rational(1008, 1000) * sp.pi / 2) ** 2
    s = gde.cosine_schedule(50)
    for t in (1, 2, 25, 49, 50):
        wanted = min(1 - f(sp.Rational(t, 50)) / f(sp.Rational(t - 1, 50)), sp.Rational(999, 1000))
        assert s.betas[t - 1].item() == pytest.approx(float(wanted), rel=1e-12)


def test_eq_snr(linear):
    assert torch.allclose(gde.log_snr(linear).exp(), linear.alpha_bars / (1 - linear.alpha_bars), rtol=1e-9)


def test_eq_respaced_betas(linear):
    a, b, c = sp.symbols('a b c', positive=True)
    assert same((a / 1) * (b / a) * (c / b), c)  # the product telescopes
    for steps in (2, 25, 1000, 'ddim50', [3, 4, 5]):
        short = gde.respace(linear, steps)
        assert torch.allclose(short.alpha_bars, linear.alpha_bars[short.timesteps], rtol=1e-12)
    assert gde.respace(linear, 25).timesteps[:4].tolist() == [0, 42, 83, 125]  # every 41.625th, rounded
    ten = gde.Schedule([0.1] * 10)
    assert gde.respace(ten, [2, 2, 2]).timesteps.tolist() == [0, 3, 4, 6, 7, 9]  # sections of 4, 3, 3
    assert gde.respace(ten, 'ddim5').timesteps.tolist() == [0, 2, 4, 6, 8]
    twice = gde.respace(gde.respace(linear, 100), 10)
    assert torch.allclose(twice.alpha_bars, linear.alpha_bars[twice.timesteps], rtol=1e-12)
    assert gde.respace(linear, 2).betas[1].item() == pytest.approx(1 - (linear.alpha_bars[999] / linear.alpha_bars[0]).item())


def test_eq_mixture(world):
    points, weights = randn(20, 2, seed=2), world.weights
    wanted = sum(w * gaussian_log(points, m, v.diag()).exp() for w, m, v in zip(weights, world.means, world.variances))
    assert torch.allclose(world.log_prob(points).exp(), wanted) and weights.sum() == 1


def test_eq_mixture_noised():
    A = randn(3, 3, 3)
    covs, means, points = A @ A.mT + 0.1 * torch.eye(3), randn(3, 3, seed=3), randn(30, 3, seed=4)
    world = gde.GaussianMixture(means, covs, weights=[0.2, 0.3, 0.5])
    for a in (0.9, 0.3, 0.01):
        wanted = sum(w * gaussian_log(points, a ** 0.5 * m, a * C + (1 - a) * torch.eye(3, dtype=DOUBLE)).exp() for w, m, C in zip((0.2, 0.3, 0.5), means, covs))
        assert torch.allclose(world.at(a).log_prob(points).exp(), wanted)
    drawn = world.sample(400_000, label=1, generator=torch.Generator().manual_seed(0))
    assert (drawn.T.cov() - covs[1]).abs().max() < 0.05 and (drawn.mean(0) - means[1]).abs().max() < 0.02


def test_eq_mixture_score(world):
    points = randn(40, 2, seed=5).requires_grad_()
    by_autograd, = torch.autograd.grad(world.log_prob(points).sum(), points)
    assert torch.allclose(world.score(points), by_autograd, atol=1e-10)
    y = torch.arange(40) % 3
    by_autograd, = torch.autograd.grad(world.log_prob(points, y).sum(), points)
    assert torch.allclose(world.score(points, y), by_autograd, atol=1e-10)


def test_eq_class_posterior(world):
    points = randn(20, 2, seed=6)
    parts = torch.stack([w * gaussian_log(points, m, v.diag()).exp() for w, m, v in zip(world.weights, world.means, world.variances)], -1)
    wanted = torch.stack([parts[:, 0], parts[:, 1] + parts[:, 2], parts[:, 3]], -1) / parts.sum(-1, keepdim=True)
    assert torch.allclose(world.class_log_probs(points).exp(), wanted)


def test_eq_guided_posterior(world):
    points = randn(20, 2, seed=7)
    for label, prior in ((0, 0.1), (1, 0.5), (2, 0.4)):
        y = torch.full((20,), label)
        bayes = world.log_prob(points) + world.class_log_probs(points)[:, label] - torch.log(torch.tensor(prior, dtype=DOUBLE))
        assert torch.allclose(world.log_prob(points, y), bayes)


def test_eq_exact_eps(world, linear):
    # E[eps | x_t] by quadrature over x_0 in one dimension
    line = gde.GaussianMixture([[-1.0], [0.5]], [0.2, 0.4], weights=[0.3, 0.7])
    grid = torch.linspace(-4, 4, 4001, dtype=DOUBLE)
    for t, x in ((50, 0.3), (400, -0.7)):
        a = linear.alpha_bars[t].item()
        noise = (x - a ** 0.5 * grid) / (1 - a) ** 0.5
        weight = line.log_prob(grid[:, None]).exp() * torch.exp(-noise ** 2 / 2)
        wanted = (weight * noise).sum() / weight.sum()
        assert line.denoiser(linear)(torch.tensor([[x]], dtype=DOUBLE), torch.tensor([t])).item() == pytest.approx(wanted.item(), abs=1e-9)


def test_each_row_has_its_own_level(world, linear):
    x, t, y = randn(6, 2), torch.tensor([900, 3, 3, 500, 900, 0]), torch.arange(6) % 3
    model, classifier = world.denoiser(linear), world.classifier(linear)
    for i in range(6):
        row = slice(i, i + 1)
        assert torch.allclose(model(x, t)[row], model(x[row], t[row])) and torch.allclose(model(x, t, y)[row], model(x[row], t[row], y[row]))
        assert torch.allclose(classifier(x, t)[row], classifier(x[row], t[row]))


def test_eq_posterior_variance(linear):
    precision = alpha / beta + 1 / (1 - ab_prev)
    assert same(1 / precision, gde.posterior_variance(ab, ab_prev))
    assert torch.allclose(gde.small_variance(linear)[1:], (1 / (linear.alphas / linear.betas + 1 / (1 - linear.alpha_bars_prev)))[1:], rtol=1e-8)
    assert gde.small_variance(linear)[0] == 0


def test_eq_posterior_mean():
    variance = gde.posterior_variance(ab, ab_prev)
    linear_term = sp.sqrt(alpha) * x_t / beta + sp.sqrt(ab_prev) * x_0 / (1 - ab_prev)
    assert same(gde.posterior_mean(x_0, x_t, ab, ab_prev), variance * linear_term)
    # Bayes' rule on a grid
    grid = torch.linspace(-6, 6, 8001, dtype=DOUBLE)
    log = -(0.4 - 0.8 ** 0.5 * grid) ** 2 / (2 * 0.2) - (grid - 0.5 ** 0.5 * 1.3) ** 2 / (2 * 0.5)
    p = log.softmax(0)
    mean = (p * grid).sum()
    assert gde.posterior_mean(1.3, 0.4, 0.4, 0.5) == pytest.approx(mean.item(), abs=1e-9)
    assert gde.posterior_variance(0.4, 0.5) == pytest.approx((p * (grid - mean) ** 2).sum().item(), abs=1e-9)


def test_eq_eps_to_x0():
    a = sp.symbols('a', positive=True)
    noised = sp.sqrt(a) * x_0 + sp.sqrt(1 - a) * eps
    assert same(gde.x0_from_eps(noised, eps, a), x_0)
    assert gde.x0_from_eps(0.8 ** 0.5 * 3 + 0.2 ** 0.5 * 5, 5, 0.8) == pytest.approx(3)


def test_eq_x0_to_eps():
    a = sp.symbols('a', positive=True)
    assert same(gde.eps_from_x0(sp.sqrt(a) * x_0 + sp.sqrt(1 - a) * eps, x_0, a), eps)
    assert gde.eps_from_x0(0.8 ** 0.5 * 3 + 0.2 ** 0.5 * 5, 3, 0.8) == pytest.approx(5)


def test_eq_learned_variance(linear):
    t = torch.tensor([1, 10, 500])
    small, large = gde.small_variance(linear)[t], linear.betas[t]
    for v in (-1.0, -0.3, 0.0, 1.0):
        wanted = small ** ((1 - v) / 2) * large ** ((1 + v) / 2)
        assert torch.allclose(gde.learned_variance(torch.full((3, 1), v, dtype=DOUBLE), linear, t)[:, 0], wanted, rtol=1e-10)
    first = gde.learned_variance(torch.full((1, 1), -1.0, dtype=DOUBLE), linear, torch.tensor([0]))
    assert first.item() == pytest.approx(gde.small_variance(linear)[1].item())
    assert gde.large_variance(linear)[0] == gde.small_variance(linear)[1] and torch.equal(gde.large_variance(linear)[1:], linear.betas[1:])


def test_eq_simple_loss(linear):
    x_0, noise, t = randn(6, 1, 4, 4), randn(6, 1, 4, 4, seed=1), torch.tensor([0, 1, 10, 100, 500, 999])
    guess = lambda x, t, y=None: torch.cat([0.5 * x, 100 + x], 1)  # the second half is a variance: ignored
    wanted = torch.stack([(noise[i] - 0.5 * linear.add_noise(x_0, t, noise)[i]).square().mean() for i in range(6)])
    assert torch.allclose(gde.simple_loss(guess, linear, x_0, t, noise), wanted)
    # a respaced chain tells the model the original step
    heard = []
    gde.simple_loss(lambda x, t, y=None: heard.append(t) or x, gde.respace(linear, 10), x_0[:2], torch.tensor([0, 9]), noise[:2])
    assert heard[0].tolist() == [0, 999]


def line_world(): return gde.GaussianMixture([[-1.0], [0.2], [1.2]], [0.2, 0.15, 0.25], weights=[0.3, 0.3, 0.4], labels=[0, 1, 0])


def exact_joint(schedule, t, x_next):
    "On a grid of x_t: q(x_t | x_next, k) w_k(x_next) for each component k, (N, K), from the joint law and nothing else."
    grid, line = torch.linspace(-6, 6, 6001, dtype=DOUBLE), line_world().at(schedule.alpha_bars[t].item())
    a = schedule.alphas[t + 1].item()
    per_component = line.weights * torch.exp(-(grid[:, None] - line.means[:, 0]) ** 2 / (2 * line.variances[:, 0])) / line.variances[:, 0] ** 0.5
    joint = per_component * torch.exp(-(x_next - a ** 0.5 * grid) ** 2 / (2 * (1 - a)))[:, None]
    return grid, joint / joint.sum()


def test_eq_label_blind(linear):
    # noising does not look at the label: a class's mixture noised by itself is the class's part of the noised mixture
    line, points = line_world(), randn(20, 1)
    alone = gde.GaussianMixture([[-1.0], [1.2]], [0.2, 0.25], weights=[0.3, 0.4])
    assert torch.allclose(alone.at(0.3).log_prob(points), line.at(0.3).log_prob(points, torch.zeros(20, dtype=torch.long)))


def test_eq_guided_product(linear):
    for t, x_next in ((50, 0.3), (300, 0.5)):
        grid, joint = exact_joint(linear, t, x_next)
        conditional = joint[:, 1] / joint[:, 1].sum()  # q(x_t | x_next, y = 1)
        Z = 1 / line_world().at(linear.alpha_bars[t + 1].item()).class_log_probs(torch.tensor([[x_next]], dtype=DOUBLE)).exp()[0, 1]
        product = Z * joint.sum(1) * line_world().at(linear.alpha_bars[t].item()).class_log_probs(grid[:, None])[:, 1].exp()
        assert (conditional - product).abs().max() < 1e-10


def test_eq_martingale(linear):
    for t, x_next in ((10, 0.9), (300, 0.5), (700, -1.0)):
        grid, joint = exact_joint(linear, t, x_next)
        now = line_world().at(linear.alpha_bars[t].item()).class_log_probs(grid[:, None])[:, 1].exp()
        before = line_world().at(linear.alpha_bars[t + 1].item()).class_log_probs(torch.tensor([[x_next]], dtype=DOUBLE)).exp()[0, 1]
        assert (joint.sum(1) * now).sum().item() == pytest.approx(before.item(), abs=1e-10)


def test_eq_taylor():
    pair = gde.GaussianMixture([[-1.0], [1.0]], [0.5, 0.5])
    mu = torch.tensor([[0.2]], dtype=DOUBLE)
    gradient = gde.classifier_guidance(lambda x, t: pair.class_log_probs(x), torch.tensor([1]))(mu, None)
    remainder = lambda h: (pair.class_log_probs(mu + h)[0, 1] - pair.class_log_probs(mu)[0, 1] - h * gradient).item()
    assert remainder(0.01) / remainder(0.005) == pytest.approx(4, rel=0.02)  # what is left is of second order


def test_eq_complete_square():
    d1, d2, g1, g2 = sp.symbols('d1 d2 g1 g2', real=True)
    a, b, c = sp.symbols('a b c', positive=True)
    Sigma, d, grad = sp.Matrix([[a, b], [b, c]]), sp.Matrix([d1, d2]), sp.Matrix([g1, g2])
    square = lambda v: (-v.T * Sigma.inv() * v / 2)[0]
    left = square(d) + (d.T * grad)[0]
    right = square(d - Sigma * grad) + (grad.T * Sigma * grad / 2)[0]
    assert same(left, right)
    assert not same(left, square(d - grad) + (grad.T * Sigma * grad / 2)[0])  # a shift by g is not it


def test_eq_mean_shift():
    var = sp.symbols('sigma2', positive=True)
    log_product = -(x - x_t) ** 2 / (2 * var) + (x - x_t) * g
    mode = sp.solve(sp.diff(log_product, x), x)
    assert mode == [sp.expand(gde.guided_mean(x_t, var, g))] and same(sp.diff(log_product, x, 2), -1 / var)
    # a log-linear classifier makes it exact: compare with the normalised product on a grid
    grid = torch.linspace(-8, 8, 8001, dtype=DOUBLE)
    product = (-(grid - 0.3) ** 2 / (2 * 0.25) + 1.7 * grid).softmax(0)
    assert gde.guided_mean(0.3, 0.25, 1.7) == pytest.approx((product * grid).sum().item(), abs=1e-9)


def test_eq_scaled_shift(linear):
    world = gde.four_corners()
    x, t, y = randn(10, 2), torch.full((10,), 200), torch.arange(10) % 2
    one, four = (gde.classifier_guidance(world.classifier(linear), y, k)(x, t) for k in (1.0, 4.0))
    noised = world.at(linear.alpha_bars[200].item())
    assert torch.allclose(four, 4 * (noised.score(x, y) - noised.score(x)), atol=1e-10)
    assert torch.allclose(gde.guided_mean(x, 0.1, four), x + 0.4 * one)
    logits = lambda x, t: world.classifier(linear)(x, t) + 7 * x.sum(-1, keepdim=True)  # logits may differ from log-probabilities by anything common to all classes
    assert torch.allclose(gde.classifier_guidance(logits, y)(x, t), one, atol=1e-9)


def test_eq_score_eps(world, linear):
    x = randn(10, 2)
    for t in (3, 500):
        score = gde.score_from_eps(world.denoiser(linear)(x, torch.full((10,), t)), linear.alpha_bars[t].item())
        points = x.clone().requires_grad_()
        by_autograd, = torch.autograd.grad(world.at(linear.alpha_bars[t].item()).log_prob(points).sum(), points)
        assert torch.allclose(score, by_autograd, atol=1e-9)


def test_eq_eps_hat(world, linear):
    a = sp.symbols('a', positive=True)
    score = -eps / sp.sqrt(1 - a) + s * g
    assert same(gde.guided_eps(eps, a, s * g), -sp.sqrt(1 - a) * score)
    x, y, t = randn(12, 2), torch.arange(12) % 3, torch.full((12,), 400)
    model = world.denoiser(linear)
    hat = gde.guided_eps(model(x, t), linear.alpha_bars[400], gde.classifier_guidance(world.classifier(linear), y)(x, t))
    assert torch.allclose(hat, model(x, t, y), atol=1e-9)


def test_eq_ddim_family():
    sigma = sp.symbols('sigma', positive=True)
    reused = 1 - ab_prev - sigma ** 2  # coefficient^2 of a unit Gaussian, plus fresh noise
    assert same(reused + sigma ** 2, 1 - ab_prev)
    noise, a, a_prev, eta = randn(400_000), 0.3, 0.6, 0.7
    x_0, x_t = 1.5, 0.3 ** 0.5 * 1.5 + 0.7 ** 0.5 * noise
    width = ddim_sigma(a, a_prev, eta)
    x_prev = a_prev ** 0.5 * x_0 + (1 - a_prev - width ** 2) ** 0.5 * gde.eps_from_x0(x_t, x_0, a) + width * randn(400_000, seed=1)
    assert x_prev.mean().item() == pytest.approx(a_prev ** 0.5 * 1.5, abs=0.005) and x_prev.var().item() == pytest.approx(0.4, abs=0.005)


def test_eq_ddim_step(linear):
    # a denoiser that always says 0.5: every step can be followed by hand
    steps, x_T = gde.respace(linear, 3), randn(2, 1, 2, 2)
    _, path = gde.ddim_sample(lambda x, t, y: torch.full_like(x, 0.5), steps, x_T.shape, x_T=x_T, clip=False, trajectory=True)
    for i, before, after in zip((2, 1, 0), path, path[1:]):
        a, a_prev = steps.alpha_bars[i], steps.alpha_bars_prev[i]
        assert torch.allclose(after, a_prev ** 0.5 * (before - (1 - a) ** 0.5 * 0.5) / a ** 0.5 + (1 - a_prev) ** 0.5 * 0.5, atol=1e-10)


def test_eq_ddim_sigma():
    assert same(ddim_sigma(ab, ab_prev, 1) ** 2, gde.posterior_variance(ab, ab_prev))  # eta = 1 is the posterior's variance
    step = lambda e: sp.sqrt(ab_prev) * x_0 + sp.sqrt(1 - ab_prev - ddim_sigma(ab, ab_prev, 1) ** 2) * e
    e = (x_t - sp.sqrt(ab) * x_0) / sp.sqrt(1 - ab)
    values = {alpha: 0.7, ab_prev: 0.6, x_0: 1.1, x_t: -0.4}  # and its mean the posterior's (checked at a point: SymPy does not merge the roots)
    assert float(step(e).subs(values)) == pytest.approx(float(gde.posterior_mean(x_0, x_t, ab, ab_prev).subs(values)), abs=1e-12)
    assert ddim_sigma(0.4, 0.5, 0.0) == 0 and ddim_sigma(0.4, 1.0, 1.0) == 0


def test_eq_timestep_embedding():
    emb = gde.timestep_embedding(torch.tensor([7]), 6)[0].double()
    omega = [10000 ** (-j / 3) for j in range(3)]
    wanted = [float(sp.cos(7 * w)) for w in omega] + [float(sp.sin(7 * w)) for w in omega]
    assert emb.tolist() == pytest.approx(wanted, abs=1e-5)


def test_eq_group_norm():
    norm, h = torch.nn.GroupNorm(4, 8).double(), randn(3, 8, 5, 5)
    torch.nn.init.normal_(norm.weight); torch.nn.init.normal_(norm.bias)
    groups = h.view(3, 4, -1)
    wanted = ((groups - groups.mean(-1, keepdim=True)) / (groups.var(-1, unbiased=False, keepdim=True) + 1e-5) ** 0.5).view_as(h)
    wanted = wanted * norm.weight[:, None, None] + norm.bias[:, None, None]
    assert torch.allclose(norm(h), wanted)
    shift = torch.tensor([1.0, 1, -2, -2, 5, 5, 0, 0], dtype=DOUBLE)[:, None, None]  # constant within each group
    assert torch.allclose(norm(h + shift), norm(h), atol=1e-9)


def test_eq_adagn():
    layer, h, emb = gde.AdaGN(8, 6, groups=4).double(), randn(2, 8, 3, 3), randn(2, 6)
    y = layer.project(emb * torch.sigmoid(emb))
    for c in range(8):
        gain, shift = 1 + y[:, c], y[:, 8 + c]
        assert torch.allclose(layer(h, emb)[:, c], gain[:, None, None] * layer.norm(h)[:, c] + shift[:, None, None])


def test_eq_attention():
    qkv = randn(2, 3 * 8, 5)
    out = attend(qkv, heads=2)
    for head in range(2):
        q, k, v = (qkv[0, part * 8 + head * 4:part * 8 + head * 4 + 4].T for part in range(3))
        assert torch.allclose(out[0, head * 4:head * 4 + 4].T, (q @ k.T / 2).softmax(-1) @ v)
    pool = AttentionPool(8, 2, 4, 3).double()
    assert pool(randn(2, 8, 2, 2)).shape == (2, 3)


def test_eq_noisy_cross_entropy(world, linear):
    x_0, y, noise = randn(9, 2), torch.arange(9) % 3, randn(9, 2, seed=1)
    t = torch.linspace(0, 999, 9).long()
    wanted = [-world.at(linear.alpha_bars[t[i]].item()).class_log_probs(linear.add_noise(x_0, t, noise)[i:i + 1])[0, y[i]].item() for i in range(9)]
    assert gde.classifier_loss(world.classifier(linear), linear, x_0, y, t, noise).tolist() == pytest.approx(wanted)


def test_eq_ema():
    k, j, d = sp.symbols('k j d', positive=True)
    # both forms agree after three steps
    theta = sp.symbols('theta0:4')
    value = theta[0]
    for new in theta[1:]: value = d * value + (1 - d) * new
    assert same(value, d ** 3 * theta[0] + (1 - d) * sum(d ** (3 - i) * theta[i] for i in (1, 2, 3)))
    model = torch.nn.Linear(2, 2)
    start = model.weight.detach().clone()
    average = moving_average(model, 0.8)
    torch.nn.init.ones_(model.weight)
    average.update_parameters(model)
    assert torch.allclose(average.module.weight, 0.8 * start + 0.2)


def test_eq_share_error():
    p, n = sp.symbols('p n', positive=True)
    variance = (p * 1 ** 2 + (1 - p) * 0) - p ** 2  # of one right-or-wrong
    assert same(n * variance / n ** 2, p * (1 - p) / n)
    shares = (torch.rand(20_000, 300, generator=torch.Generator().manual_seed(0)) < 0.97).double().mean(1)
    assert shares.std().item() == pytest.approx((0.97 * 0.03 / 300) ** 0.5, rel=0.03)
