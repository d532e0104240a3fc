"""What the page "exact guidance" refuses, and how it says so."""

import torch
from torch import nan

import guided_diffusion_edu as gde
from bad_input import LINE, NAMES, SHORT, T, X, cases, flat, is_refused, level
from guided_diffusion_edu.particles import (
    annealed_twist,
    effective_sample_size,
    power_twist,
    systematic,
)

TABLE = [  # (what, said, call)
    (
        "particle_sample with a twist of another shape",
        r"twist\(x_t, t\) must have shape \(2,\), got \(2, 2\)",
        lambda: gde.particle_sample(flat, SHORT, (2, 2), twist=lambda x, t: x),
    ),
    (
        "particle_sample of none",
        "shape must be",
        lambda: gde.particle_sample(flat, SHORT, (0, 2), twist=level),
    ),
    (
        "particle_sample from noise of another shape",
        r"x_T must have shape \(2, 2\)",
        lambda: gde.particle_sample(flat, SHORT, (2, 2), twist=level, x_T=torch.zeros(3, 2)),
    ),
    (
        "systematic with weights of nan",
        "log_weights must be",
        lambda: systematic(torch.tensor([0.0, nan])),
    ),
    (
        "effective_sample_size of nothing",
        "log_weights must be",
        lambda: effective_sample_size(torch.zeros(0)),
    ),
    (
        "effective_sample_size of a matrix",
        "log_weights must have shape",
        lambda: effective_sample_size(X),
    ),
    (
        "power_twist to an unknown class",
        r"y must be a class index in \[0, 2\), got 5",
        lambda: power_twist(NAMES, 5, 1.0)(X, T),
    ),
    (
        "annealed_twist to an unknown class",
        r"y must be a class index in \[0, 2\), got -1",
        lambda: annealed_twist(NAMES, -1, 1.0, LINE)(X, T),
    ),
]


@cases(TABLE)
def test_it_is_refused_in_one_line(said, call):
    is_refused(said, call)
