"""Samplers and guidance on the package as imported."""

import pytest
import torch

import guided_diffusion_edu as gde
from guided_diffusion_edu.diffusion import posterior_mean, small_variance

DOUBLE = torch.float64


@pytest.fixture(scope="module")
def world():
    return gde.four_corners()


@pytest.fixture(scope="module")
def linear():
    return gde.linear_schedule()


def draw(world, linear, sampler, steps=10, n=6, y=None, scale=1.0, seed=0, **options):
    guidance = (
        None
        if y is None
        else gde.classifier_guidance(world.classifier(linear), torch.full((n,), y), scale)
    )
    g = torch.Generator().manual_seed(seed)
    options = dict(clip=False, generator=g) | options
    options.setdefault("x_T", torch.randn(n, 2, dtype=DOUBLE, generator=g))
    return sampler(
        world.denoiser(linear), gde.respace(linear, steps), (n, 2), guidance=guidance, **options
    )


SAMPLERS = [gde.ddpm_sample, gde.ddim_sample]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_scale_zero_is_unguided_to_the_bit(world, linear, sampler):
    assert torch.equal(draw(world, linear, sampler, y=1, scale=0.0), draw(world, linear, sampler))
    assert not torch.equal(draw(world, linear, sampler, y=1), draw(world, linear, sampler))


def test_ddpm_step_by_hand(world, linear):
    """One walk of Algorithm 1, written out: gradient at x_t and t, small variance, noise drawn
    after x_T and at every step.
    """
    s, y = gde.respace(linear, 4), torch.zeros(3, dtype=torch.long)
    model, guidance = (
        world.denoiser(linear),
        gde.classifier_guidance(world.classifier(linear), y, 2.0),
    )
    g = torch.Generator().manual_seed(5)
    x = torch.randn(3, 2, generator=g)
    for i in (3, 2, 1, 0):
        t = torch.full((3,), s.timesteps[i].item())
        mean = posterior_mean(
            gde.x_0_from_eps(x, model(x, t), s.alpha_bars[i].item()),
            x,
            s.alpha_bars[i].item(),
            s.alpha_bars_prev[i].item(),
        )
        variance = small_variance(s)[i].item()
        noise = torch.randn(3, 2, generator=g)
        x = mean + variance * guidance(x, t) + (variance**0.5 * noise if i else 0)
    assert torch.allclose(
        gde.ddpm_sample(
            model,
            s,
            (3, 2),
            guidance=guidance,
            clip=False,
            generator=torch.Generator().manual_seed(5),
        ),
        x,
        atol=1e-6,
    )


def test_gradient_at_mean_asks_the_next_level_and_not_at_the_end(world, linear):
    asked = []

    def guidance(x, t):
        asked.append(t[0].item())
        return torch.zeros_like(x)

    s, model = gde.respace(linear, 5), world.denoiser(linear)
    gde.ddpm_sample(model, s, (2, 2), guidance=guidance, gradient_at="mean", clip=False)
    assert asked == s.timesteps.flip(0)[1:].tolist()
    asked.clear()
    gde.ddpm_sample(model, s, (2, 2), guidance=guidance, clip=False)
    assert asked == s.timesteps.flip(0).tolist()


def test_ddim_asks_at_x_t(world, linear):
    asked, s = [], gde.respace(linear, 4)

    def guidance(x, t):
        asked.append((x, t[0].item()))
        return 0.1 * x

    _, path = gde.ddim_sample(
        world.denoiser(linear), s, (2, 2), guidance=guidance, clip=False, trajectory=True
    )
    assert [t for _, t in asked] == s.timesteps.flip(0).tolist()
    for (x, _), x_t in zip(asked, path):
        assert torch.equal(x, x_t)


def test_eta_one_is_ddpm(world, linear):
    assert torch.allclose(
        draw(world, linear, gde.ddim_sample, eta=1.0),
        draw(world, linear, gde.ddpm_sample, variance="small"),
        atol=1e-8,
    )


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_seed_a_sample_and_a_path(world, linear, sampler):
    x_0, path = draw(world, linear, sampler, y=0, trajectory=True)
    assert torch.equal(x_0, draw(world, linear, sampler, y=0)) and not torch.equal(
        x_0, draw(world, linear, sampler, y=0, seed=1)
    )
    assert len(path) == 11 and torch.equal(path[-1], x_0)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_clipping_is_of_the_estimate(linear, sampler):
    def loud(x, t, y):
        return -5 * torch.ones_like(x)  # says that x_0 is far above 1

    assert (
        sampler(loud, gde.respace(linear, 3), (2, 1, 2, 2), x_T=torch.ones(2, 1, 2, 2)).max() <= 1
    )
    assert (
        sampler(
            loud, gde.respace(linear, 3), (2, 1, 2, 2), x_T=torch.ones(2, 1, 2, 2), clip=False
        ).max()
        > 1
    )


