"""Properties that hold for every valid schedule, model and batch, tried on many drawn by
hypothesis; and that numbers stay finite at both ends of every schedule in every precision.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import guided_diffusion_edu as gde
from guided_diffusion_edu.diffusion import (
    clipped_variance,
    large_variance,
    mean_from_eps,
    posterior_mean,
    posterior_variance,
    reverse_gaussian,
    small_variance,
)
from guided_diffusion_edu.losses import eps_from_mean
from guided_diffusion_edu.samplers import ddim_sigma

DOUBLE = torch.float64
LINEAR = gde.linear_schedule()
drawn = settings(max_examples=60, deadline=None, derandomize=True)

beta = st.floats(1e-5, 0.999)
chains = st.lists(beta, min_size=2, max_size=12).map(gde.Schedule)
seeds = st.integers(0, 2**31 - 1)


def randn(seed, *shape):
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def model(x_t, t, y=None):
    "A smooth wrong denoiser, in which no two examples meet."
    return (
        torch.sin(2 * x_t) + 0.1 * torch.cos(t.to(x_t.dtype)).view(-1, *[1] * (x_t.ndim - 1)) * x_t
    )


def toward(scale):
    return gde.log_prob_guidance(lambda x, t: -(x - 1).square().flatten(1).sum(1), scale)


# ---- the forward process and its posterior


@drawn
@given(chains)
def test_marginals_compose(s):
    "Noising to r and on to t is noising to t: mean factors multiply, variances obey Eq. 4."
    for r in range(len(s)):
        for t in range(r + 1, len(s)):
            between = torch.prod(s.alphas[r + 1 : t + 1])
            assert torch.isclose(s.alpha_bars[r] * between, s.alpha_bars[t], rtol=1e-10, atol=0)
            assert torch.isclose(
                between * (1 - s.alpha_bars[r]) + 1 - between,
                1 - s.alpha_bars[t],
                rtol=1e-9,
                atol=1e-15,
            )


@drawn
@given(chains, st.floats(-3, 3), st.floats(-3, 3))
def test_posterior_is_bayes_rule(s, x_0, x_t):
    "Log posterior plus log marginal is log step plus log marginal before, at any x_{t-1}."

    def log(x, mean, variance):
        return -0.5 * ((x - mean) ** 2 / variance + torch.log(2 * torch.pi * variance))

    for t in range(1, len(s)):
        a, b = s.alpha_bars[t], s.alpha_bars_prev[t]
        mean, variance = posterior_mean(x_0, x_t, a, b), posterior_variance(a, b)
        x = mean + variance.sqrt() * torch.tensor([-2.0, 0.0, 1.0], dtype=DOUBLE)
        left = log(x, mean, variance) + log(x_t, a.sqrt() * x_0, 1 - a)
        right = log(x_t, s.alphas[t].sqrt() * x, s.betas[t]) + log(x, b.sqrt() * x_0, 1 - b)
        assert torch.allclose(left, right, rtol=1e-6, atol=1e-5)


@drawn
@given(chains, seeds)
def test_conversions_invert(s, seed):
    x_t, eps = randn(seed, 2, 3)
    for a, b in zip(s.alpha_bars.tolist(), s.alpha_bars_prev.tolist()):
        size = 1 + ((1 - a) / a) ** 0.5
        x_0 = gde.x_0_from_eps(x_t, eps, a)
        assert torch.allclose(gde.eps_from_x_0(x_t, x_0, a), eps, atol=1e-9 * size / (1 - a) ** 0.5)
        v = (eps - (1 - a) ** 0.5 * x_t) / a**0.5
        assert torch.allclose(gde.eps_from_v(x_t, v, a), eps, atol=1e-9)
        mean = mean_from_eps(x_t, eps, a, b)
        assert torch.allclose(posterior_mean(x_0, x_t, a, b), mean, atol=1e-9 * size)
        assert torch.allclose(eps_from_mean(x_t, mean, a, b), eps, atol=1e-9 / (1 - a / b))


@drawn
@given(chains)
def test_variances_are_ordered(s):
    small, large = small_variance(s), large_variance(s)
    assert (
        small[0] == 0
        and (small[1:] <= s.betas[1:] * (1 + 1e-12)).all()
        and (large > 0).all()
        and (clipped_variance(s) > 0).all()
    )


@drawn
@given(st.integers(21, 400), st.data())
def test_respacing_keeps_levels(T, data):
    s = gde.linear_schedule(T)
    short = gde.respace(s, data.draw(st.integers(2, T)))
    assert torch.allclose(short.alpha_bars, s.alpha_bars[short.timesteps], rtol=1e-9)
    assert (
        (short.timesteps.diff() > 0).all()
        and short.timesteps[0] == 0
        and short.timesteps[-1] == T - 1
    )
    again = gde.respace(short, len(short))
    assert torch.equal(again.timesteps, short.timesteps) and torch.allclose(
        again.betas, short.betas, rtol=1e-9
    )


# ---- samplers


SAMPLERS = {"ddpm": gde.ddpm_sample, "ddim": gde.ddim_sample}


@drawn
@given(chains, seeds, st.sampled_from(list(SAMPLERS)), st.booleans())
def test_scale_zero_is_unguided_to_the_bit(s, seed, name, clip):
    def run(guidance):
        return SAMPLERS[name](
            model,
            s,
            (3, 2),
            guidance=guidance,
            clip=clip,
            x_T=randn(seed, 3, 2),
            generator=torch.Generator().manual_seed(seed),
        )

    assert torch.equal(run(toward(0.0)), run(None))


@drawn
@given(chains, seeds, st.sampled_from(list(SAMPLERS)), st.permutations(range(5)))
def test_order_in_the_batch_does_not_matter(s, seed, name, order):
    x_T, order = randn(seed, 5, 2), torch.tensor(order)

    def run(rows):
        return SAMPLERS[name](
            model,
            s,
            (5, 2),
            guidance=toward(0.3),
            x_T=x_T[rows],
            generator=[torch.Generator().manual_seed(r) for r in rows.tolist()],
        )

    assert torch.equal(run(order), run(torch.arange(5))[order])


@drawn
@given(chains, seeds, st.sampled_from(list(SAMPLERS)), st.integers(1, 5))
def test_a_seed_for_each_image_whatever_the_batch(s, seed, name, batch):
    "Five images drawn in batches of any size: the same five, x_T included."

    def run(rows):
        return SAMPLERS[name](
            model,
            s,
            (len(rows), 2, 2),
            guidance=toward(0.3),
            generator=[torch.Generator().manual_seed(seed ^ r) for r in rows],
        )

    parts = [run(range(k, min(k + batch, 5))) for k in range(0, 5, batch)]
    assert torch.equal(torch.cat(parts), run(range(5)))


@drawn
@given(chains)
def test_eta_one_has_the_posterior_variance(s):
    for a, b in zip(s.alpha_bars.tolist(), s.alpha_bars_prev.tolist()):
        assert ddim_sigma(a, b, 1.0) ** 2 == pytest.approx(
            posterior_variance(a, b), rel=1e-9, abs=1e-300
        )


@drawn
@given(chains, seeds, st.booleans())
def test_eta_one_is_ddpm(s, seed, clip):
    def run(sampler, **options):
        return sampler(
            model,
            s,
            (3, 2),
            x_T=randn(seed, 3, 2),
            clip=clip,
            generator=torch.Generator().manual_seed(seed),
            **options,
        )

    a, b = run(gde.ddim_sample, eta=1.0), run(gde.ddpm_sample, variance="small")
    assert torch.allclose(a, b, rtol=1e-6, atol=1e-6 * b.abs().max().item())


@drawn
@given(st.integers(21, 60), seeds)
def test_respaced_with_all_steps_is_the_same(T, seed):
    s = gde.linear_schedule(T)

    def run(s):
        return gde.ddim_sample(
            model,
            s,
            (3, 2),
            guidance=toward(0.3),
            x_T=randn(seed, 3, 2),
            generator=torch.Generator().manual_seed(seed),
        )

    assert torch.allclose(run(gde.respace(s, T)), run(s), atol=1e-8)


@drawn
@given(chains, seeds, st.sampled_from(list(SAMPLERS)), st.data())
def test_a_walk_taken_up_on_the_way(s, seed, name, data):
    "From any x_t of a trajectory, with the generator as it was there, to the same end."
    start = data.draw(st.integers(0, len(s) - 1))
    g, x_T = torch.Generator().manual_seed(seed), randn(seed, 2, 2)
    whole, path = SAMPLERS[name](
        model, s, (2, 2), guidance=toward(0.3), x_T=x_T, generator=g, trajectory=True
    )
    g = torch.Generator().manual_seed(seed)
    passed = len(s) - 1 - start
    for _ in range(passed):
        torch.randn(2, 2, dtype=DOUBLE, generator=g)
    assert torch.equal(
        SAMPLERS[name](
            model, s, (2, 2), guidance=toward(0.3), x_T=path[passed], start=start, generator=g
        ),
        whole,
    )


@drawn
@given(chains, seeds, st.floats(-3, 3), st.floats(-3, 3))
def test_the_last_step_adds_no_noise(s, seed, x, y):
    for sampler, options in (
        (gde.ddpm_sample, {}),
        (gde.ddpm_sample, dict(variance="large")),
        (gde.ddim_sample, dict(eta=1.0)),
    ):

        def run(k):
            return sampler(
                model,
                s,
                (1, 2),
                x_T=torch.tensor([[x, y]], dtype=DOUBLE),
                start=0,
                generator=torch.Generator().manual_seed(k),
                **options,
            )

        assert torch.equal(run(seed), run(seed + 1))


# ---- finite numbers


ENDS = {
    "linear": LINEAR,
    "cosine": gde.cosine_schedule(),
    "linear 4000": gde.linear_schedule(4000),
    "cosine 4000": gde.cosine_schedule(4000),
    "linear 21": gde.linear_schedule(21),
    "cosine 2": gde.cosine_schedule(2),
    "respaced": gde.respace(gde.cosine_schedule(), 5),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ENDS)
def test_numbers_are_finite_at_both_ends(name, dtype):
    s = ENDS[name]
    t = torch.tensor([0, 1, len(s) - 2, len(s) - 1])
    x_0, noise, v = (randn(k, 4, 1, 3, 3).to(dtype) for k in range(3))
    x_t = s.add_noise(x_0.clamp(-1, 1), t, noise)
    assert (
        x_t.dtype == dtype and x_t.isfinite().all() and not torch.equal(x_t[0], x_0[0].clamp(-1, 1))
    )  # some noise at t = 0 even in bfloat16
    for output in (noise, torch.cat([noise, v.clamp(-1, 1)], 1)):
        mean, log = reverse_gaussian(output, s, x_t, t)
        assert mean.isfinite().all() and log.isfinite().all() and mean.dtype == dtype
    for run, options in (
        (gde.ddpm_sample, {}),
        (gde.ddpm_sample, dict(variance="large")),
        (gde.ddim_sample, {}),
        (gde.ddim_sample, dict(eta=1.0)),
    ):
        short = s if len(s) < 30 else gde.respace(s, 4)
        x, path = run(
            model,
            short,
            x_t.shape,
            x_T=noise,
            guidance=toward(0.1),
            trajectory=True,
            generator=torch.Generator().manual_seed(0),
            **options,
        )
        assert x.dtype == dtype and all(p.isfinite().all() for p in path)


@pytest.mark.parametrize("name", ENDS)
def test_float32_keeps_the_digits_of_the_small_end(name):
    """Coefficients are rounded once, so q(x_t | x_0) in float32 is that in float64 to 1e-6, and the
    law of a step at the clean end to 1e-5; the noisy end divides the input's own rounding by
    sqrt(alpha_bar).
    """
    s = ENDS[name]
    t = torch.tensor([0, 1, len(s) - 2, len(s) - 1])
    x_0, noise = randn(0, 4, 1, 3, 3).clamp(-1, 1), randn(1, 4, 1, 3, 3)
    single, double = s.add_noise(x_0.float(), t, noise.float()), s.add_noise(x_0, t, noise)
    assert torch.allclose(single.double(), double, atol=1e-6)
    only_noise = s.add_noise(torch.zeros(4, 1, 3, 3), t, noise.float())
    assert torch.allclose(
        only_noise.double(), s.add_noise(torch.zeros_like(x_0), t, noise), rtol=1e-6, atol=0
    )
    (mean, log), (mean_, log_) = (
        reverse_gaussian(e, s, x, t) for e, x in ((noise.float(), single), (noise, double))
    )
    assert torch.allclose(mean[:2].double(), mean_[:2], atol=1e-5) and torch.allclose(
        log.double(), log_, rtol=1e-6
    )
