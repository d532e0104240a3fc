"""Parity with the released code's process (PyPI's guided-diffusion-sdk): schedules, respacing, the
law of a step, losses and their gradients, bits per dimension, the choice of timesteps, and whole
guided chains.

The released code rounds its coefficients to float32 when it meets a tensor. The comparisons in
float64 take that rounding away (`exact_coefficients`), so that what is left is the mathematics.
"""

import warnings

import numpy
import pytest
import torch

import guided_diffusion_edu as gde
from guided_diffusion_edu.diffusion import (
    bits_per_dim,
    bound_term,
    posterior_mean,
    posterior_variance,
    reverse_gaussian,
    small_variance,
)
from guided_diffusion_edu.losses import SecondMomentSteps, bound_loss, eps_from_mean, target_weight
from guided_diffusion_edu.schedules import schedule_from_alpha_bar

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    from guided_diffusion import gaussian_diffusion as released
    from guided_diffusion import losses as released_losses
    from guided_diffusion import resample as released_resample
    from guided_diffusion.respace import SpacedDiffusion, space_timesteps

DOUBLE = torch.float64
MEANS = {
    "eps": released.ModelMeanType.EPSILON,
    "x_0": released.ModelMeanType.START_X,
    "mean": released.ModelMeanType.PREVIOUS_X,
}
VARIANCES = {
    "small": released.ModelVarType.FIXED_SMALL,
    "large": released.ModelVarType.FIXED_LARGE,
    "learned": released.ModelVarType.LEARNED_RANGE,
}
SCHEDULES = {"linear": gde.linear_schedule, "cosine": gde.cosine_schedule}


def released_betas(name, T):
    return released.get_named_beta_schedule(name, T)


def process(
    name="linear",
    T=1000,
    steps=None,
    mean="eps",
    variance="small",
    loss=released.LossType.MSE,
    **options,
):
    kept = range(T) if steps is None else space_timesteps(T, steps)
    return SpacedDiffusion(
        kept,
        betas=released_betas(name, T),
        model_mean_type=MEANS[mean],
        model_var_type=VARIANCES[variance],
        loss_type=loss,
        **options,
    )


@pytest.fixture
def exact_coefficients(monkeypatch):
    def extract(values, t, shape):
        return torch.from_numpy(values)[t].view(-1, *[1] * (len(shape) - 1)).expand(shape)

    monkeypatch.setattr(released, "_extract_into_tensor", extract)


@pytest.fixture
def exact_decoder(monkeypatch):
    """The normal distribution function itself in place of the released approximation by a
    hyperbolic tangent.
    """
    monkeypatch.setattr(released_losses, "approx_standard_normal_cdf", torch.special.ndtr)


def network(channels=2, out=1, dtype=DOUBLE, seed=0):
    "A small smooth network of x and t; `out` times its channels."
    g = torch.Generator().manual_seed(seed)
    first, second = (
        torch.randn(shape, generator=g, dtype=DOUBLE).to(dtype) * 0.4
        for shape in ((6, channels, 3, 3), (out * channels, 6, 3, 3))
    )

    def model(x, t, y=None):
        h = (
            torch.nn.functional.conv2d(x, first, padding=1)
            + torch.sin(t.to(dtype) / 300)[:, None, None, None]
        )
        return torch.nn.functional.conv2d(h.tanh(), second, padding=1)

    model.parameters = [first.requires_grad_(), second.requires_grad_()]
    return model


def classifier(dtype=DOUBLE):
    weights = torch.randn(3, 2, generator=torch.Generator().manual_seed(9), dtype=DOUBLE).to(dtype)
    return lambda x, t: x.tanh().mean((2, 3)) @ weights.T * (1 + t[:, None].to(dtype) / 1000)


def pictures(n=6, dtype=DOUBLE, seed=1):
    g = torch.Generator().manual_seed(seed)
    x_0 = (torch.randint(0, 256, (n, 2, 4, 4), generator=g) / 127.5 - 1).to(dtype)
    x_0[0, 0, 0, :2] = torch.tensor([-1.0, 1.0])  # the first and the last level
    return x_0, torch.randn(x_0.shape, generator=g, dtype=DOUBLE).to(dtype)