def test_learned_variance_is_found_and_used(linear):
    s, x_T = gde.respace(linear, 4), torch.randn(2, 1, 2, 2, dtype=DOUBLE)

    def model(v):
        return lambda x, t, y: torch.cat([0.1 * x, torch.full_like(x, v)], 1)

    def sample(model, **options):
        return gde.ddpm_sample(
            model, s, x_T.shape, x_T=x_T, generator=torch.Generator().manual_seed(0), **options
        )

    def plain(x, t, y):
        return 0.1 * x

    assert torch.allclose(
        sample(model(-1.0)), sample(plain, variance="small"), atol=1e-12
    )  # unguided, the first step's variance is never used
    assert torch.allclose(sample(model(1.0)), sample(plain, variance="large"), atol=1e-12)
    assert not torch.allclose(sample(model(0.0)), sample(plain))
    with pytest.raises(ValueError, match="variance must be learned by a model that gives twice"):
        sample(plain, variance="learned")
    with pytest.raises(ValueError, match="variance must be"):
        sample(plain, variance="medium")


def test_guided_samples_follow_the_exact_posterior(world, linear):
    """With enough steps, mean and spread of each corner are those of p(x | y), for all three guided
    samplers.
    """
    for sampler, options in (
        (gde.ddpm_sample, {}),
        (gde.ddpm_sample, dict(gradient_at="mean")),
        (gde.ddim_sample, {}),
    ):
        x = draw(world, linear, sampler, steps=200, n=1500, y=1, **options)
        corner = torch.cdist(x, world.means).argmin(-1)
        assert (world.labels[corner] == 1).double().mean() > 0.98
        for k in (2, 3):
            assert (
                abs((corner == k).double().mean() - 0.5) < 0.06
            )  # five standard errors of 1500 samples
            assert (x[corner == k].mean(0) - world.means[k]).abs().max() < 0.05
            assert (
                x[corner == k].var(0) - 0.22**2
            ).abs().max() < 0.01  # of each axis: four standard errors


