"""The rows of the errata page: each test shows that the right statement holds and that the wrong
one does not, and measures what following the wrong one costs.

The measured numbers stand in bold on the page; `measured` holds the page to them.
"""

import inspect
import math
import re

import pytest
import torch
from torch.special import ndtr

import guided_diffusion_edu as gde
from guided_diffusion_edu.diffusion import decoder_log_prob, learned_log_variance, small_variance
from guided_diffusion_edu.lab.linear_gaussian import ddim_variance
from guided_diffusion_edu.lab.quadrature import total_variation
from guided_diffusion_edu.layers import ResBlock
from guided_diffusion_edu.samplers import ddim_sigma, score_from_eps

DOUBLE = torch.float64
LINEAR = gde.linear_schedule()
PAIR = gde.GaussianMixture([[-1.0], [1.0]], [0.5, 0.5])


@pytest.fixture
def measured(request):
    "Holds the bold numbers in the page's row of this test to the values measured, within 2 %."
    page = (request.config.rootpath / "nbs" / "reference" / "errata.md").read_text()
    rows = [line for line in page.splitlines() if f"`{request.node.name}`" in line]

    def check(*values):
        assert rows, f"no row for {request.node.name}: {values}"
        for row in rows:
            shown = [float(number) for number in re.findall(r"\*\*([\d.e-]+)\*\*", row)]
            assert shown == pytest.approx(list(values), rel=0.02), (row, values)

    return check


def test_every_row_has_its_test(root):
    named = set(re.findall(r"`(test_\w+)`", (root / "nbs" / "reference" / "errata.md").read_text()))
    assert named == {name for name in globals() if name.startswith("test_")} - {
        "test_every_row_has_its_test"
    }


def log_p(x):
    return PAIR.class_log_probs(torch.as_tensor(x, dtype=DOUBLE).reshape(-1, 1))[:, 1]


def derivatives(mu, count=2):
    x, found = torch.tensor([mu], dtype=DOUBLE, requires_grad=True), []
    value = log_p(x).sum()
    for _ in range(count):
        value = torch.autograd.grad(value, x, create_graph=True)[0].sum()
        found.append(value.item())
    return found


# ---- the post


def test_order_of_the_expansion(measured):
    g, H = derivatives(0.2)

    def rest(h):
        return (log_p(0.2 + h) - log_p(0.2) - h * g).item()

    assert rest(1e-3) == pytest.approx(1e-6 * H / 2, rel=0.01)
    measured(rest(0.02) / rest(0.01))


def product_on_a_grid(mu, variance, half=0.5, sign=1.0):
    "Mean and variance of exp(-half (x - mu)^2 / variance + sign g (x - mu)) on a grid, g = 1.7."
    x = torch.linspace(-9, 9, 36_001, dtype=DOUBLE)
    p = (-half * (x - mu) ** 2 / variance + 1.7 * (x - mu)).softmax(0)
    mean = (p * x).sum()
    return mean.item(), (p * (x - mean) ** 2).sum().item()


def test_the_lost_half(measured):
    mean, variance = product_on_a_grid(0.3, 0.25)
    assert mean == pytest.approx(gde.guided_mean(0.3, 0.25, 1.7)) and variance == pytest.approx(
        0.25
    )
    lost_mean, lost_variance = product_on_a_grid(0.3, 0.25, half=1.0)
    measured(lost_variance / variance, (lost_mean - 0.3) / (mean - 0.3))


def test_given_the_next_not_the_first(measured):
    t = 500
    forward = 1 - LINEAR.alpha_bars[t] / LINEAR.alpha_bars[0]  # Var(x_t | x_1)
    back = small_variance(LINEAR)[t + 1]  # Var(x_t | x_{t+1}, x_0)
    measured((forward / back).item())


def test_two_sets_of_weights(measured):
    digits = gde.load_pretrained("digits")
    own = [{p.data_ptr() for p in net.parameters()} for net in (digits.model, digits.classifier)]
    assert not own[0] & own[1]
    measured(
        *(sum(p.numel() for p in net.parameters()) for net in (digits.model, digits.classifier))
    )


