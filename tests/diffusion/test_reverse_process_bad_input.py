"""What the page "reverse process" refuses, and how it says so."""

import torch
from torch import nan

import guided_diffusion_edu as gde
from bad_input import LINE, SHORT, T, X, cases, flat, is_refused
from guided_diffusion_edu.diffusion import (
    bits_per_dim,
    bound_term,
    learned_log_variance,
    noise_like,
    reverse_gaussian,
)
from guided_diffusion_edu.losses import SecondMomentSteps

TABLE = [  # (what, said, call)
    (
        "noise_like of a list, with a list",
        "x must be a tensor, got list",
        lambda: noise_like([0, 0], [0, 0]),
    ),
    (
        "learned_log_variance beyond the schedule",
        r"t must hold steps",
        lambda: learned_log_variance(X, LINE, T + 99),
    ),
    (
        "simple_loss with t of another length",
        r"t must have shape",
        lambda: gde.simple_loss(flat, LINE, X, T[:1], X),
    ),
    (
        "simple_loss beyond the schedule",
        r"t must hold steps",
        lambda: gde.simple_loss(flat, LINE, X, T + 100, X),
    ),
    (
        "simple_loss with eps of another shape",
        "eps must have the shape",
        lambda: gde.simple_loss(flat, LINE, X, T, X[:, :1]),
    ),
    (
        "simple_loss of a model of another shape",
        r"model must give",
        lambda: gde.simple_loss(lambda x, t, y: x[:, :1], LINE, X, T, X),
    ),
    (
        "hybrid_loss of a model without variance",
        "model must give 4 channels to learn its variance, got 2",
        lambda: gde.hybrid_loss(flat, LINE, X, T, X),
    ),
    (
        "hybrid_loss beyond the schedule",
        "t must hold steps",
        lambda: gde.hybrid_loss(flat, LINE, X, T - 1, X),
    ),
    (
        "bound_term with output of another shape",
        "output must have 2 or 4 channels",
        lambda: bound_term(X[:, :1], LINE, X, X, T),
    ),
    (
        "step_law with output of another shape",
        "output must have 2 or 4 channels",
        lambda: reverse_gaussian(torch.zeros(2, 3), LINE, X, T),
    ),
    (
        "step_law beyond the schedule",
        "t must hold steps",
        lambda: reverse_gaussian(X, LINE, X, T + 99),
    ),
    (
        "noise_like with generators for others",
        "generator must be one, or a list of 2",
        lambda: noise_like(X, [torch.Generator()]),
    ),
    ("noise_like with a seed", "generator must be .* got int", lambda: noise_like(X, 0)),
    (
        "noise_like of whole numbers",
        "x must be of floating point, got torch.int64",
        lambda: noise_like(T),
    ),
    (
        "bits_per_dim of a model of another shape",
        "output must have 2 or 4 channels",
        lambda: bits_per_dim(lambda x, t, y: x[:, :1], SHORT, X),
    ),
    (
        "SecondMomentSteps told nan",
        "losses must be finite",
        lambda: SecondMomentSteps(5).update(T, torch.tensor([1.0, nan])),
    ),
    (
        "SecondMomentSteps told a step beyond",
        r"t must hold steps in \[0, 2\)",
        lambda: SecondMomentSteps(2).update(T + 1, torch.ones(2)),
    ),
    (
        "SecondMomentSteps drawn less than none",
        "batch must be a whole number",
        lambda: SecondMomentSteps(5).draw(-1),
    ),
]


@cases(TABLE)
def test_it_is_refused_in_one_line(said, call):
    is_refused(said, call)