def test_guidance_from_three_sources(world, linear):
    "The exact world in closed form, its classifier, and its log-probability guide alike."
    y = torch.ones(50, dtype=torch.long)

    def log_prob(x, t):
        return world.at(linear.alpha_bars[t[0]].item()).class_log_probs(x)[:, 1]

    ways = [
        gde.exact_guidance(world, linear, y, 2.0),
        gde.classifier_guidance(world.classifier(linear), y, 2.0),
        gde.log_prob_guidance(log_prob, 2.0),
    ]
    for sampler in SAMPLERS:

        def run(guidance):
            return sampler(
                world.denoiser(linear),
                gde.respace(linear, 20),
                (50, 2),
                guidance=guidance,
                clip=False,
                x_T=torch.ones(50, 2, dtype=DOUBLE),
                generator=torch.Generator().manual_seed(0),
            )

        first, *others = map(run, ways)
        for other in others:
            assert torch.allclose(first, other, atol=1e-8)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_estimate_can_be_edited(linear, sampler):
    """`edit_x_0` sees each step's estimate and time; what it gives is what the sampler goes on
    with, clipped afterwards.
    """
    s, seen = gde.respace(linear, 4), []

    def hold(x_0, t):
        seen.append(t[0].item())
        return torch.full_like(x_0, 0.25)

    x = sampler(lambda x, t, y: 0.1 * x, s, (2, 1, 2, 2), edit_x_0=hold)
    assert (
        torch.allclose(x, torch.full_like(x, 0.25), atol=1e-6)
        and seen == s.timesteps.flip(0).tolist()
    )
    assert (
        sampler(lambda x, t, y: 0.1 * x, s, (2, 1, 2, 2), edit_x_0=lambda x_0, t: 9 + x_0).max()
        <= 1
    )


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_dtype_is_that_of_x_T(linear, sampler):
    "Whatever the model and the guidance answer in."
    s = gde.respace(linear, 3)
    for dtype in (torch.bfloat16, torch.float32, DOUBLE):
        x = sampler(
            lambda x, t, y: 0.1 * x.float(),
            s,
            (2, 3),
            x_T=torch.ones(2, 3, dtype=dtype),
            guidance=lambda x, t: -x.double(),
        )
        assert x.dtype == dtype
    torch.set_default_dtype(DOUBLE)
    try:
        assert sampler(lambda x, t, y: 0.1 * x, s, (2, 3)).dtype == DOUBLE
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_scale_for_each_example(world, linear):
    "Also where the batch is as large as a picture is wide, and (B,) would broadcast over columns."
    x, t, y = torch.randn(4, 2, 4, 4), torch.full((4,), 300), torch.tensor([0, 1, 1, 0])

    def classifier(x, t):
        return x.flatten(1)[:, :2] * x.flatten(1)[:, 2:4]

    model, weaker = lambda x, t, y=None: 2 * x, lambda x, t, y=None: 0.5 * x**2
    scale = torch.tensor([0.0, 1.0, 2.0, 5.0])
    ways = [
        lambda s, n: gde.classifier_guidance(classifier, y[n], s)(x[n], t[n]),
        lambda s, n: gde.autoguided_model(model, weaker, s)(x[n], t[n]),
        lambda s, n: gde.rescaled_model(model, weaker, linear, s)(x[n], t[n]),
        lambda s, n: gde.projected_model(model, weaker, linear, s)(x[n], t[n]),
        lambda s, n: gde.implicit_guidance(
            lambda x, t, y: x * (1 if y is None else y[:, None, None, None] + 2), linear, y[n], s
        )(x[n], t[n]),
    ]
    for way in ways:
        one_by_one = torch.cat([way(scale[n].item(), slice(n, n + 1)) for n in range(4)])
        assert torch.allclose(way(scale, slice(None)), one_by_one, atol=1e-5) and torch.equal(
            way(scale.view(4, 1, 1, 1), slice(None)), way(scale, slice(None))
        )
        with pytest.raises(
            ValueError, match=r"scale must be a number or have shape \(4,\), got \(3,\)"
        ):
            way(scale[:3], slice(None))
        with pytest.raises(ValueError, match="scale must be a finite number, got nan"):
            way(float("nan"), slice(None))
        with pytest.raises(ValueError, match=r"scale must be a finite number, got \[1, 2\]"):
            way([1, 2], slice(None))
    of_each = gde.exact_guidance(world, linear, y, scale)(x[:, :, 0, 0], t)
    assert torch.allclose(
        of_each, scale[:, None] * gde.exact_guidance(world, linear, y)(x[:, :, 0, 0], t)
    )


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda f: f.__name__)
def test_guidance_in_inference_mode(sampler):
    digits, g = gde.load_pretrained("digits"), lambda: torch.Generator().manual_seed(0)
    s, y = gde.respace(digits.schedule, 3), torch.tensor([3, 7])

    def draw(y):
        return sampler(
            digits.model,
            s,
            (2, 1, 8, 8),
            guidance=gde.classifier_guidance(digits.classifier, y),
            generator=g(),
        )

    wanted = draw(y)
    with torch.inference_mode():
        assert torch.equal(draw(y), wanted) and torch.equal(draw(torch.tensor([3, 7])), wanted)


@pytest.mark.parametrize(
    "sampler",
    [*SAMPLERS, gde.dpmpp_2m_sample, gde.heun_sample, gde.sde_sample],
    ids=lambda f: f.__name__,
)
def test_who_gave_the_first_nan_is_said(world, linear, sampler):
    s, model = gde.respace(linear, 4), world.denoiser(linear)

    def lost(x, t, y=None):
        return model(x, t) / (t[0] != s.timesteps[2])  # from the second step on

    for guidance in (None, lambda x, t: -x):
        with pytest.raises(
            ValueError,
            match=f"model must give finite numbers, and at t = {s.timesteps[2]} it did not",
        ):
            sampler(lost, s, (2, 2), guidance=guidance)
    with pytest.raises(
        ValueError,
        match="x_t must stay finite, by what x_T and guidance do, "
        f"and at t = {s.timesteps[3]} it is not",
    ):
        sampler(model, s, (2, 2), x_T=torch.full((2, 2), torch.inf))


