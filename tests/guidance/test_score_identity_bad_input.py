"""What the page "score identity" refuses, and how it says so."""

from types import SimpleNamespace

import pytest
import torch
from torch import nan

import guided_diffusion_edu as gde
from bad_input import SAMPLERS, SHORT, T, X, Y, cases, flat, is_refused, of_samplers

TABLE = [  # (what, said, call)
    (
        "guided_eps with a gradient of another shape",
        r"gradient must have the shape \(2, 2\) of eps, got \(2, 3\)",
        lambda: gde.guided_eps(X, 0.5, torch.zeros(2, 3)),
    ),
    (
        "ddpm_sample with an unknown place",
        "gradient_at must be one of",
        lambda: gde.ddpm_sample(flat, SHORT, (2, 2), gradient_at="mu"),
    ),
    (
        "ddpm_sample with an unknown variance",
        "variance must be \"auto\", .* got 'huge'",
        lambda: gde.ddpm_sample(flat, SHORT, (2, 2), variance="huge"),
    ),
    (
        "ddpm_sample with a variance never learned",
        "variance must be learned by a model that",
        lambda: gde.ddpm_sample(flat, SHORT, (2, 2), variance="learned"),
    ),
    (
        "ddim_sample with eta beyond 1",
        "eta must be between 0 and 1, got 2",
        lambda: gde.ddim_sample(flat, SHORT, (2, 2), eta=2),
    ),
    (
        "ddim_sample with eta nan",
        "eta must be between 0 and 1, got nan",
        lambda: gde.ddim_sample(flat, SHORT, (2, 2), eta=nan),
    ),
    (
        "ddim_invert of whole numbers",
        "x_0 must be of floating point",
        lambda: gde.ddim_invert(flat, SHORT, T[:, None]),
    ),
    (
        "ddim_invert of a model of another shape",
        "model must give 2 or 4 channels",
        lambda: gde.ddim_invert(lambda x, t, y: x[:, :1], SHORT, X),
    ),
    *of_samplers(gde.ddpm_sample, gde.ddim_sample),
]


@cases(TABLE)
def test_it_is_refused_in_one_line(said, call):
    is_refused(said, call)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_unknown_class_is_refused_before_the_network_runs(sampler):
    class Silent(torch.nn.Module):
        config = SimpleNamespace(num_classes=3)

        def forward(self, x_t, t, y=None):
            pytest.fail("the network was asked")

    for options in ({}, dict(x_T=X)):
        with pytest.raises(ValueError, match=r"y must hold classes in \[0, 3\), got 2 to 3"):
            sampler(Silent().double(), SHORT, (2, 2), y=Y + 2, **options)
