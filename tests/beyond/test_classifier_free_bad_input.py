"""What the page "classifier free" refuses, and how it says so."""

from torch import nan

import guided_diffusion_edu as gde
from bad_input import EPS, INF, LINE, OF_CLASS, WORLD, T, X, Y, cases, flat, is_refused
from guided_diffusion_edu.classifier_free import drop_labels, tilted_mixture

TABLE = [  # (what, said, call)
    (
        "drop_labels by a share of 2",
        r"share must be between 0 and 1, got 2",
        lambda: drop_labels(Y, 2, 9),
    ),
    (
        "drop_labels by a share of nan",
        r"share must be between 0 and 1, got nan",
        lambda: drop_labels(Y, nan, 9),
    ),
    (
        "free_guidance without classes",
        "y must hold class indices",
        lambda: gde.cfg_model(OF_CLASS, None, 2.0),
    ),
    (
        "free_guidance of scale nan",
        "scale must be a finite number",
        lambda: gde.cfg_model(OF_CLASS, Y, nan),
    ),
    (
        "autoguidance of infinite scale",
        "scale must be a finite number",
        lambda: gde.autoguided_model(flat, flat, INF),
    ),
    (
        "autoguidance by models of two shapes",
        r"weaker must give 2 or 4 channels",
        lambda: gde.autoguided_model(flat, lambda x, t, y: x[:, :1], 2.0)(X, T),
    ),
    (
        "implicit_guidance of scale nan",
        "scale must be a finite number",
        lambda: gde.implicit_guidance(EPS, LINE, Y, nan),
    ),
    (
        "guided_model by guidance of another shape",
        r"gradient must have the shape .* of x_t",
        lambda: gde.guided_model(flat, LINE, lambda x, t: x[:, :1])(X, T),
    ),
    (
        "interval_guidance backwards",
        "first must be at most last",
        lambda: gde.interval_model(flat, flat, 10, 5),
    ),
    (
        "projected_guidance of scale nan",
        "scale must be a finite number",
        lambda: gde.projected_model(flat, flat, LINE, nan),
    ),
    ("tilted_world on one point", "points must", lambda: tilted_mixture(WORLD, 0, 1.0, X[:1])),
    (
        "tilted_world to an unknown class",
        r"y must be a class index in \[0, 2\), got 5",
        lambda: tilted_mixture(WORLD, 5, 1.0, X),
    ),
]


@cases(TABLE)
def test_it_is_refused_in_one_line(said, call):
    is_refused(said, call)
