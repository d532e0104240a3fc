"""Bad input to what "what to predict" exports: one clear error that names the argument, what came and what was wanted."""

import guided_diffusion_edu as gde
from bad_input import LINE, SHORT, T, X, cases, flat, is_refused

TABLE = [  # (what, said, call)
    (
        "bound_loss beyond the schedule",
        "t must hold steps",
        lambda: gde.bound_loss(flat, LINE, X, T + 99, X),
    ),
    ("SecondMomentSteps of no steps", "T must be a whole number", lambda: gde.SecondMomentSteps(0)),
    (
        "dataset_bits of one image",
        "x_0 must hold at least 2 images, got 1",
        lambda: gde.dataset_bits(flat, SHORT, X[:1]),
    ),
    (
        "dataset_bits in batches of none",
        "batch must be a whole number .* got 0",
        lambda: gde.dataset_bits(flat, SHORT, X, batch=0),
    ),
]


@cases(TABLE)
def test_it_is_refused_in_one_line(said, call):
    is_refused(said, call)