def test_inner_product(measured):
    g, d = torch.randn(2, 64, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    assert (d @ g).ndim == 0 and (d[:, None] * g[:, None]).shape == (64, 1)
    measured((d * g).numel())


def test_sign_of_the_constant(measured):
    x, std = torch.linspace(-3, 3, 20_001, dtype=DOUBLE), 0.1
    C = -0.5 * math.log(2 * math.pi * std**2)

    def total(constant):
        return torch.trapezoid(torch.exp(-(x**2) / (2 * std**2) + constant), x).item()

    assert total(C) == pytest.approx(1)
    measured(total(-C))


def test_constants_to_the_end(measured):
    # a factor whose logarithm is C_1 + g d, with nothing left out: what normalises it is exp(-C_4)
    C_1, g, std, d = -0.8, 1.7, 0.5, torch.linspace(-6, 6, 20_001, dtype=DOUBLE)
    mass = torch.trapezoid(
        torch.exp(C_1 + g * d - d**2 / (2 * std**2)) / (2 * math.pi * std**2) ** 0.5, d
    ).item()
    assert mass == pytest.approx(math.exp(C_1 + std**2 * g**2 / 2))
    measured(mass / math.exp(C_1))


def test_z_is_no_constant(measured):
    noised = PAIR.at(LINEAR.alpha_bars[300].item())
    Z = (-noised.class_log_probs(torch.tensor([[-1.0], [1.0]], dtype=DOUBLE))[:, 1]).exp()
    measured((Z[0] / Z[1]).item())


def test_low_curvature(measured):
    errors = []
    for std in (0.05, 0.5):
        g, _ = derivatives(0.2)
        d = std * torch.linspace(-9, 9, 9001, dtype=DOUBLE)
        true = (-(d**2) / (2 * std**2) + log_p(0.2 + d)).softmax(0)
        step = (-((d - std**2 * g) ** 2) / (2 * std**2)).softmax(0)
        errors.append(total_variation(true, step))
    measured(*errors)


def test_where_s_is_missing(measured):
    assert gde.guided_eps(0.0, 0.3, 8.0) == pytest.approx(8 * gde.guided_eps(0.0, 0.3, 1.0))
    measured(ddim_variance(0.5, 1.0) ** 0.5, ddim_variance(0.5, 8.0) ** 0.5)


@pytest.fixture(scope="module")
def share():
    """Share of samples of the class asked for (two opposite corners) after ten steps of DDPM at s =
    1.
    """
    world, steps = gde.four_corners(), gde.respace(LINEAR, 10)
    y = torch.ones(20_000, dtype=torch.long)
    guidance = gde.classifier_guidance(world.classifier(LINEAR), y)

    def draw(sampler, **options):
        x_0 = sampler(
            world.denoiser(LINEAR),
            steps,
            (20_000, 2),
            guidance=guidance,
            clip=False,
            generator=torch.Generator().manual_seed(0),
            **options,
        )
        return world.class_log_probs(x_0).argmax(1).double().mean().item()

    return draw


def test_place_of_the_gradient(measured, share):
    measured(share(gde.ddpm_sample), share(gde.ddpm_sample, gradient_at="mean"))


def test_score_is_an_identity_of_the_best_eps(measured):
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    world, t = gde.four_corners(), torch.full((50,), 300)
    eps, a = world.denoiser(LINEAR)(x, t), LINEAR.alpha_bars[300].item()
    score = world.at(a).score(x)

    def error(guess):
        return ((score_from_eps(guess, a) - score).norm() / score.norm()).item()

    assert error(eps) < 1e-12
    measured(error(0.9 * eps))


def test_the_classifier_is_told_t(measured):
    t, x = 500, torch.tensor([[0.1]], dtype=DOUBLE)

    def ask(level):
        return gde.classifier_guidance(
            lambda x, t: PAIR.at(level).class_log_probs(x), torch.tensor([1])
        )(x, None).item()

    measured(ask(1.0) / ask(LINEAR.alpha_bars[t].item()))


def test_class_is_added_to_time():
    unet = gde.UNet(
        gde.UNetConfig(
            image_size=8,
            in_channels=1,
            channels=32,
            channel_mult=(1,),
            res_blocks=1,
            attention_resolutions=(),
            head_channels=32,
            num_classes=10,
        )
    )
    t, y, heard = torch.tensor([3, 700]), torch.tensor([1, 2]), []
    for module in unet.modules():
        if isinstance(module, ResBlock):
            module.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[1]))
    unet(torch.zeros(2, 1, 8, 8), t, y)
    assert heard and all(
        torch.equal(emb, unet.time(t) + unet.label(y)) for emb in heard
    )  # a sum of the width of each, not both side by side


