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
    (
        "dataset_bits with too few classes",
        r"y must have shape \(2,\), got \(1,\)",
        lambda: dataset_bits(flat, SHORT, X, T[:1]),
    ),
    (
        "dataset_bits with an unknown variance",
        'variance must be "auto", "learned", "small" or "large".* got \'huge\'',
        lambda: dataset_bits(flat, SHORT, X, variance="huge"),
    ),
    (
        "SecondMomentSteps with more than all draws uniform",
        "uniform must be between 0 and 1, got 2",
        lambda: SecondMomentSteps(5, uniform=2),
    ),
]


@cases(TABLE)
def test_it_is_refused_in_one_line(said, call):
    is_refused(said, call)
