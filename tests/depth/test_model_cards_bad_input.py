"""What the page "model cards" refuses, and how it says so."""

import torch

from bad_input import DATA, LINE, PIXELS, cases, flat, is_refused
from guided_diffusion_edu.model_card import nearest_distances, quarter_losses

TABLE = [  # (what, said, call)
    (
        "nearest_distances to nothing",
        "others must hold at least 1",
        lambda: nearest_distances(PIXELS, PIXELS[:0]),
    ),
    (
        "nearest_distances to others of another size",
        r"others must have shape \(N, 1, 8, 8\)",
        lambda: nearest_distances(PIXELS, torch.zeros(3, 1, 4, 4)),
    ),
    (
        "quarter_losses of no level",
        "levels must be",
        lambda: quarter_losses(flat, LINE, DATA, levels=0),
    ),
]


@cases(TABLE)
def test_it_is_refused_in_one_line(said, call):
    is_refused(said, call)