def test_gain_of_adagn(measured):
    layer, h, emb = gde.AdaGN(8, 6, groups=4), torch.randn(2, 8, 3, 3), torch.zeros(2, 6)
    torch.nn.init.zeros_(layer.project.bias)
    torch.nn.init.normal_(layer.norm.weight)
    torch.nn.init.normal_(layer.norm.bias)
    assert torch.allclose(
        layer(h, emb), layer.norm(h)
    )  # scale = 0: the gain is 1, with y_s = 0 it would be 0
    torch.nn.init.constant_(layer.project.bias, 0.5)
    plain = torch.nn.functional.group_norm(h, 4)
    gain, shift = layer.norm.weight * 1.5, layer.norm.bias * 1.5 + 0.5
    assert torch.allclose(
        layer(h, emb), gain[:, None, None] * plain + shift[:, None, None], atol=1e-5
    )
    measured((layer(h, emb) - 0.5).std().item() / layer.norm(h).std().item())


def test_two_ys(measured):
    assert list(inspect.signature(gde.AdaGN.forward).parameters) == [
        "self",
        "h",
        "emb",
    ]  # no class in AdaGN
    assert "y" in inspect.signature(gde.UNet.forward).parameters
    measured(
        torch.tensor(3).numel(),
        max(
            m.project.out_features
            for m in gde.load_pretrained("digits").model.modules()
            if isinstance(m, gde.AdaGN)
        ),
    )


def test_the_classifier_needs_no_denoiser(measured):
    digits, x_0, t = gde.load_pretrained("digits"), torch.zeros(2, 1, 8, 8), torch.tensor([3, 700])
    for p in (*digits.classifier.parameters(), *digits.model.parameters()):
        p.requires_grad_()
    gde.classifier_loss(
        digits.classifier, digits.schedule, x_0, torch.tensor([1, 2]), t, torch.ones_like(x_0)
    ).sum().backward()
    assert all(p.grad is not None for p in digits.classifier.parameters())
    measured(sum(p.numel() for p in digits.model.parameters() if p.grad is None))


def test_ddim_has_no_sigma():
    assert ddim_sigma(0.4, 0.5, 0.0) == 0
    assert gde.guided_mean(1.0, ddim_sigma(0.4, 0.5, 0.0) ** 2, 1e6) == 1.0  # no gradient moves it
    assert gde.guided_eps(0.0, 0.4, 1.0) != 0


# ---- the paper


def test_renormalised_power(measured):
    logits = torch.tensor(
        [math.log(9), 0.0], dtype=DOUBLE, requires_grad=True
    )  # p(y | x) = 0.9; the gradient in the logit stands for that in x

    def gradient(value):
        return torch.autograd.grad(value, logits)[0][0].item()

    scaled = 4 * gradient(logits.log_softmax(0)[0])
    power = gradient((4 * logits.log_softmax(0)).log_softmax(0)[0])
    measured(power / scaled)


