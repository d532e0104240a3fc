"""Bad input to what "model cards" exports: one clear error that names the argument, what came and what was wanted."""

import torch

import guided_diffusion_edu as gde
from bad_input import DATA, LINE, PIXELS, cases, flat, is_refused

TABLE = [  # (what, said, call)
    (
        "nearest_distances to nothing",
        "others must hold at least 1",
        lambda: gde.nearest_distances(PIXELS, PIXELS[:0]),
    ),
    (
        "nearest_distances to others of another size",
        r"others must have shape \(N, 1, 8, 8\)",
        lambda: gde.nearest_distances(PIXELS, torch.zeros(3, 1, 4, 4)),
    ),
    ("loss_on no level", "levels must be", lambda: gde.loss_on(flat, LINE, DATA, levels=0)),
]


@cases(TABLE)
def test_it_is_refused_in_one_line(said, call):
    is_refused(said, call)