# ---- schedules


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("T", [21, 100, 1000, 4000])
def test_schedules(name, T):
    ours, theirs = SCHEDULES[name](T), process(name, T)
    for a, b in (
        (ours.betas, theirs.betas),
        (ours.alpha_bars, theirs.alphas_cumprod),
        (ours.alpha_bars_prev, theirs.alphas_cumprod_prev),
        (small_variance(ours), theirs.posterior_variance),
    ):
        assert numpy.allclose(a.numpy(), b, rtol=1e-9, atol=1e-14)


def test_schedule_from_any_curve():
    betas = released.betas_for_alpha_bar(50, lambda u: 1 - 0.9 * u**2, max_beta=0.2)
    assert numpy.allclose(
        schedule_from_alpha_bar(lambda u: 1 - 0.9 * u**2, 50, max_beta=0.2).betas.numpy(),
        betas,
        rtol=1e-12,
    )


REQUESTS = [
    2,
    3,
    7,
    25,
    50,
    99,
    250,
    999,
    1000,
    "10,15,20",
    "1,1",
    "333,333,334",
    "7,1,300",
    "ddim2",
    "ddim25",
    "ddim50",
    "ddim100",
    "ddim1000",
]


@pytest.mark.parametrize("T", [100, 250, 1000])
@pytest.mark.parametrize(
    "request_", [*REQUESTS, "ddim7", "ddim333", "101", "600,1", 1001, "ddim1001"], ids=str
)
def test_respacing(T, request_):
    try:
        wanted = sorted(space_timesteps(T, request_ if isinstance(request_, str) else [request_]))
    except ValueError:
        with pytest.raises(ValueError, match="steps must"):
            gde.respace(gde.linear_schedule(T), request_)
        return
    got = gde.respace(gde.linear_schedule(T), request_)
    assert got.timesteps.tolist() == wanted
    assert numpy.allclose(got.betas.numpy(), process(T=T, steps=str(request_)).betas, rtol=1e-9)


def test_respacing_all_counts():
    for T in (21, 60, 97):
        s = gde.linear_schedule(T)
        for count in range(2, T + 1):
            assert gde.respace(s, count).timesteps.tolist() == sorted(
                space_timesteps(T, [count])
            ), (T, count)


# ---- the law of a step


@pytest.mark.parametrize("name", SCHEDULES)
def test_forward_posterior_and_conversions(name, exact_coefficients):
    ours, theirs = SCHEDULES[name](), process(name)
    x_0, noise = pictures()
    t = torch.tensor([0, 1, 2, 500, 998, 999])
    x_t = ours.add_noise(x_0, t, noise)
    assert torch.allclose(x_t, theirs.q_sample(x_0, t, noise), atol=1e-13)
    mean, variance, _log = theirs.q_posterior_mean_variance(x_0, x_t, t)
    for i in range(6):
        a, b = ours.alpha_bars[t[i]].item(), ours.alpha_bars_prev[t[i]].item()
        assert torch.allclose(posterior_mean(x_0[i], x_t[i], a, b), mean[i], atol=1e-11)
        assert torch.allclose(torch.tensor(posterior_variance(a, b)).double(), variance[i])
        assert torch.allclose(
            gde.x_0_from_eps(x_t[i], noise[i], a),
            theirs._predict_xstart_from_eps(x_t, t, noise)[i],
            rtol=1e-9,
        )
        assert torch.allclose(
            gde.eps_from_x_0(x_t[i], x_0[i], a),
            theirs._predict_eps_from_xstart(x_t, t, x_0)[i],
            rtol=1e-8,
        )


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("steps", [None, "25"])
def test_reverse_gaussian(name, variance, clip, steps, exact_coefficients):
    theirs = process(name, steps=steps, variance=variance)
    ours = SCHEDULES[name]() if steps is None else gde.respace(SCHEDULES[name](), int(steps))
    model, (x, _) = network(out=2 if variance == "learned" else 1), pictures()
    t = torch.tensor([0, 1, 2, 10, len(ours) - 2, len(ours) - 1])
    wanted = theirs.p_mean_variance(model, x, t, clip_denoised=clip)
    mean, log = reverse_gaussian(
        model(x, ours.timesteps[t]),
        ours,
        x,
        t,
        variance,
        clip,
    )
    assert torch.allclose(mean, wanted["mean"], rtol=1e-8) and torch.allclose(
        log, wanted["log_variance"], rtol=1e-10
    )


