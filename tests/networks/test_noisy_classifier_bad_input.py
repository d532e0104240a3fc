"""What the page "noisy classifier" refuses, and how it says so."""

import torch

import guided_diffusion_edu as gde
from bad_input import DATA, JUDGE, LINE, PIXELS, T, Y, cases, is_refused

TABLE = [  # (what, said, call)
    (
        "ClassifierConfig without classes",
        "num_classes must be a whole number",
        lambda: gde.ClassifierConfig(num_classes=None),
    ),
    (
        "ClassifierConfig with classes of floats",
        "num_classes must be a whole number of at least 1, got 2.5",
        lambda: gde.ClassifierConfig(num_classes=2.5),
    ),
    (
        "Classifier with another size",
        "x_t must be images of 8 x 8",
        lambda: JUDGE(torch.zeros(2, 1, 16, 16), T),
    ),
    (
        "Classifier with whole numbers",
        "x_t must be of floating point",
        lambda: JUDGE(DATA.pixels[:2], T),
    ),
    (
        "Classifier with t of another length",
        r"t must have shape \(2,\)",
        lambda: JUDGE(PIXELS, T[:1]),
    ),
    (
        "classifier_loss with an unknown class",
        r"y must hold classes in \[0, 3\), got 2 to 3",
        lambda: gde.classifier_loss(JUDGE, LINE, PIXELS, Y + 2, T, PIXELS),
    ),
    (
        "classifier_loss with classes for others",
        r"y must have shape \(2,\)",
        lambda: gde.classifier_loss(JUDGE, LINE, PIXELS, Y[:1], T, PIXELS),
    ),
]


@cases(TABLE)
def test_it_is_refused_in_one_line(said, call):
    is_refused(said, call)
