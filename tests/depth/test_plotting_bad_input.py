"""What the page "plotting" refuses, and how it says so."""

import torch

import guided_diffusion_edu as gde
from bad_input import DATA, PIXELS, X, cases, is_refused

TABLE = [  # (what, said, call)
    ("image_grid of nothing", r"images must have shape", lambda: gde.image_grid(PIXELS[:0])),
    (
        "image_grid of two channels",
        r"images must have shape",
        lambda: gde.image_grid(torch.zeros(1, 2, 4, 4)),
    ),
    (
        "image_grid of whole numbers",
        "images must be of floating point",
        lambda: gde.image_grid(DATA.pixels),
    ),
    ("image_grid in rows of none", "columns must be", lambda: gde.image_grid(PIXELS, columns=-1)),
    (
        "image_grid magnified by a half",
        "zoom must be a whole number .* got 0.5",
        lambda: gde.image_grid(PIXELS, zoom=0.5),
    ),
    ("show_grid of a row", "images must have shape", lambda: gde.show_grid(X)),
    (
        "to_pixels of whole numbers",
        "images must be of floating point, got torch.uint8",
        lambda: gde.to_pixels(DATA.pixels),
    ),
]


@cases(TABLE)
def test_it_is_refused_in_one_line(said, call):
    is_refused(said, call)