# ---- losses


def both_losses(ours, theirs, model):
    "Values equal, and gradients in the weights."
    grads = [torch.autograd.grad(loss.sum(), model.parameters) for loss in (ours, theirs)]
    assert torch.allclose(ours, theirs, rtol=1e-8), (ours, theirs)
    for a, b in zip(*grads):
        assert torch.allclose(a, b, rtol=1e-7, atol=1e-9 * b.abs().max().item())


T_ALL = torch.tensor([0, 1, 2, 50, 98, 99])


@pytest.mark.parametrize("variance", ["small", "learned"])
def test_simple_loss(variance, exact_coefficients):
    s, (x_0, noise), model = (
        gde.linear_schedule(100),
        pictures(),
        network(out=2 if variance == "learned" else 1),
    )
    theirs = process(T=100, variance=variance).training_losses(model, x_0, T_ALL, noise=noise)[
        "mse"
    ]
    both_losses(gde.simple_loss(model, s, x_0, T_ALL, noise), theirs, model)


def test_hybrid_loss(exact_coefficients, exact_decoder):
    """The released RESCALED_MSE with a learned variance: the bound is not clipped, and does not
    teach the mean.
    """
    s, (x_0, noise), model = gde.linear_schedule(100), pictures(), network(out=2)
    theirs = process(
        T=100, variance="learned", loss=released.LossType.RESCALED_MSE
    ).training_losses(model, x_0, T_ALL, noise=noise)["loss"]
    both_losses(gde.hybrid_loss(model, s, x_0, T_ALL, noise), theirs, model)


@pytest.mark.parametrize("variance", VARIANCES)
def test_bound_loss(variance, exact_coefficients, exact_decoder):
    "The released RESCALED_KL."
    s, (x_0, noise), model = (
        gde.linear_schedule(100),
        pictures(),
        network(out=2 if variance == "learned" else 1),
    )
    theirs = process(T=100, variance=variance, loss=released.LossType.RESCALED_KL).training_losses(
        model, x_0, T_ALL, noise=noise
    )["loss"]
    fixed = "large" if variance == "large" else "auto"
    both_losses(bound_loss(model, s, x_0, T_ALL, noise, variance=fixed), theirs, model)


def test_loss_of_a_model_of_x_0(exact_coefficients):
    s, (x_0, noise), model = gde.linear_schedule(100), pictures(), network()
    theirs = process(T=100, mean="x_0").training_losses(model, x_0, T_ALL, noise=noise)["loss"]
    ours = gde.simple_loss(
        gde.eps_model(model, s, gde.eps_from_x_0),
        s,
        x_0,
        T_ALL,
        noise,
        weight=target_weight(s, gde.eps_from_x_0),
    )
    both_losses(ours, theirs, model)


def test_loss_of_a_model_of_the_mean(exact_coefficients):
    s, (x_0, noise), model = gde.linear_schedule(100), pictures(), network()
    t = T_ALL.clamp(min=1)  # at t = 0 the mean is x_0
    theirs = process(T=100, mean="mean").training_losses(model, x_0, t, noise=noise)["loss"]
    ours = gde.simple_loss(
        gde.eps_model(model, s, eps_from_mean),
        s,
        x_0,
        t,
        noise,
        weight=target_weight(s, eps_from_mean),
    )
    both_losses(ours, theirs, model)


