"""The labelled equations of "reverse process", in numbers."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

import guided_diffusion_edu as gde
from guided_diffusion_edu.diffusion import (
    bits_per_dim,
    bound_term,
    bound_weight,
    decoder_log_prob,
    gaussian_kl,
    large_variance,
    learned_log_variance,
    mean_from_eps,
    posterior_mean,
    posterior_variance,
    small_variance,
    step_variance,
)
from helpers import DOUBLE, LINE, LINEAR, bayes_back, pixels, randn, step_back


def test_eq_learned_variance():
    t = torch.tensor([1, 10, 500])
    small, large = small_variance(LINEAR)[t], LINEAR.betas[t]
    for v in (-1.0, -0.3, 0.0, 1.0):
        wanted = small ** ((1 - v) / 2) * large ** ((1 + v) / 2)
        assert torch.allclose(
            learned_log_variance(torch.full((3, 1), v, dtype=DOUBLE), LINEAR, t).exp()[:, 0],
            wanted,
            rtol=1e-10,
        )
    output = torch.full((1, 1), -1.0, dtype=DOUBLE)
    first = learned_log_variance(output, LINEAR, torch.tensor([0])).exp()
    assert first.item() == pytest.approx(small_variance(LINEAR)[1].item())
    assert large_variance(LINEAR)[0] == small_variance(LINEAR)[1] and torch.equal(
        large_variance(LINEAR)[1:], LINEAR.betas[1:]
    )


def test_eq_simple_loss():
    x_0, noise, t = (
        randn(6, 1, 4, 4),
        randn(6, 1, 4, 4, seed=1),
        torch.tensor([0, 1, 10, 100, 500, 999]),
    )

    def guess(x, t, y=None):
        return torch.cat([0.5 * x, 100 + x], 1)  # the second half is a variance: ignored

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


def test_eq_posterior_variance():
    assert torch.allclose(
        small_variance(LINEAR)[1:],
        (1 / (LINEAR.alphas / LINEAR.betas + 1 / (1 - LINEAR.alpha_bars_prev)))[1:],
        rtol=1e-8,
    )
    assert small_variance(LINEAR)[0] == 0 and posterior_variance(0.4, 0.5) == pytest.approx(
        bayes_back(1.3, 0.4, 0.4, 0.5)[1], abs=1e-9
    )


def test_eq_posterior_mean():
    for case in ((1.3, 0.4, 0.4, 0.5), (-0.7, 2.0, 0.1, 0.7)):
        assert posterior_mean(*case) == pytest.approx(bayes_back(*case)[0], abs=1e-9)


def test_eq_eps_to_x0():
    assert gde.x_0_from_eps(0.8**0.5 * 3 + 0.2**0.5 * 5, 5, 0.8) == pytest.approx(3)


def test_eq_x0_to_eps():
    assert gde.eps_from_x_0(0.8**0.5 * 3 + 0.2**0.5 * 5, 3, 0.8) == pytest.approx(5)


def test_eq_mean_from_eps():
    for a, a_prev in ((0.5, 0.6), (0.01, 0.3), (0.9998, 0.9999)):
        x, e = randn(7), randn(7, seed=1)
        assert torch.allclose(
            mean_from_eps(x, e, a, a_prev),
            posterior_mean(gde.x_0_from_eps(x, e, a), x, a, a_prev),
            atol=1e-10,
        )


def test_eq_step_tweedie():
    for t_from, t_to, x in ((600, 300, 0.4), (10, 9, 1.0), (999, 0, -0.5)):
        wanted, _, a, a_prev = step_back(LINE, t_from, t_to, x)
        here = torch.tensor([[x]], dtype=DOUBLE)
        assert mean_from_eps(
            here, LINE.denoiser(LINEAR)(here, torch.tensor([t_from])), a, a_prev
        ).item() == pytest.approx(wanted, abs=1e-7)


def test_eq_step_variance():
    for t_from, t_to, x in ((600, 300, 0.4), (101, 100, 0.0)):
        _, wanted, a, a_prev = step_back(LINE, t_from, t_to, x)
        grid = torch.linspace(-4, 4, 40_001, dtype=DOUBLE)
        p = (LINE.log_prob(grid[:, None]) - (x - a**0.5 * grid) ** 2 / (2 * (1 - a))).softmax(0)
        of_x_0 = (p * grid**2).sum() - (p * grid).sum() ** 2
        assert step_variance(of_x_0, a, a_prev).item() == pytest.approx(wanted, abs=1e-7)
        assert step_variance(1 - a, a, a_prev) == pytest.approx(1 - a / a_prev, abs=1e-12)
        assert wanted > posterior_variance(a, a_prev)


def term_by_hand(s, step, x_0, x_t, eps, log_variance, clip=True):
    "The bound's term at `step` of the schedule, in bits a dimension, by torch.distributions."
    a, a_prev, small = (
        s.alpha_bars[step].item(),
        s.alpha_bars_prev[step].item(),
        small_variance(s)[max(step, 1)].item(),
    )
    guess = (x_t - (1 - a) ** 0.5 * eps) / a**0.5
    model = Normal(
        posterior_mean(guess.clamp(-1, 1) if clip else guess, x_t, a, a_prev),
        math.exp(log_variance / 2),
    )
    if step:
        wanted = kl_divergence(Normal(posterior_mean(x_0, x_t, a, a_prev), small**0.5), model)
    else:
        wanted = -(
            model.cdf(torch.where(x_0 > 0.999, 99, x_0 + 1 / 255))
            - model.cdf(torch.where(x_0 < -0.999, -99, x_0 - 1 / 255))
        ).log()
    return wanted.mean().item() / math.log(2)


def learned_log(s, step, v):
    return (1 + v) / 2 * math.log(s.betas[step]) + (1 - v) / 2 * math.log(
        small_variance(s)[max(step, 1)]
    )


def test_eq_vlb():
    # term by term, for a network with a learned variance and for fixed ones, whose first is the
    # second small one
    x_0, t, noise = pixels(4, 1, 3, 3), torch.tensor([0, 1, 50, 999]), randn(4, 1, 3, 3)
    x_t = LINEAR.add_noise(x_0, t, noise)
    learned = bound_term(
        torch.cat([0.9 * noise, torch.full_like(noise, 0.3)], 1), LINEAR, x_0, x_t, t
    )
    small, large = (
        bound_term(0.9 * noise, LINEAR, x_0, x_t, t, fixed) for fixed in ("small", "large")
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
        assert gaussian_kl(
            p.loc, 2 * p.scale.log(), q.loc, 2 * q.scale.log()
        ).item() == pytest.approx(kl_divergence(p, q).item(), abs=1e-12)


def test_eq_decoder():
    levels = torch.arange(256, dtype=DOUBLE) / 127.5 - 1
    for mean, std in ((0.1, 0.2), (0.99, 0.01), (-3.0, 1.0), (0.0, 100.0)):
        law = Normal(torch.tensor(mean, dtype=DOUBLE), std)
        log = decoder_log_prob(levels, law.loc, torch.tensor(2 * math.log(std), dtype=DOUBLE))
        assert log.exp().sum().item() == pytest.approx(1, abs=1e-12)
        inner = law.cdf(levels + 1 / 255) - law.cdf(levels - 1 / 255)
        assert torch.allclose(log.exp()[1:-1], inner[1:-1], atol=1e-12)
        assert log[0].exp().item() == pytest.approx(law.cdf(levels[0] + 1 / 255).item(), abs=1e-12)
    far = decoder_log_prob(
        levels[250:252], torch.tensor(-1.0), torch.tensor(-5.0)
    )  # 24 standard deviations up
    assert (
        far[0] > far[1] > -700
        # digits are not lost in the upper tail: the nearer level is the likelier, no floor was hit
    )


def test_eq_vlb_weight():
    x_0, noise, error = (
        0.1 * randn(5, 1, 2, 2),
        0.3 * randn(5, 1, 2, 2, seed=1),
        0.2 * randn(5, 1, 2, 2, seed=2),
    )
    t = torch.tensor([1, 2, 10, 100, 300])
    got = bound_term(noise + error, LINEAR, x_0, LINEAR.add_noise(x_0, t, noise), t) * math.log(2)
    assert torch.allclose(
        got, bound_weight(LINEAR)[t] * error.square().flatten(1).mean(1), rtol=1e-8
    )
    assert bound_weight(LINEAR)[0] == torch.inf


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


def test_eq_bits_per_dim():
    s, x_0 = gde.linear_schedule(50), pixels(3, 1, 2, 2)
    prior, terms = bits_per_dim(
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
        assert torch.allclose(terms[:, i], bound_term(0.1 * x_t, s, x_0, x_t, t))
    for fixed in (
        "small",
        "large",
    ):  # a short chain: the model hears the long one's steps, the variance is the one asked for
        short, heard = gde.respace(LINEAR, 10), []

        def model(x, t, y):
            heard.append(t[0].item())
            return 0.1 * x

        _, terms = bits_per_dim(
            model, short, x_0, variance=fixed, generator=torch.Generator().manual_seed(5)
        )
        assert heard == short.timesteps.tolist()
        g = torch.Generator().manual_seed(5)
        for i in range(10):
            x_t = short.add_noise(
                x_0, torch.full((3,), i), torch.randn(x_0.shape, dtype=DOUBLE, generator=g)
            )
            log_variance = learned_log(short, i, 1 if fixed == "large" and i else -1)
            wanted = [
                term_by_hand(short, i, x_0[k], x_t[k], 0.1 * x_t[k], log_variance) for k in range(3)
            ]
            assert terms[:, i].tolist() == pytest.approx(wanted, rel=1e-6)