@pytest.mark.parametrize(
    "sampler", [*SAMPLERS, gde.dpmpp_2m_sample, gde.heun_sample], ids=lambda f: f.__name__
)
def test_an_edit_that_gives_nan_is_said(world, linear, sampler):
    "Also in the last step, after which nobody looks."
    s, model = gde.respace(linear, 4), world.denoiser(linear)
    for step in (0, 2):
        with pytest.raises(
            ValueError,
            match=f"edit_x_0 must give finite numbers, and at t = {s.timesteps[step]} it did not",
        ):
            sampler(model, s, (2, 2), edit_x_0=lambda x_0, t: x_0 / (t[0] != s.timesteps[step]))


def test_the_last_step_is_looked_at():
    with pytest.raises(
        ValueError, match="x_0 must be finite, by what guidance does in the last step"
    ):
        gde.ddim_sample(
            lambda x, t, y: x,
            gde.Schedule(torch.tensor([0.999])),
            (2, 2),
            clip=False,
            guidance=lambda x, t: torch.full_like(x, 3e38),
        )


def test_inversion_says_who_was_not_finite(world, linear):
    s, model, x = gde.respace(linear, 4), world.denoiser(linear), torch.ones(2, 2)
    with pytest.raises(ValueError, match="model must give finite numbers"):
        gde.ddim_invert(lambda x, t, y=None: x / 0, s, x)
    with pytest.raises(ValueError, match="guidance must give finite gradients"):
        gde.ddim_invert(model, s, x, guidance=lambda x, t: x / 0)
    with pytest.raises(ValueError, match="guidance must give a gradient of the shape"):
        gde.ddim_invert(model, s, x, guidance=lambda x, t: None)


def test_errors_name_the_argument(world, linear):
    model, s = world.denoiser(linear), gde.respace(linear, 3)
    for wrong, said in (
        (dict(gradient_at="mu"), "gradient_at must be"),
        (dict(x_T=torch.zeros(3, 2)), r"x_T must have shape \(2, 2\)"),
    ):
        with pytest.raises(ValueError, match=said):
            gde.ddpm_sample(model, s, (2, 2), **wrong)
    with pytest.raises(ValueError, match="eta must be between"):
        gde.ddim_sample(model, s, (2, 2), eta=2)
    with pytest.raises(ValueError, match="model must give 2 or 4 channels"):
        gde.ddim_sample(lambda x, t, y: x.repeat(1, 3), s, (2, 2))
    for wrong, said in (
        (dict(start=0), r"start must be in \[0, 2\] and come with x_T, got 0 without it"),
        (dict(start=3, x_T=torch.zeros(2, 2)), r"start must be in \[0, 2\]"),
        (dict(start=-1, x_T=torch.zeros(2, 2)), "start must be"),
        (dict(generator=[torch.Generator()]), "generator must be one, or a list of 2"),
        (dict(y=torch.zeros(3, dtype=torch.long)), r"y must have shape \(2,\)"),
        (
            dict(guidance=lambda x, t: x[:, :1]),
            r"guidance must give a gradient of the shape \(2, 2\)",
        ),
        (
            dict(guidance=lambda x, t: x / (t[0] - s.timesteps[1].item())),
            rf"guidance must give finite gradients, and at t = {s.timesteps[1]} it did not",
        ),
    ):
        for sampler in SAMPLERS:
            with pytest.raises(ValueError, match=said):
                sampler(model, s, (2, 2), **wrong)
    with pytest.raises(ValueError, match="log_prob must give shape"):
        gde.log_prob_guidance(lambda x, t: x)(torch.zeros(2, 2), torch.zeros(2))
    with pytest.raises(ValueError, match=r"y must hold classes of \[0, 1\], got \[5\]"):
        model(torch.zeros(2, 2), torch.zeros(2, dtype=torch.long), torch.tensor([0, 5]))
    with pytest.raises(ValueError, match=r"y must have shape \(2,\)"):
        world.log_prob(torch.zeros(2, 2), torch.tensor([0]))
    with pytest.raises(ValueError, match="between 1 and 1000"):
        gde.respace(linear, 1001)
    with pytest.raises(ValueError, match="timesteps must have shape"):
        gde.Schedule([0.1, 0.2], [0])
    guided = gde.classifier_guidance(world.classifier(linear), torch.tensor([0, 2]))
    with pytest.raises(ValueError, match=r"y must hold class indices in \[0, 2\), got 0 to 2"):
        guided(torch.zeros(2, 2), torch.tensor([1, 1]))
    with pytest.raises(ValueError, match=r"t must hold steps in \[0, 1000\)"):
        model(torch.zeros(1, 2), torch.tensor([1000]))
    with pytest.raises(ValueError, match=r"t must hold steps in \[0, 1000\), got -1"):
        linear.add_noise(torch.zeros(1, 2), torch.tensor([-1]), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="betas must lie strictly"):
        gde.Schedule([0.1, 1.0])
    with pytest.raises(ValueError, match="T must be more than 20"):
        gde.linear_schedule(20)
    with pytest.raises(ValueError, match="at least 2 steps"):
        gde.respace(linear, 1)
    with pytest.raises(ValueError, match="stds must be positive"):
        gde.GaussianMixture([[0.0]], [0.0])
    with pytest.raises(ValueError, match="labels must have shape"):
        gde.GaussianMixture([[0.0]], [1.0], labels=[0, 1])


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_networks_take_part_on_any_device(device):
    digits = gde.load_pretrained("digits")
    model, classifier = digits.model.to(device), digits.classifier.to(device)
    y = torch.arange(4, device=device)
    x = gde.ddim_sample(
        model,
        gde.respace(digits.schedule, 5),
        (4, 1, 8, 8),
        guidance=gde.classifier_guidance(classifier, y, 2.0),
        generator=torch.Generator().manual_seed(0),
    )
    assert x.device.type == device and x.shape == (4, 1, 8, 8) and x.isfinite().all()