def test_hybrid_loss_of_a_model_of_x_0(exact_coefficients, exact_decoder):
    s, (x_0, noise), model = gde.linear_schedule(100), pictures(), network(out=2)
    t = T_ALL.clamp(
        min=1
        # at t = 0 a network that knows nothing falls below the released floor under probabilities,
        # 1e-12
    )
    theirs = process(
        T=100, mean="x_0", variance="learned", loss=released.LossType.RESCALED_MSE
    ).training_losses(model, x_0, t, noise=noise)["loss"]
    ours = gde.hybrid_loss(
        gde.eps_model(model, s, gde.eps_from_x_0),
        s,
        x_0,
        t,
        noise,
        weight=target_weight(s, gde.eps_from_x_0),
    )
    both_losses(ours, theirs, model)


def test_the_released_decoder_is_near(exact_coefficients):
    """What the hyperbolic tangent costs: under a hundredth of a bit where the model is not absurdly
    sure.
    """
    s, (x_0, noise) = gde.linear_schedule(100), pictures()
    t = torch.zeros(6, dtype=torch.long)

    def exact(x, t, y=None):
        return (x - s.alpha_bars[0].sqrt() * x_0) / (1 - s.alpha_bars[0]).sqrt()

    theirs = process(T=100)._vb_terms_bpd(exact, x_0, s.add_noise(x_0, t, noise), t)["output"]
    x_t = s.add_noise(x_0, t, noise)
    ours = bound_term(exact(x_t, t), s, x_0, x_t, t)
    assert 0 < (ours - theirs).abs().max() < 0.01


@pytest.mark.parametrize("variance", VARIANCES)
def test_bits_per_dim(variance, exact_coefficients, exact_decoder):
    s, (x_0, _), model = (
        gde.respace(gde.linear_schedule(), 20),
        pictures(),
        network(out=2 if variance == "learned" else 1),
    )
    torch.manual_seed(0)
    theirs = process(steps="20", variance=variance).calc_bpd_loop(
        model, x_0
    )  # draws noise from the noisiest step to the cleanest
    torch.manual_seed(0)
    noises = [torch.randn_like(x_0) for _ in range(20)]
    fixed = "large" if variance == "large" else "auto"
    for i in range(20):
        t = torch.full((6,), i)
        x_t = s.add_noise(x_0, t, noises[19 - i])
        with torch.no_grad():
            ours = bound_term(model(x_t, s.timesteps[t]), s, x_0, x_t, t, fixed)
        assert torch.allclose(ours, theirs["vb"][:, 19 - i], rtol=1e-8)
    prior, terms = bits_per_dim(model, s, x_0, variance=fixed)
    assert (
        torch.allclose(prior, theirs["prior_bpd"], rtol=1e-8) and terms.shape == theirs["vb"].shape
    )


# ---- which timesteps


def test_second_moment_steps(monkeypatch):
    monkeypatch.setattr(numpy, "int", int, raising=False)  # a name that NumPy has dropped
    theirs = released_resample.LossSecondMomentResampler(process(T=30))
    ours = SecondMomentSteps(30)
    g = torch.Generator().manual_seed(0)
    for _ in range(60):
        t = torch.randint(0, 30, (20,), generator=g)
        losses = torch.rand(20, generator=g, dtype=DOUBLE) * (1 + t)
        theirs.update_with_all_losses(t.tolist(), losses.tolist())
        ours.update(t, losses)
        weights = theirs.weights()
        assert numpy.allclose(ours.probabilities().numpy(), weights / weights.sum(), rtol=1e-12)
    assert theirs._warmed_up()
    t, weight = ours.draw(1000, torch.Generator().manual_seed(1))
    assert torch.allclose(weight, 1 / (30 * ours.probabilities()[t]))


# ---- whole chains


