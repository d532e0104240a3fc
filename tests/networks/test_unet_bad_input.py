"""What the page "unet" refuses, and how it says so."""

import torch

import guided_diffusion_edu as gde
from bad_input import DATA, ENLARGER, NET, OF_CLASS, PIXELS, T, X, Y, cases, is_refused
from guided_diffusion_edu.unet import set_torso, survey

TABLE = [  # (what, said, call)
    (
        "UNetConfig of size 0",
        "image_size must be a whole number of at least 1, got 0",
        lambda: gde.UNetConfig(image_size=0),
    ),
    (
        "UNetConfig of a size that does not halve",
        "image_size must be a multiple of 8",
        lambda: gde.UNetConfig(image_size=20),
    ),
    (
        "UNetConfig with dropout 1",
        "dropout must be at least 0 and below 1",
        lambda: gde.UNetConfig(dropout=1.0),
    ),
    (
        "UNetConfig with no resolution",
        "channel_mult must have an entry",
        lambda: gde.UNetConfig(channel_mult=()),
    ),
    (
        "UNetConfig with unknown conditioning",
        "conditioning must be one of .* got 'film'",
        lambda: gde.UNetConfig(conditioning="film"),
    ),
    (
        "UNet with other channels",
        r"x_t must have shape \(B, 1, H, W\), got \(2, 3, 8, 8\)",
        lambda: NET(PIXELS.expand(-1, 3, -1, -1), T),
    ),
    ("UNet with a flat picture", "x_t must have shape", lambda: NET(PIXELS[0], T)),
    (
        "UNet with odd sides",
        "x_t must have sides that are multiples of 2",
        lambda: NET(torch.zeros(2, 1, 7, 7), T),
    ),
    ("UNet with t of another length", r"t must have shape \(2,\)", lambda: NET(PIXELS, T[:1])),
    (
        "UNet with pixels that are whole numbers",
        "x_t must be of floating point, got torch.uint8",
        lambda: NET(DATA.pixels[:2], T),
    ),
    (
        "UNet with a class it does not know of",
        "y must be None, as this model has no classes",
        lambda: NET(PIXELS, T, Y),
    ),
    (
        "UNet without the class it wants",
        "y must hold a class for each of 2 examples",
        lambda: OF_CLASS(PIXELS, T),
    ),
    (
        "UNet with a class beyond",
        r"y must hold classes in \[0, 3\), got 2 to 3",
        lambda: OF_CLASS(PIXELS, T, Y + 2),
    ),
    (
        "UNet with classes of floats",
        "y must hold a class for each .* torch.float32",
        lambda: OF_CLASS(PIXELS, T, Y.float()),
    ),
    (
        "UNet with pictures to enlarge that it cannot",
        "low_res must be None",
        lambda: NET(PIXELS, T, low_res=PIXELS),
    ),
    (
        "UNet without the pictures to enlarge",
        "low_res must be images to enlarge",
        lambda: ENLARGER(PIXELS, T),
    ),
    (
        "UNet with pictures to enlarge for others",
        r"low_res must be images to enlarge, of shape \(2, 1, h, w\), got \(1, 1, 8, 8\)",
        lambda: ENLARGER(PIXELS, T, low_res=PIXELS[:1]),
    ),
    ("set_torso to whole numbers", "dtype must be", lambda: set_torso(NET, torch.int8)),
    ("survey with other channels", "x_t must have shape", lambda: survey(NET, X, T)),
]


@cases(TABLE)
def test_it_is_refused_in_one_line(said, call):
    is_refused(said, call)
