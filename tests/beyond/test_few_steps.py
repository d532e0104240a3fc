"""Solvers as users call them: evaluations counted, walks resumed, edits, refusals."""

import pytest
import torch

import guided_diffusion_edu as gde
from guided_diffusion_edu.data import digits_evaluation_classifier

DOUBLE = torch.float64

SOLVERS = [
    gde.dpmpp_2m_sample,
    gde.dpmpp_2m_sde_sample,
    gde.heun_sample,
    gde.recurrent_sample,
    gde.sde_sample,
]

LINEAR = gde.linear_schedule()

WORLD = gde.four_corners()


def noise(n=6, seed=0):
    return torch.randn(n, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sampler, evaluations", list(zip(SOLVERS, (9, 9, 17, 36, 9))))
def test_evaluations_of_network_and_guidance(sampler, evaluations):
    asked = dict(model=[], guidance=[])

    def counted(name, function):
        def call(x, t, y=None):
            asked[name].append(t[0].item())
            return function(x, t) if name == "guidance" else function(x, t, y)

        return call

    s, y = gde.respace(LINEAR, 9), torch.zeros(6, dtype=torch.long)
    model, guidance = (
        counted("model", WORLD.denoiser(LINEAR)),
        counted("guidance", gde.exact_guidance(WORLD, LINEAR, y)),
    )
    sampler(model, s, (6, 2), guidance=guidance, clip=False)
    assert (
        len(asked["model"]) == len(asked["guidance"]) == evaluations
        and asked["model"] == asked["guidance"]
    )
    assert set(asked["model"]) == set(s.timesteps.tolist())


@pytest.mark.parametrize("sampler", SOLVERS)
def test_seed_scale_zero_trajectory_and_dtype(sampler):
    s, y, model = gde.respace(LINEAR, 6), torch.zeros(6, dtype=torch.long), WORLD.denoiser(LINEAR)

    def draw(guidance=None, seed=1, **options):
        return sampler(
            model,
            s,
            (6, 2),
            guidance=guidance,
            clip=False,
            generator=torch.Generator().manual_seed(seed),
            **options,
        )

    assert (
        torch.equal(draw(), draw())
        and not torch.equal(draw(), draw(seed=2))
        and draw().dtype == torch.float32
    )
    assert torch.equal(draw(gde.exact_guidance(WORLD, LINEAR, y, 0.0)), draw())
    x_0, path = draw(x_T=noise(), trajectory=True)
    assert (
        len(path) == 7
        and torch.equal(path[-1], x_0)
        and torch.equal(path[0], noise())
        and x_0.dtype == DOUBLE
    )
    assert not torch.equal(draw(y=y), draw())


@pytest.mark.parametrize("sampler", [gde.heun_sample, gde.dpmpp_2m_sample])
def test_a_walk_resumed_on_the_way(sampler):
    s, model = gde.edm_steps(LINEAR, 8), WORLD.denoiser(LINEAR)
    x_0, path = sampler(model, s, (6, 2), x_T=noise(), clip=False, trajectory=True)
    again = sampler(model, s, (6, 2), x_T=path[3], start=4, clip=False)
    if sampler is gde.heun_sample:
        assert torch.equal(again, x_0)
    else:
        assert (
            not torch.equal(again, x_0) and (again - x_0).abs().max() < 0.5
        )  # its memory is gone: one step of order 1


@pytest.mark.parametrize("sampler", SOLVERS)
def test_learned_variances_are_put_aside(sampler):
    s, model = gde.respace(LINEAR, 5), WORLD.denoiser(LINEAR)

    def stacked(x, t, y=None):
        return torch.cat([model(x, t, y), torch.full_like(x, 0.3)], 1)

    drawn = [
        sampler(m, s, (6, 2), x_T=noise(), clip=False, generator=torch.Generator().manual_seed(1))
        for m in (model, stacked)
    ]
    assert torch.equal(*drawn)

    def wish(x_0):
        return x_0.square().sum(1)

    t = torch.full((6,), 300)
    assert torch.equal(
        gde.x_0_guidance(model, LINEAR, wish)(noise(), t),
        gde.x_0_guidance(stacked, LINEAR, wish)(noise(), t),
    )


@pytest.mark.parametrize("sampler", SOLVERS)
def test_refusals(sampler):
    s, model = gde.respace(LINEAR, 4), WORLD.denoiser(LINEAR)
    with pytest.raises(ValueError, match="x_T must have shape"):
        sampler(model, s, (3, 2), x_T=noise())
    with pytest.raises(ValueError, match="finite gradients"):
        sampler(model, s, (6, 2), guidance=lambda x, t: x / 0)
    with pytest.raises(ValueError, match="steps must be a whole number of at least 2"):
        gde.edm_steps(LINEAR, 1)


def test_clip_and_edit():
    s, model = gde.edm_steps(LINEAR, 6), WORLD.denoiser(LINEAR)
    for sampler in SOLVERS[:4]:
        assert sampler(model, s, (6, 2), x_T=9 * noise()).abs().max() <= 1
        known = sampler(
            model,
            s,
            (6, 2),
            x_T=noise(),
            clip=False,
            edit_x_0=gde.replace_known(
                torch.tensor([0.5, 0.0], dtype=DOUBLE), torch.tensor([True, False])
            ),
        )
        assert torch.allclose(known[:, 0], torch.tensor(0.5, dtype=DOUBLE)) and not torch.allclose(
            known[:, 1], torch.tensor(0.0, dtype=DOUBLE)
        )


def test_digits_in_eight_evaluations():
    digits, judge, y = (
        gde.load_pretrained("digits"),
        digits_evaluation_classifier(),
        torch.arange(30) % 10,
    )
    guidance = gde.classifier_guidance(digits.classifier, y, scale=2.0)
    x = gde.dpmpp_2m_sample(
        digits.model,
        gde.edm_steps(digits.schedule, 8),
        (30, 1, 8, 8),
        guidance=guidance,
        generator=torch.Generator().manual_seed(0),
    )
    assert (judge(x) == y).double().mean() > 0.75
