"""Schedules as users see them."""

import pytest

import guided_diffusion_edu as gde


@pytest.fixture(scope="module")
def linear():
    return gde.linear_schedule()


def test_a_schedule_shows_its_ends(linear):
    assert (
        repr(linear) == "Schedule(1000 steps, alpha_bar 0.9999 to 4.04e-05)" and len(linear) == 1000
    )
    assert repr(gde.respace(linear, [2])) == "Schedule(2 steps, alpha_bar 0.9999 to 4.04e-05)"
