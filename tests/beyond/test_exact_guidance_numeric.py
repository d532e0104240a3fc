"""The labelled equations of "exact guidance", in numbers."""

import math

import pytest
import torch
from torch.distributions import Normal

import guided_diffusion_edu as gde
from guided_diffusion_edu.diffusion import mean_from_eps, small_variance
from guided_diffusion_edu.lab.quadrature import (
    gaussian_kernel,
    guided_chain,
    no_tilt,
)
from guided_diffusion_edu.particles import (
    annealed_twist,
    effective_sample_size,
    log_ratio,
    particle_sample,
    power_twist,
    systematic,
    value_and_gradient,
)
from helpers import BLUNT, DOUBLE, LINEAR, randn

# ---- exact guidance by particles


def particles(scale, n, seed=0, steps=20, twist=None, **options):
    s, g = gde.respace(LINEAR, steps), torch.Generator().manual_seed(seed)
    x_T = torch.randn(n, 1, dtype=DOUBLE, generator=g)
    twist = twist or annealed_twist(BLUNT.classifier(LINEAR), 1, scale, s)
    return particle_sample(
        BLUNT.denoiser(LINEAR), s, (n, 1), twist=twist, x_T=x_T, clip=False, generator=g, **options
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
        small_variance(chain)[1].item(),
        mean_from_eps(1.0, 0.0, *(v[1].item() for v in (chain.alpha_bars, chain.alpha_bars_prev))),
    )
    constant = {0: 0.0, 1: 0.7 * (mean - 1) + variance * 0.7**2 / 2}  # E[h_0 | x_1 = 1] = h_1(1)
    p = particle_sample(
        lambda x, t, y: torch.zeros_like(x),
        chain,
        (50, 1),
        twist=lambda x, t: 0.7 * x[:, 0] + constant[t[0].item()],
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
