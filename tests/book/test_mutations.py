"""Deliberate errors: each is made in a copy of the package, and the named numeric test must notice it."""

import importlib.util
import sys
from pathlib import Path

import pytest

import guided_diffusion_edu

PACKAGE = Path(guided_diffusion_edu.__file__).parent
NUMERIC = Path(__file__).with_name("test_equations_numeric.py")

MUTATIONS = [  # module, what stands there, what is put there, label of the equation whose test must fail
    # the forward process
    ("data", "pixels.float() / 127.5 - 1", "pixels.float() / 128 - 1", "eq-pixels"),
    ("schedules", "self.alphas.cumprod(0)", "self.alphas.cumsum(0)", "eq-alpha-bar"),
    (
        "schedules",
        "self.alphas = 1 - self.betas",
        "self.alphas = (1 - self.betas).sqrt()",
        "eq-forward-step",
    ),
    (
        "schedules",
        "per_example(self.alpha_bars.sqrt(), t, x_0)",
        "per_example(self.alpha_bars, t, x_0)",
        "eq-forward-marginal",
    ),
    (
        "schedules",
        "per_example((1 - self.alpha_bars).sqrt(), t, x_0)",
        "per_example(1 - self.alpha_bars, t, x_0)",
        "eq-forward-marginal",
    ),
    (
        "schedules",
        "per_example(self.alpha_bars.sqrt(), t, x_0)",
        "per_example(self.alphas.sqrt(), t, x_0)",
        "eq-forward-marginal",
    ),
    (
        "schedules",
        "per_example((1 - self.alpha_bars).sqrt(), t, x_0)",
        "per_example((1 - self.alpha_bars_prev).sqrt(), t, x_0)",
        "eq-forward-marginal",
    ),
    ("schedules", "* 1000 / T)", ")", "eq-linear-schedule"),
    ("schedules", "* torch.pi / 2) ** 2", "* torch.pi / 2)", "eq-cosine-schedule"),
    (
        "schedules",
        "Schedule((1 - left[1:] / left[:-1]).clamp(max=max_beta))",
        "Schedule((1 - left[1:] / left[0]).clamp(max=max_beta))",
        "eq-betas-from-curve",
    ),
    (
        "schedules",
        "torch.log(schedule.alpha_bars) - torch.log1p(-schedule.alpha_bars)",
        "torch.log(schedule.alpha_bars) - 0.5 * torch.log1p(-schedule.alpha_bars)",
        "eq-snr",
    ),
    # the exact world
    (
        "exact",
        "variances=alpha_bar * self.variances + 1 - alpha_bar",
        "variances=self.variances + 1 - alpha_bar",
        "eq-mixture-noised",
    ),
    (
        "exact",
        "means=alpha_bar ** 0.5 * self.means",
        "means=alpha_bar * self.means",
        "eq-mixture-noised",
    ),
    ("exact", "-z / self.variances)", "z / self.variances)", "eq-mixture-score"),
    ("exact", " - _log_prior(self, y)).to(x.dtype)", ").to(x.dtype)", "eq-guided-posterior"),
    ("exact", "torch.cat([tree, -tree])", "torch.cat([tree, tree])", "eq-mixture"),
    ("exact", "[0] * len(tree) + [1] * len(tree)", "[0, 1] * len(tree)", "eq-mixture"),
    ("exact", "outer / 12", "outer / 3", "eq-mixture"),
    (
        "exact",
        "(0.05 * length[:, None, None]) ** 2 * across",
        "0.05 * length[:, None, None] * across",
        "eq-mixture",
    ),
    # the step back
    (
        "diffusion",
        "alpha_bar_prev ** 0.5 * (1 - alpha) * x_0",
        "alpha_bar_prev * (1 - alpha) * x_0",
        "eq-posterior-mean",
    ),
    (
        "diffusion",
        "alpha ** 0.5 * (1 - alpha_bar_prev) * x_t",
        "alpha ** 0.5 * (1 - alpha_bar) * x_t",
        "eq-posterior-mean",
    ),
    (
        "diffusion",
        "return (1 - alpha_bar_prev) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_prev)",
        "return 1 - alpha_bar / alpha_bar_prev",
        "eq-posterior-variance",
    ),
    (
        "diffusion",
        "(x_t - (1 - alpha_bar) ** 0.5 * eps) / alpha_bar ** 0.5",
        "(x_t - (1 - alpha_bar) * eps) / alpha_bar ** 0.5",
        "eq-eps-to-x0",
    ),
    (
        "diffusion",
        "(x_t - alpha_bar ** 0.5 * x_0) / (1 - alpha_bar) ** 0.5",
        "(x_t + alpha_bar ** 0.5 * x_0) / (1 - alpha_bar) ** 0.5",
        "eq-x0-to-eps",
    ),
    (
        "diffusion",
        "(1 - alpha) / (1 - alpha_bar) ** 0.5 * eps) / alpha ** 0.5",
        "(1 - alpha) / (1 - alpha_bar) ** 0.5 * eps)",
        "eq-step-tweedie",
    ),
    (
        "diffusion",
        "(v + 1) / 2 * upper + (1 - v) / 2 * lower",
        "(v + 1) / 2 * lower + (1 - v) / 2 * upper",
        "eq-learned-variance",
    ),
    ("diffusion", "(ratio.expm1() - ratio +", "(ratio.expm1() + ratio +", "eq-gaussian-kl"),
    ("diffusion", "(x + 1 / 255) / std", "(x + 1 / 127.5) / std", "eq-decoder"),
    (
        "diffusion",
        "error = (eps - predicted).square()",
        "error = (eps - predicted).abs()",
        "eq-simple-loss",
    ),
    ("diffusion", "moved ** 2 * variance_of_x_0", "moved * variance_of_x_0", "eq-step-variance"),
    (
        "diffusion",
        "of_eps / (2 * small_variance(schedule))",
        "of_eps / (2 * schedule.betas)",
        "eq-vlb-weight",
    ),
    (
        "diffusion",
        "torch.maximum(fixed(schedule), clipped_variance(schedule))",
        "fixed(schedule)",
        "eq-vlb",
    ),
    (
        "diffusion",
        "schedule.timesteps.to(t.device)[t], y)\n    if output",
        "t, y)\n    if output",
        "eq-hybrid-loss",
    ),
    (
        "diffusion",
        "return simple + len(schedule) / 1000 * bound",
        "return simple + bound",
        "eq-hybrid-loss",
    ),
    ("diffusion", "divergence) / math.log(2)", "divergence)", "eq-hybrid-loss"),
    (
        "diffusion",
        "schedule.timesteps.to(t.device)[t], y)\n        terms",
        "t, y)\n        terms",
        "eq-bits-per-dim",
    ),
    ("diffusion", "x_0, x_t, t, fixed))", "x_0, x_t, t))", "eq-bits-per-dim"),
    (
        "diffusion",
        "torch.cat([predicted.detach(), v], 1)",
        "torch.cat([predicted, v], 1)",
        "eq-hybrid-loss",
    ),
    (
        "diffusion",
        "torch.where(t == 0, decoder, divergence)",
        "torch.where(t == 1, decoder, divergence)",
        "eq-vlb",
    ),
    (
        "diffusion",
        "gaussian_kl(alpha_bar.sqrt().to(x_0) * x_0,",
        "gaussian_kl(alpha_bar.to(x_0) * x_0,",
        "eq-bits-per-dim",
    ),
    # what to predict, and when to ask
    (
        "objectives",
        "(1 - alpha_bar) ** 0.5 * x_t + alpha_bar ** 0.5 * v",
        "(1 - alpha_bar) ** 0.5 * x_t - alpha_bar ** 0.5 * v",
        "eq-v-to-eps",
    ),
    ("objectives", "(x_t - alpha ** 0.5 * mean)", "(x_t - alpha * mean)", "eq-mean-to-eps"),
    (
        "objectives",
        "return 1 / _coefficients(eps_from, schedule)[1] ** 2",
        "return 1 / _coefficients(eps_from, schedule)[1].abs()",
        "eq-target-weight",
    ),
    ("objectives", "return len(schedule) * bound_term", "return bound_term", "eq-bound-estimate"),
    ("objectives", "1 / (len(p) * p[t])", "1 / p[t]", "eq-importance"),
    (
        "objectives",
        "self.losses.square().mean(1).sqrt()",
        "self.losses.mean(1)",
        "eq-second-moment",
    ),
    # guidance
    (
        "guidance",
        "return for_examples(scale, x_t) * torch.autograd.grad",
        "return torch.autograd.grad",
        "eq-scaled-shift",
    ),
    ("guidance", "classifier(x_t, t).log_softmax(-1)", "classifier(x_t, t)", "eq-scaled-shift"),
    (
        "guidance",
        "return mean + variance * gradient",
        "return mean + variance ** 0.5 * gradient",
        "eq-mean-shift",
    ),
    (
        "guidance",
        "return mean + variance * gradient",
        "return mean - variance * gradient",
        "eq-mean-shift",
    ),
    (
        "guidance",
        "torch.linalg.inv(covariance) - hessian",
        "torch.linalg.inv(covariance) + hessian",
        "eq-hessian-step",
    ),
    ("guidance", "narrowed = torch.linalg.inv(precision)", "narrowed = covariance", "eq-error-law"),
    ("guidance", "third ** 2 / 24", "third ** 2 / 12", "eq-error-law"),
    ("guidance", "math.sqrt(2 * math.pi * math.e)", "root", "eq-small-difference"),
    (
        "guidance",
        "beta ** 0.5 * noise_like(x_0, generator)  #",
        "beta ** 0.5 * (1 + x_t.abs()) * noise_like(x_0, generator)  #",
        "eq-label-blind",
    ),
    (
        "guidance",
        "return mean + variance * gradient",
        "return mean + 2 * variance * gradient",
        "eq-model-product",
    ),
    (
        "guidance",
        "torch.linalg.inv(covariance) - hessian",
        "covariance - hessian",
        "eq-complete-square",
    ),
    (
        "guidance",
        "(opinion(x_t, i) - later) * later",
        "(opinion(x_t, i) - later) * opinion(x_t, i)",
        "eq-martingale-gap",
    ),
    # the score identity and the samplers
    (
        "samplers",
        "return -eps / (1 - alpha_bar) ** 0.5",
        "return eps / (1 - alpha_bar) ** 0.5",
        "eq-score-eps",
    ),
    (
        "samplers",
        "return eps - (1 - alpha_bar) ** 0.5 * gradient",
        "return eps - (1 - alpha_bar) * gradient",
        "eq-eps-hat",
    ),
    (
        "samplers",
        "return eps - (1 - alpha_bar) ** 0.5 * gradient",
        "return eps + (1 - alpha_bar) ** 0.5 * gradient",
        "eq-exact-shift",
    ),
    ("samplers", '"small": small_variance', '"small": large_variance', "eq-shift-ratio"),
    ("samplers", "* beta ** 0.5\n", "* beta\n", "eq-ddim-sigma"),
    (
        "samplers",
        "reused = (1 - alpha_bar_prev - sigma ** 2) ** 0.5 * eps",
        "reused = (1 - alpha_bar - sigma ** 2) ** 0.5 * eps",
        "eq-ddim-step",
    ),
    (
        "samplers",
        "reused = (1 - alpha_bar_prev - sigma ** 2) ** 0.5 * eps",
        "reused = (1 - alpha_bar_prev) ** 0.5 * eps",
        "eq-ddim-family",
    ),
    (
        "samplers",
        "x_0 = guided_x_0(x_0, alpha_bar, gradient)  #",
        "x_0 = x_0 + (1 - alpha_bar) * gradient  #",
        "eq-ddim-shift",
    ),
    (
        "samplers",
        "_gradient(guidance, mean, _timestep(schedule, i - 1, x), finite)",
        "_gradient(guidance, mean, _timestep(schedule, i, x), finite)",
        "eq-lab-recursion",
    ),
    (
        "samplers",
        "_gradient(guidance, mean, _timestep(schedule, i - 1, x), finite)",
        "_gradient(guidance, x, _timestep(schedule, i - 1, x), finite)",
        "eq-lab-recursion",
    ),
    ("samplers", "below = max(i - 1, 0)", "below = i", "eq-ddim-inversion"),
    # the whole chain, and the laboratory
    (
        "quadrature",
        "log_class(schedule.alpha_bars_prev[i].item(), below)",
        "log_class(schedule.alpha_bars[i].item(), below)",
        "eq-chain-law",
    ),
    ("quadrature", "+ 0.5 * H[:, None]", "+ H[:, None]", "eq-tilted-kernel"),
    ("quadrature", "return 0.5 * (p - q)", "return (p - q)", "eq-total-variation"),
    (
        "quadrature",
        "schedule.betas[i] / schedule.alphas[i].sqrt() * slope",
        "schedule.betas[i] / schedule.alphas[i] * slope",
        "eq-matched-variance",
    ),
    ("quadrature", "beta ** 2 / alpha * H", "beta ** 2 * H", "eq-guided-variance"),
    ("laboratory", "+ variance * third / 2)", "+ variance * third)", "eq-third-order-shift"),
    (
        "laboratory",
        "/ (1 - alpha_bar + r ** 2)\n    return guidance",
        "/ (1 - alpha_bar + r)\n    return guidance",
        "eq-lab-gradient",
    ),
    (
        "laboratory",
        "return r ** 2 / (r ** 2 + scale)",
        "return r ** 2 / (r ** 2 + scale ** 2)",
        "eq-law-target",
    ),
    ("laboratory", "r ** (4 * scale)", "r ** (2 * scale)", "eq-law-ddpm"),
    (
        "laboratory",
        "(r ** 2 / (1 + r ** 2)) ** scale",
        "(r ** 2 / (scale + r ** 2))",
        "eq-law-ddim",
    ),
    # networks and training
    ("layers", "* (1 + scale) + shift", "* scale + shift", "eq-adagn"),
    (
        "layers",
        "F.scaled_dot_product_attention(q, k, v)",
        "F.scaled_dot_product_attention(q, k, v, scale=1.0)",
        "eq-attention",
    ),
    (
        "layers",
        "return super().forward(h.to(self.weight.dtype)).to(h.dtype)",
        "return super().forward(h) * self.weight[:, None, None]",
        "eq-group-norm",
    ),
    (
        "layers",
        "return self.norm(h + e.to(h.dtype))",
        "return self.norm(h) + e.to(h.dtype)",
        "eq-added-norm",
    ),
    (
        "layers",
        "return self.skip(self.resample(x)) + h",
        "return 0.5 * self.skip(self.resample(x)) + h",
        "eq-res-block",
    ),
    (
        "layers",
        "self.last = zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))",
        "self.last = nn.Conv2d(out_channels, out_channels, 3, padding=1)",
        "eq-res-block",
    ),
    ("layers", "(heads, 3, -1)", "(3, heads, -1)", "eq-head-order"),
    (
        "classifier",
        "tokens.mean(-1, keepdim=True), tokens], dim=-1)",
        "tokens, tokens.mean(-1, keepdim=True)], dim=-1)",
        "eq-attention-pool",
    ),
    ("classifier", "[:, :, :1])", "[:, :, -1:])", "eq-attention-pool"),
    (
        "classifier",
        "schedule.timesteps.to(t.device)[t]",
        "torch.zeros_like(t)",
        "eq-noisy-cross-entropy",
    ),
    ("training", "average.n_averaged.fill_(1)", "average.n_averaged.fill_(0)", "eq-ema"),
    ("training", "(counts * part).mean() / accumulate", "(counts * part).mean()", "eq-shares"),
    ("training", "(counts * part).mean() / accumulate", "part.mean() / accumulate", "eq-shares"),
    (
        "training",
        "clip_grad_norm_(model.parameters(), c)",
        "clip_grad_norm_(model.parameters(), c, norm_type=1)",
        "eq-clip",
    ),
    ("classifier", "schedule.timesteps.to(t.device)[t]", "t", "eq-noisy-cross-entropy"),
    # evaluation
    (
        "tradeoff",
        "1 + r ** 2 * (1 - 1 / width ** 2)",
        "1 + r * (1 - 1 / width ** 2)",
        "eq-matching-scale",
    ),
    (
        "evaluation",
        "return self.scatter / (self.count - 1)",
        "return self.scatter / self.count",
        "eq-sample-covariance",
    ),
    ("evaluation", "(a.count * b.count / count)", "(b.count / count)", "eq-chan-merge"),
    (
        "evaluation",
        "difference * (b.count / count)",
        "difference * (a.count / count)",
        "eq-chan-merge",
    ),
    ("evaluation", "axes * values.sqrt() @", "axes * values @", "eq-frechet"),
    ("evaluation", "- 2 * overlap", "- overlap", "eq-frechet"),
    ("evaluation", "1.25 * values.sum()", "values.sum()", "eq-fid-bias"),
    ("evaluation", "straight_line(1 / sizes,", "straight_line(1 / sizes ** 2,", "eq-fid-line"),
    ("evaluation", "torch.xlogy(p, p.mean(0))", "torch.xlogy(p.mean(0), p)", "eq-inception-score"),
    ("evaluation", "distances[own, own + start] = torch.inf", "pass", "eq-knn-radius"),
    (
        "evaluation",
        "distances[own, own + start] = torch.inf",
        "distances[own, own] = torch.inf",
        "eq-knn-radius",
    ),
    (
        "evaluation",
        "(distances <= fake_radii[start:start + block, None])",
        "(distances <= real_radii)",
        "eq-precision-recall",
    ),
    ("evaluation", "hits.double() / k", "hits.double()", "eq-density-coverage"),
    (
        "evaluation",
        "(real - 1 - i) / (real - 1 + fake - i)",
        "(real - i) / (real + fake - i)",
        "eq-expected-coverage",
    ),
    (
        "evaluation",
        "torch.quantile(values - values.mean(), edges)",
        "torch.quantile(values - float(statistic(rows)), edges)",
        "eq-bootstrap",
    ),
    # two models in the place of a classifier
    (
        "free",
        "weak + for_examples(scale, x_t) * (eps - weak)",
        "eps + for_examples(scale, x_t) * (eps - weak)",
        "eq-free-eps",
    ),
    (
        "free",
        "return -for_examples(scale, x_t) * difference",
        "return for_examples(scale, x_t) * difference",
        "eq-implicit-classifier",
    ),
    (
        "free",
        "torch.cat([weak + for_examples(scale, x_t) * (eps - weak), output[:, channels:]], 1)",
        "torch.cat([weak + for_examples(scale, x_t) * (eps - weak), output[:, :channels]], 1)",
        "eq-autoguidance",
    ),
    ("free", "logs.softmax(0)", "(scale * logs).softmax(0)", "eq-tilt-gap"),
    (
        "free",
        "torch.special.ndtr(torch.from_numpy(u))",
        "torch.special.ndtr(2 * torch.from_numpy(u))",
        "eq-flow-quantiles",
    ),
    (
        "free",
        "(2 - 2 * scale)) / ((2 * scale - 1)",
        "(2 - 2 * scale)) / ((3 * scale - 1)",
        "eq-pair-ddpm",
    ),
    ("free", "(t >= first) & (t <= last)", "(t > first) & (t <= last)", "eq-interval-law"),
    (
        "free",
        "x_y.flatten(1).std(1) / x_0.flatten(1).std(1)",
        "x_0.flatten(1).std(1) / x_y.flatten(1).std(1)",
        "eq-rescaled",
    ),
    ("free", "(change - (1 - parallel) * along)", "(change - parallel * along)", "eq-projected"),
    ("free", "(J - J.mT)", "(J + J.mT)", "eq-gradient-field"),
    # particles
    ("particles", "(noise + shift / 2)", "(noise - shift / 2)", "eq-gaussian-weight"),
    ("particles", "+ log_h - before", "+ log_h", "eq-smc-weight"),
    ("particles", "log_ratio(noise, shift, log_variance.exp()) + log_h", "log_h", "eq-smc-target"),
    (
        "particles",
        "x[kept], log_h[kept], gradient[kept]",
        "x[kept], log_h, gradient[kept]",
        "eq-smc-evidence",
    ),
    (
        "particles",
        "log_evidence += _log_mean(log_weights)",
        "log_evidence += log_weights.mean().item()",
        "eq-smc-evidence",
    ),
    ("particles", ".softmax(0).square().sum()", ".softmax(0).square().sum().sqrt()", "eq-ess"),
    (
        "particles",
        "torch.arange(n) + torch.rand(1,",
        "torch.arange(n) + 0.5 * torch.rand(1,",
        "eq-systematic",
    ),
    (
        "particles",
        "return lambda x_t, t: scale * _log_prob_of",
        "return lambda x_t, t: scale / 2 * _log_prob_of",
        "eq-twist-bounds",
    ),
    (
        "particles",
        "1 + (scale - 1) * schedule.alpha_bars /",
        "scale * schedule.alpha_bars /",
        "eq-annealed-twist",
    ),
    # where guidance goes wrong
    (
        "failures",
        "(guide(x) == y).double() - (judge(x) == y)",
        "(guide(x) == y).double() + (judge(x) == y)",
        "eq-transfer-gap",
    ),
    (
        "failures",
        "(slope ** 2 * (1 + r ** 2) + variance)",
        "(slope ** 2 * r ** 2 + variance)",
        "eq-contrast",
    ),
    ("failures", "r ** 2 * scale * (scale - 1)", "r ** 2 * scale ** 2", "eq-contrast-target"),
    ("failures", ".clamp(min=1)  # (B,)", "  # (B,)", "eq-dynamic-threshold"),
    ("failures", "weights / weights.sum() @ owner", "owner.mean(0)", "eq-mode-shares"),
    (
        "failures",
        "scale * world.class_log_probs(points)[:, y]",
        "world.class_log_probs(points)[:, y]",
        "eq-kept-modes",
    ),
    (
        "failures",
        "-(model(x_t, t, y) - model(x_t, t))",
        "(model(x_t, t, y) - model(x_t, t))",
        "eq-gradient-of-means",
    ),
    (
        "failures",
        "alpha_bar ** 0.5 * (mean_of_class",
        "alpha_bar * (mean_of_class",
        "eq-early-push",
    ),
    # few steps
    ("solvers", "(x_0 - x_0_before)", "(x_0_before - x_0)", "eq-two-m"),
    ("solvers", "h / (2 * h_before)", "h / h_before", "eq-two-m"),
    ("solvers", "before is None or i == 0", "True", "eq-two-m"),
    (
        "solvers",
        "/ noise_to_signal(alpha_bar)  # exp(-h)",
        "/ noise_to_signal(alpha_bar) * 0.99",
        "eq-exponential-step",
    ),
    ("solvers", "** 2  # exp(-2 h)", "", "eq-stochastic-step"),
    ("solvers", "below * (1 - kept) ** 0.5 * z", "below * (1 - kept) * z", "eq-stochastic-flow"),
    (
        "samplers",
        "return x_0 + (1 - alpha_bar) / alpha_bar ** 0.5 * gradient",
        "return x_0 + (1 - alpha_bar) ** 0.5 * gradient",
        "eq-guided-x0",
    ),
    ("solvers", "x + width / 2 * (slope + slope_below)", "x + width * slope", "eq-heun"),
    (
        "solvers",
        "(low + torch.arange(steps) / (steps - 1) * (high - low)) ** rho",
        "(low + torch.arange(steps) / steps * (high - low)) ** rho",
        "eq-edm-levels",
    ),
    ("solvers", "middle, y) < share", "middle) < share", "eq-heun"),
    # any wish
    ("anything", "return -loss(x_0.clamp", "return loss(x_0.clamp", "eq-x0-guidance"),
    ("anything", "/ (2 * r ** 2)", "/ r ** 2", "eq-measurement"),
    ("anything", "r ** 2 / (r ** 2 + open_)", "r / (r + open_)", "eq-dps-ratio"),
    ("anything", "between = alpha_bar ** 0.5 * C", "between = alpha_bar * C", "eq-measured"),
    (
        "anything",
        "-torch.stack([-loss(x_0) for loss in losses]).logsumexp(0)",
        "torch.stack([loss(x_0) for loss in losses]).logsumexp(0)",
        "eq-any-of",
    ),
    ("anything", "beta ** 0.5 * noise_like", "beta * noise_like", "eq-recurrence"),
    # SDEs and flows
    ("flows", "(x + (1 + kappa) * score)", "(x + kappa * score)", "eq-fokker-planck"),
    ("flows", "(kappa * spans[i]) ** 0.5 * noise", "spans[i] ** 0.5 * noise", "eq-reverse-family"),
    ("flows", "tau / (1 - tau) * gradient", "tau * gradient", "eq-guided-velocity"),
    (
        "flows",
        "return (eps - x_tau) / (1 - tau)",
        "return (x_tau - eps) / (1 - tau)",
        "eq-velocity",
    ),
    (
        "flows",
        "return scale * guidance(scale * x_tau, t)",
        "return guidance(scale * x_tau, t)",
        "eq-guided-velocity",
    ),
    ("flows", "x = x + (below - tau) * v", "x = x + (tau - below) * v", "eq-euler-is-ddim"),
    # the leaderboard
    ("leaderboard", "/ width).clamp(0, 1)", "/ width).clamp(0, 2)", "eq-pushed-law"),
    ("leaderboard", "target(image) * slope", "target(image)", "eq-map-variation"),
    ("leaderboard", "(2 * p * (1 - p) / (torch.pi * n))", "(p * (1 - p) / n)", "eq-sampling-floor"),
    (
        "leaderboard",
        "scale * exact_class(world, y)(1.0, x)",
        "exact_class(world, y)(1.0, x)",
        "eq-tilted-bins",
    ),
    # fast
    ("speed", "flops / (seconds * rate)", "flops * seconds / rate", "eq-utilisation"),
    ("speed", "2 * size ** 3 /", "size ** 3 /", "eq-utilisation"),
    ("speed", "1 / (1 - share + share / times)", "1 / (1 - share / times)", "eq-amdahl"),
    ("speed", "share * 2 * classifier / unet", "share * classifier / unet", "eq-guided-cost"),
]


