"""What the page "what to predict" refuses, and how it says so."""

from bad_input import LINE, SHORT, T, X, cases, flat, is_refused
from guided_diffusion_edu.losses import SecondMomentSteps, bound_loss, dataset_bits

TABLE = [  # (what, said, call)
    (
        "bound_loss beyond the schedule",
        "t must hold steps",
        lambda: bound_loss(flat, LINE, X, T + 99, X),
    ),
    ("SecondMomentSteps of no steps", "T must be a whole number", lambda: SecondMomentSteps(0)),
    (
        "dataset_bits of one image",
        "x_0 must hold at least 2 images, got 1",
        lambda: dataset_bits(flat, SHORT, X[:1]),
    ),
    (
        "dataset_bits in batches of none",
        "batch must be a whole number .* got 0",
        lambda: dataset_bits(flat, SHORT, X, batch=0),
    ),
]


@cases(TABLE)
def test_it_is_refused_in_one_line(said, call):
    is_refused(said, call)
