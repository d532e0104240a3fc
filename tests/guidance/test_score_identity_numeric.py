"""The labelled equations of "score identity", in numbers."""

import pytest
import torch

import guided_diffusion_edu as gde
from guided_diffusion_edu.diffusion import mean_from_eps
from guided_diffusion_edu.samplers import ddim_sigma, guided_x_0, score_from_eps, shift_ratio
from helpers import DOUBLE, LINE, LINEAR, WORLD, bayes_back, randn, step_back


def test_eq_score_eps():
    x = randn(10, 2)
    for t in (3, 500):
        score = score_from_eps(
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
    # a denoiser that knows x_0: whatever eta is, every step of the package's sampler lands on q(x_t
    # | x_0)
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
        assert mean_from_eps(here, gde.guided_eps(e, a, g), a, a_prev).item() == pytest.approx(
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
    def push(x, t):
        return torch.ones_like(x)

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
    def push(x, t):
        return 2 * torch.ones_like(x)

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


def test_eq_guided_x0():
    x, e, gradient = randn(3), randn(3, seed=1), randn(3, seed=2)
    for a in (0.1, 0.6, 0.99):
        assert torch.allclose(
            guided_x_0(gde.x_0_from_eps(x, e, a), a, gradient),
            gde.x_0_from_eps(x, gde.guided_eps(e, a, gradient), a),
            atol=1e-12,
        )
