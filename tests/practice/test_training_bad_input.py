"""What the page "training" refuses, and how it says so."""

import tempfile

from torch import nan

import guided_diffusion_edu as gde
from bad_input import DATA, GUIDE, INF, JUDGE, LINE, cases, is_refused
from guided_diffusion_edu.training import watch_samples

TABLE = [  # (what, said, call)
    (
        "Recipe of no steps",
        "steps must be a whole number of at least 1, got 0",
        lambda: gde.Recipe(steps=0),
    ),
    ("Recipe of half a step", "steps must be .* got 1.5", lambda: gde.Recipe(steps=1.5)),
    ("Recipe with lr nan", "lr must be .* got nan", lambda: gde.Recipe(lr=nan)),
    ("Recipe with infinite lr", "lr must be .* got inf", lambda: gde.Recipe(lr=INF)),
    (
        "Recipe with an average that stands still",
        "ema_decay must be",
        lambda: gde.Recipe(ema_decay=1.0),
    ),
    (
        "Recipe with decay below 0",
        "weight_decay must be .* got -1",
        lambda: gde.Recipe(weight_decay=-1.0),
    ),
    (
        "Recipe with an unknown precision",
        "precision must be one of .* got 'int8'",
        lambda: gde.Recipe(precision="int8"),
    ),
    ("Recipe with a seed below 0", "seed must be .* got -1", lambda: gde.Recipe(seed=-1)),
    (
        "accuracy_by_level beyond the schedule",
        r"t must hold steps|levels must",
        lambda: gde.accuracy_by_level(JUDGE, LINE, DATA, levels=(100,)),
    ),
    (
        "watch_samples of too many steps",
        "steps must be between",
        lambda: watch_samples(".", LINE, (1, 1, 8, 8), steps=1000),
    ),
    (
        "write_half of a missing folder",
        "source must be a folder with trained weights",
        lambda: gde.write_half("/nowhere/at/all", "/nowhere/out"),
    ),
    (
        "train_classifier in uneven shares",
        "batch must be a multiple",
        lambda: gde.train_classifier(
            GUIDE, DATA, tempfile.mkdtemp(), gde.Recipe(batch=4, accumulate=3)
        ),
    ),
]


@cases(TABLE)
def test_it_is_refused_in_one_line(said, call):
    is_refused(said, call)