def test_coefficient_of_the_shift(measured):
    s = gde.respace(LINEAR, 10)
    ratio = small_variance(s) / (s.betas / s.alphas.sqrt())
    measured(ratio[-1].item(), ratio[1].item())


# ---- the released code


def released(respacing="10", **options):
    from guided_diffusion.script_util import create_gaussian_diffusion

    return create_gaussian_diffusion(
        **(dict(steps=1000, noise_schedule="linear", timestep_respacing=respacing) | options)
    )


def silent(x, t, y=None):
    return torch.zeros_like(x)


def push(x, t):
    return 5 * torch.ones_like(x)


def test_released_gradient_at_x_t():
    heard = []

    def listen(x, t):
        heard.append(x)
        return torch.zeros_like(x)

    x = torch.full((1, 1, 2, 2), 0.3)
    released().p_sample(silent, x, torch.tensor([5]), cond_fn=listen, model_kwargs={})
    assert torch.equal(heard[0], x)
    gde.ddpm_sample(
        silent,
        gde.respace(LINEAR, 10),
        x.shape,
        x_T=x,
        guidance=listen,
        gradient_at="mean",
        generator=torch.Generator().manual_seed(0),
    )
    assert not torch.equal(heard[1], x)


def test_released_wants_keyword_arguments():
    with pytest.raises(TypeError):
        released().p_sample(
            silent, torch.zeros(1, 1, 2, 2), torch.tensor([5]), cond_fn=lambda x, t: x
        )


def test_released_reports_the_unguided_x_0():
    x = torch.full((1, 1, 2, 2), 0.3)
    shown = [
        released().p_sample(silent, x, torch.tensor([5]), cond_fn=guide, model_kwargs={})[
            "pred_xstart"
        ]
        for guide in (None, push)
    ]
    assert torch.equal(*shown)


def test_released_clips_before_guidance(measured):
    digits, y = gde.load_pretrained("digits"), torch.arange(10)
    process = released("25")
    assert torch.allclose(
        torch.tensor(process.alphas_cumprod), gde.respace(digits.schedule, 25).alpha_bars
    )
    guidance, x = (
        gde.classifier_guidance(digits.classifier, y, 4.0),
        torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
    )
    model, largest = lambda x, t: digits.model(x, t)[:, :1], 0.0
    for i in range(24, -1, -1):
        t = torch.full((10,), i)
        clipped = process.p_mean_variance(model, x, t, model_kwargs={})
        guided = process.condition_score(guidance, clipped, x, t, model_kwargs={})[
            "pred_xstart"
        ]  # what its DDIM step goes to
        assert clipped["pred_xstart"].abs().max() <= 1
        x, largest = (
            process.ddim_sample(model, x, t, cond_fn=guidance, model_kwargs={})["sample"],
            max(largest, guided.abs().max().item()),
        )
    assert x.abs().max() < 1.05  # the last steps mend it
    measured(largest)


def test_released_v_is_free(measured):
    t = torch.tensor([1])
    v = torch.full((1, 1), 3.0, dtype=DOUBLE)
    measured((learned_log_variance(v, LINEAR, t).exp() / LINEAR.betas[t]).item())


def test_released_respacing_1():
    with pytest.raises(IndexError):
        released("1")
    with pytest.raises(ValueError, match="steps"):
        gde.respace(LINEAR, 1)


def test_released_linear_of_20_steps():
    from guided_diffusion.gaussian_diffusion import get_named_beta_schedule

    assert get_named_beta_schedule("linear", 20)[-1] == 1
    with pytest.raises(ValueError, match="T must be more than 20"):
        gde.linear_schedule(20)


def test_released_25_is_not_ddim25(measured):
    from guided_diffusion.respace import space_timesteps

    starts = [max(space_timesteps(1000, rule)) for rule in ("ddim25", "25")]
    assert starts == [gde.respace(LINEAR, rule).timesteps[-1].item() for rule in ("ddim25", 25)]
    measured(*starts, *(LINEAR.alpha_bars[t].item() ** 0.5 for t in starts))