def chains(name, steps, variance, sampler, dtype, y, clip=True, mean="eps", eta=0.0):
    "(ours, theirs) from the same seed."
    model, shape = network(out=2 if variance == "learned" else 1, dtype=dtype), (5, 2, 4, 4)
    torch.manual_seed(3)
    x_T = torch.randn(shape, dtype=DOUBLE).to(dtype)
    guidance = gde.classifier_guidance(classifier(dtype), y, 3.0) if y is not None else None
    cond = None if guidance is None else (lambda x, t, **_: guidance(x, t))
    theirs = process(name, steps=steps, variance=variance, mean=mean)
    run = getattr(theirs, f"{sampler}_sample_loop" if sampler == "ddim" else "p_sample_loop")
    torch.manual_seed(4)
    options = dict(eta=eta) if sampler == "ddim" else {}
    wanted = run(
        model,
        shape,
        noise=x_T,
        cond_fn=cond,
        clip_denoised=clip,
        model_kwargs={},
        device="cpu",
        **options,
    )
    if sampler == "ddpm" and variance != "learned":
        options["variance"] = variance
    s = SCHEDULES[name]()
    seen = (
        model
        if mean == "eps"
        else gde.eps_model(model, s, dict(x_0=gde.eps_from_x_0, mean=eps_from_mean)[mean])
    )
    torch.manual_seed(4)
    ours = getattr(gde, f"{sampler}_sample")(
        seen, gde.respace(s, steps), shape, guidance=guidance, x_T=x_T, clip=clip, **options
    )
    return ours, wanted


Y = torch.tensor([0, 1, 2, 0, 1])
CHAINS = [
    (sampler, variance, eta)
    for sampler, variance, eta in [
        ("ddpm", "small", 0),
        ("ddpm", "large", 0),
        ("ddpm", "learned", 0),
        ("ddim", "small", 0.0),
        ("ddim", "learned", 0.0),
        ("ddim", "small", 1.0),
        ("ddim", "small", 0.4),
    ]
]


@pytest.mark.parametrize("y", [None, Y], ids=["free", "guided"])
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("sampler, variance, eta", CHAINS)
def test_chain_in_float32(sampler, variance, eta, name, y):
    ours, theirs = chains(name, "25", variance, sampler, torch.float32, y, eta=eta)
    assert theirs.abs().max() > 0.1 and (ours - theirs).abs().max() < 1e-3


@pytest.mark.parametrize("y", [None, Y], ids=["free", "guided"])
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("sampler, variance, eta", CHAINS)
def test_chain_in_float64(sampler, variance, eta, name, y, exact_coefficients, monkeypatch):
    monkeypatch.setattr(
        torch.Tensor, "float", lambda x: x
    )  # the released code makes float32 of means and masks
    ours, theirs = chains(
        name, "ddim25" if sampler == "ddim" else "25", variance, sampler, DOUBLE, y, eta=eta
    )
    assert (ours - theirs).abs().max() < 1e-8


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_long_chain(sampler):
    ours, theirs = chains(
        "linear", "250", "learned" if sampler == "ddpm" else "small", sampler, torch.float32, Y
    )
    assert (ours - theirs).abs().max() < 1e-3


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_chain_of_a_model_of_x_0(sampler, exact_coefficients, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", lambda x: x)
    ours, theirs = chains("linear", "25", "small", sampler, DOUBLE, Y, mean="x_0")
    assert (ours - theirs).abs().max() < 1e-7


def test_the_edit_of_x_0_comes_before_the_clip():
    model, x_T = (
        network(dtype=torch.float32),
        torch.randn(5, 2, 4, 4, generator=torch.Generator().manual_seed(3)),
    )

    def double(x_0):
        return 2 * x_0

    torch.manual_seed(4)
    theirs = process(steps="10").p_sample_loop(
        model, x_T.shape, noise=x_T, denoised_fn=double, model_kwargs={}, device="cpu"
    )
    torch.manual_seed(4)
    ours = gde.ddpm_sample(
        model,
        gde.respace(gde.linear_schedule(), 10),
        x_T.shape,
        x_T=x_T,
        edit_x_0=lambda x_0, t: double(x_0),
    )
    assert (ours - theirs).abs().max() < 1e-3
