"""What the page "training free" refuses, and how it says so."""

import torch
from torch import nan

import guided_diffusion_edu as gde
from bad_input import (
    EPS,
    LINE,
    NAMES,
    SHORT,
    WORLD,
    T,
    X,
    Y,
    cases,
    flat,
    is_refused,
    level,
    of_samplers,
)
from guided_diffusion_edu.training_free import (
    class_loss,
    colour,
    conjunction,
    corrected_guidance,
    disjunction,
    edges,
    low_pass,
    measured_guidance,
    measurement_loss,
)

TABLE = [  # (what, said, call)
    (
        "recurrent_sample taken no times",
        "repeats must be a whole number of at least 1, got 0",
        lambda: gde.recurrent_sample(flat, SHORT, (2, 2), repeats=0),
    ),
    (
        "x_0_guidance of scale nan",
        "scale must be a finite number",
        lambda: gde.x_0_guidance(flat, LINE, level, nan),
    ),
    (
        "x_0_guidance by a loss of another shape",
        r"loss must give shape|log_prob must give shape",
        lambda: gde.x_0_guidance(EPS, LINE, lambda x: x)(X, T),
    ),
    (
        "measurement_loss without error",
        "r must be positive, got 0",
        lambda: measurement_loss(lambda x: x, X, 0.0),
    ),
    (
        "measured_guidance without error",
        "r must be positive, got -1",
        lambda: measured_guidance(WORLD, LINE, torch.ones(1, 2), torch.zeros(1), -1.0),
    ),
    (
        "mended without error",
        "r must be positive",
        lambda: corrected_guidance(level, LINE, 0.0),
    ),
    ("low_pass by 0", "factor must be a whole number .* got 0", lambda: low_pass(0)),
    ("colour of a row", r"x_0 must have shape \(B, C, H, W\)", lambda: colour(X)),
    ("edges of a row", r"x_0 must have shape \(B, C, H, W\)", lambda: edges(X)),
    (
        "class_loss with classes of floats",
        "y must hold class indices",
        lambda: class_loss(NAMES, Y.float()),
    ),
    ("all_of nothing", "losses must", lambda: conjunction()),
    ("any_of nothing", "losses must", lambda: disjunction()),
    *of_samplers(gde.recurrent_sample),
]


@cases(TABLE)
def test_it_is_refused_in_one_line(said, call):
    is_refused(said, call)