def run(directory, label, monkeypatch):
    "The label's numeric test, with the package imported afresh from `directory`."
    for name in [name for name in sys.modules if name.split(".")[0] == "guided_diffusion_edu"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(directory)
    spec = importlib.util.spec_from_file_location("numeric_on_a_copy", NUMERIC)
    tests = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(tests)
        assert tests.gde.__file__.startswith(str(directory))
        getattr(tests, "test_" + label.replace("-", "_"))()
    finally:  # monkeypatch puts back what it took; what was imported from the copy must go
        for name in [name for name in sys.modules if name.split(".")[0] == "guided_diffusion_edu"]:
            del sys.modules[name]


def copied(directory):
    package = directory / "guided_diffusion_edu"
    package.mkdir()
    for path in PACKAGE.glob("*.py"):
        (package / path.name).write_text(path.read_text())
    (package / "weights").symlink_to(PACKAGE / "weights")
    return package


@pytest.mark.parametrize(
    "module, stands, put, label",
    MUTATIONS,
    ids=[f"{m}-{label}-{k}" for k, (m, *_, label) in enumerate(MUTATIONS)],
)
def test_error_is_noticed(tmp_path, monkeypatch, module, stands, put, label):
    path = copied(tmp_path) / f"{module}.py"
    text = path.read_text()
    assert text.count(stands) == 1, f"{stands!r} stands {text.count(stands)} times in {module}.py"
    path.write_text(text.replace(stands, put))
    with pytest.raises((AssertionError, ValueError)):
        run(tmp_path, label, monkeypatch)


@pytest.mark.parametrize("label", sorted({label for *_, label in MUTATIONS}))
def test_an_unbroken_copy_passes(tmp_path, monkeypatch, label):
    copied(tmp_path)
    run(tmp_path, label, monkeypatch)
