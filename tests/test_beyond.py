"""Solvers, wishes and flows as users call them: evaluations counted, walks resumed, seeds, dtypes, learned variances, the shipped digits, and what is refused."""

import pytest
import torch

import guided_diffusion_edu as gde
from guided_diffusion_edu.lab.leaderboard import (
    METHODS,
    edm,
    edm_half,
    even,
    map_entry,
    particle_entry,
    sample_entry,
    sampling_floor,
    tilted_distribution,
)
from guided_diffusion_edu.lab.quadrature import total_variation

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
    stacked = lambda x, t, y=None: torch.cat([model(x, t, y), torch.full_like(x, 0.3)], 1)
    drawn = [
        sampler(m, s, (6, 2), x_T=noise(), clip=False, generator=torch.Generator().manual_seed(1))
        for m in (model, stacked)
    ]
    assert torch.equal(*drawn)
    wish = lambda x_0: x_0.square().sum(1)
    t = torch.full((6,), 300)
    assert torch.equal(
        gde.x_0_guidance(model, LINEAR, wish)(noise(), t),
        gde.x_0_guidance(stacked, LINEAR, wish)(noise(), t),
    )


@pytest.mark.parametrize("sampler", SOLVERS)
def test_refusals(sampler):
    s, model = gde.respace(LINEAR, 4), WORLD.denoiser(LINEAR)
    with pytest.raises(ValueError, match="x_T must have the shape"):
        sampler(model, s, (3, 2), x_T=noise())
    with pytest.raises(ValueError, match="finite gradients"):
        sampler(model, s, (6, 2), guidance=lambda x, t: x / 0)
    with pytest.raises(ValueError, match="steps must be at least 2"):
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
    digits, judge, y = gde.load_pretrained("digits"), gde.digits_judge(), torch.arange(30) % 10
    guidance = gde.classifier_guidance(digits.classifier, y, scale=2.0)
    x = gde.dpmpp_2m_sample(
        digits.model,
        gde.edm_steps(digits.schedule, 8),
        (30, 1, 8, 8),
        guidance=guidance,
        generator=torch.Generator().manual_seed(0),
    )
    assert (judge(x) == y).double().mean() > 0.75


def test_a_half_known_digit():
    digits = gde.load_pretrained("digits")
    image, upper = (
        gde.from_pixels(gde.load_data("digits", train=False).pixels[:6]),
        (torch.arange(8) < 4).float()[:, None],
    )
    guidance = gde.x_0_guidance(
        digits.model,
        digits.schedule,
        gde.measurement_loss(gde.known_pixels(upper), upper * image, 0.2),
    )
    guidance = gde.waiting(gde.corrected_guidance(guidance, digits.schedule, 0.2, spread=0.5), 700)
    x = gde.ddim_sample(
        digits.model,
        gde.respace(digits.schedule, 15),
        image.shape,
        guidance=guidance,
        eta=1.0,
        generator=torch.Generator().manual_seed(0),
    )
    miss = lambda a: (upper * (a - image)).square().mean().sqrt()
    assert miss(x) < 0.4 * miss(image.roll(1, 0)) and x.abs().max() < 1.5


LINE = gde.GaussianMixture(
    [[-1.0], [0.2], [1.2]], [0.2, 0.15, 0.25], weights=[0.3, 0.3, 0.4], labels=[0, 1, 0]
)


def test_every_entry_of_the_table_gives_a_law_and_gains_by_more_steps():
    small = METHODS | {
        "2M-SDE": sample_entry(gde.dpmpp_2m_sde_sample, edm, n=3000),
        "particles": particle_entry(n=3000),
    }
    table = gde.score_table(small, LINE, LINEAR, 0, budgets=(6, 48))
    assert table.keys() == METHODS.keys()
    for name, (few, many) in table.items():
        assert 0 < many < 0.6 * few < 0.6, name


def test_entries_by_samples_are_near_those_without():
    "The same sampler by 20,000 samples and by none; the particles, who draw from the true law, against the target."
    drawn, exact = (
        law(LINE, LINEAR, 1, 1.0, 12)
        for law in (sample_entry(gde.ddim_sample, even, n=20_000), METHODS["DDIM"])
    )
    assert total_variation(drawn, exact) < 1.5 * sampling_floor(exact, 20_000)
    found = particle_entry(n=4000)(LINE, LINEAR, 0, 2.0, 100)
    assert (
        found.sum().item() == pytest.approx(1)
        and total_variation(found, tilted_distribution(LINE, 0, 2.0, LINEAR.alpha_bars[0].item()))
        < 0.1
    )
    assert len(edm_half(LINEAR, 10)) == 6 and len(even(LINEAR, 10)) == len(edm(LINEAR, 10)) == 11


def test_particles_enter_with_their_weights(monkeypatch):
    "Two particles of which one weighs three times as much: its bin holds three quarters."
    two = gde.Particles(
        torch.tensor([[-1.0], [1.0]], dtype=DOUBLE),
        torch.tensor([0.25, 0.75], dtype=DOUBLE).log() + 7,
        0.0,
        [],
        torch.arange(2),
    )
    monkeypatch.setattr(
        "guided_diffusion_edu.lab.leaderboard.particle_sample", lambda *arguments, **options: two
    )
    law = particle_entry(n=2)(LINE, LINEAR, 0, 1.0, 6)
    assert law[:50].sum().item() == pytest.approx(0.25) and law[50:].sum().item() == pytest.approx(
        0.75
    )


def test_an_entry_is_a_line():
    table = gde.score_table(
        {"mine": map_entry(gde.ddim_sample, even), "theirs": METHODS["DDIM"]},
        LINE,
        LINEAR,
        0,
        budgets=(8,),
    )
    assert table["mine"] == table["theirs"] and 0 < table["mine"][0] < 1
