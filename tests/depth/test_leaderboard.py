"""Every way to guide, measured by one table."""

import pytest
import torch

import guided_diffusion_edu as gde
from guided_diffusion_edu.lab.leaderboard import (
    METHODS,
    edm_levels,
    even_levels,
    half_edm_levels,
    map_entry,
    particle_entry,
    sample_entry,
    sampling_floor,
    score_table,
    tilted_distribution,
)
from guided_diffusion_edu.lab.quadrature import total_variation
from guided_diffusion_edu.particles import Particles

DOUBLE = torch.float64

LINEAR = gde.linear_schedule()

LINE = gde.three_modes()


def test_every_entry_of_the_table_gives_a_distribution_and_gains_by_more_steps():
    small = METHODS | {
        "2M-SDE": sample_entry(gde.dpmpp_2m_sde_sample, edm_levels, n=3000),
        "particles": particle_entry(n=3000),
    }
    table = score_table(small, LINE, LINEAR, 0, budgets=(6, 48))
    assert table.keys() == METHODS.keys()
    for name, (few, many) in table.items():
        assert 0 < many < 0.6 * few < 0.6, name


def test_entries_by_samples_are_near_those_without():
    """The same sampler by 20,000 samples and by none; the particles, which draw from the true
    distribution, against the target.
    """
    by_samples = sample_entry(gde.ddim_sample, even_levels, n=20_000)
    drawn, exact = (entry(LINE, LINEAR, 1, 1.0, 12) for entry in (by_samples, METHODS["DDIM"]))
    assert total_variation(drawn, exact) < 1.5 * sampling_floor(exact, 20_000)
    weighted = particle_entry(n=4000)(LINE, LINEAR, 0, 2.0, 100)
    target = tilted_distribution(LINE, 0, 2.0, LINEAR.alpha_bars[0].item())
    assert weighted.sum().item() == pytest.approx(1) and total_variation(weighted, target) < 0.1
    assert len(half_edm_levels(LINEAR, 10)) == 6
    assert len(even_levels(LINEAR, 10)) == len(edm_levels(LINEAR, 10)) == 11


def test_particles_enter_with_their_weights(monkeypatch):
    "Two particles of which one weighs three times as much: its bin holds three quarters."
    two = Particles(
        torch.tensor([[-1.0], [1.0]], dtype=DOUBLE),
        torch.tensor([0.25, 0.75], dtype=DOUBLE).log() + 7,
        0.0,
        [],
        torch.arange(2),
    )
    monkeypatch.setattr(
        "guided_diffusion_edu.lab.leaderboard.particle_sample", lambda *arguments, **options: two
    )
    masses = particle_entry(n=2)(LINE, LINEAR, 0, 1.0, 6)
    assert masses[:50].sum().item() == pytest.approx(0.25)
    assert masses[50:].sum().item() == pytest.approx(0.75)


def test_an_entry_is_a_line():
    table = score_table(
        {"mine": map_entry(gde.ddim_sample, even_levels), "theirs": METHODS["DDIM"]},
        LINE,
        LINEAR,
        0,
        budgets=(8,),
    )
    assert table["mine"] == table["theirs"] and 0 < table["mine"][0] < 1