def test_released_numpy_names():
    from guided_diffusion.resample import LossSecondMomentResampler

    with pytest.raises(AttributeError, match="int"):
        LossSecondMomentResampler(released())


def test_released_classifier_of_1000():
    from guided_diffusion.script_util import create_classifier

    assert "num_classes" not in inspect.signature(create_classifier).parameters
    assert "1000" in inspect.getsource(create_classifier)
    assert gde.Classifier(
        gde.ClassifierConfig(
            image_size=8,
            channels=32,
            channel_mult=(1,),
            res_blocks=1,
            attention_resolutions=(),
            head_channels=32,
            num_classes=7,
        )
    )(torch.zeros(1, 3, 8, 8), torch.tensor([0])).shape == (1, 7)


def test_released_multiplier_of_one_half():
    from guided_diffusion.script_util import create_model

    with pytest.raises(ValueError, match=r"0.5"):
        create_model(512, 64, 1, channel_mult="0.5,1,1,2,2,4,4")
    assert (
        create_model(512, 64, 1).channel_mult[0] == 0.5
    )  # what an empty flag stands for at this size


def test_released_distribution_function(measured):
    from guided_diffusion.losses import (
        approx_standard_normal_cdf,
        discretized_gaussian_log_likelihood,
    )

    x = torch.linspace(-6, 6, 24_001, dtype=DOUBLE)
    worst = (approx_standard_normal_cdf(x) - ndtr(x)).abs().max().item()
    levels = torch.tensor([[0.0]], dtype=DOUBLE) + 1 / 255
    off = torch.full_like(levels, -0.2)
    bits = [
        (-value / math.log(2)).item()
        for value in (
            decoder_log_prob(levels, off, torch.full_like(levels, 2 * math.log(0.05))),
            discretized_gaussian_log_likelihood(
                levels, means=off, log_scales=torch.full_like(levels, math.log(0.05))
            ),
        )
    ]
    measured(worst, *bits)


# ---- others


def test_level_of_the_mean(measured, share):
    "What denoising-diffusion-pytorch does: the gradient at the mean, the classifier told t."
    world, steps = gde.four_corners(), gde.respace(LINEAR, 10)
    y, _heard = torch.ones(20_000, dtype=torch.long), []
    exact = gde.classifier_guidance(world.classifier(LINEAR), y)
    before = dict(zip(steps.timesteps.tolist(), steps.timesteps.tolist()[1:]))

    def wrong(x, t):
        return exact(x, torch.full_like(t, before[t[0].item()]))  # asked with t - 1, answers with t

    x_0 = gde.ddpm_sample(
        world.denoiser(LINEAR),
        steps,
        (20_000, 2),
        guidance=wrong,
        gradient_at="mean",
        clip=False,
        generator=torch.Generator().manual_seed(0),
    )
    measured(
        world.class_log_probs(x_0).argmax(1).double().mean().item(),
        share(gde.ddpm_sample, gradient_at="mean"),
    )


def test_exp_of_the_variance(measured):
    "What value-guided sampling in diffusers multiplies by, against Sigma, at step 500."
    variance = small_variance(LINEAR)[500].item()
    measured(math.exp(variance / 2) / variance)


def test_free_guidance_is_not_classifier_guidance_of_two():
    # eps + s (eps_y - eps) is guidance by the implicit classifier, whose gradient is the difference
    # of scores: w = s - 1 in papers that write (1 + w)
    e, e_y, s = torch.tensor(0.3), torch.tensor(0.8), 2.5
    assert torch.allclose(e + s * (e_y - e), (1 + (s - 1)) * e_y - (s - 1) * e)
    assert not torch.allclose(e + s * (e_y - e), (1 + s) * e_y - s * e)


def test_sign_of_the_unlabelled_part(measured):
    e, s = torch.tensor(0.3), 7.5
    assert torch.allclose(s * e + (1 - s) * e, e)
    measured(((s * e + (s - 1) * e) / e).item())