@pytest.mark.gpu
def test_the_loop_of_a_sampler_never_waits_for_the_gpu():
    """A value that the host reads makes torch raise.

    (Where the walk begins and ends, y and the gradients are looked at once.)
    """
    digits = gde.load_pretrained("digits")
    model, classifier, y = (
        digits.model.cuda(),
        digits.classifier.cuda(),
        torch.arange(4, device="cuda"),
    )
    guidance, seen = gde.classifier_guidance(classifier, y, 2.0), []

    def watched(x_t, t):
        seen.append(t)
        torch.cuda.set_sync_debug_mode(
            "default" if len(seen) == 6 else "error"
        )  # from the first step's guidance to the last one's
        return guidance(x_t, t)

    try:
        gde.ddim_sample(model, gde.respace(digits.schedule, 6), (4, 1, 8, 8), guidance=watched)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(seen) == 6


def test_an_edit_keeps_shape_and_dtype(linear):
    s = gde.respace(linear, 4)

    def model(x, t, y):
        assert x.dtype == torch.float32
        return 0.1 * x

    def sample(edit):
        return gde.ddim_sample(model, s, (2, 1, 2, 2), edit_x_0=edit)

    assert sample(lambda x_0, t: x_0.double()).dtype == torch.float32
    for edit, got in ((lambda x_0, t: x_0[:1], r"\(1, 1, 2, 2\)"), (lambda x_0, t: None, "None")):
        with pytest.raises(ValueError, match=f"edit_x_0 must give a tensor of the shape.*{got}"):
            sample(edit)


def test_a_variance_of_ones_own(linear):
    "Numbers are used as they are given: those of the small variance give its samples."
    s, g = gde.respace(linear, 6), torch.Generator

    def sample(variance):
        return gde.ddpm_sample(
            lambda x, t, y: 0.1 * x, s, (3, 2), variance=variance, generator=g().manual_seed(0)
        )

    assert torch.equal(sample(small_variance(s)), sample("small"))
    assert not torch.equal(sample(s.betas), sample("small"))
    for wrong, said in ((-s.betas, "at least 0"), (s.betas[:3], r"shape \(6,\)")):
        with pytest.raises(ValueError, match=f"variance must .*{said}"):
            sample(wrong)


def test_one_bar_for_one_run(linear, capsys):
    gde.ddim_invert(
        lambda x, t, y: 0.1 * x, gde.respace(linear, 5), torch.zeros(1, 2), progress=True
    )
    assert "5/5" in (bar := capsys.readouterr().err) and "0/5" in bar and bar.count("\n") == 1
