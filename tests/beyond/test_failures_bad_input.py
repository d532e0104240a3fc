"""What the page "failures" refuses, and how it says so."""

import torch

from bad_input import WORLD, X, cases, is_refused
from guided_diffusion_edu.diagnostics import dynamic_threshold, mode_shares, target_shares

TABLE = [  # (what, said, call)
    ("dynamic_threshold beyond 1", "quantile must be .* got 95", lambda: dynamic_threshold(95)),
    (
        "mode_shares of another dimension",
        r"x must have shape \(B, 2\)",
        lambda: mode_shares(WORLD, torch.zeros(2, 3)),
    ),
    (
        "target_shares to an unknown class",
        r"label must be a class index in \[0, 2\), got 5",
        lambda: target_shares(WORLD, 5, 1.0, X),
    ),
]


@cases(TABLE)
def test_it_is_refused_in_one_line(said, call):
    is_refused(said, call)
