"""What the page "taylor proof" refuses, and how it says so."""

import torch
from torch import nan

import guided_diffusion_edu as gde
from bad_input import EPS, INF, LINE, NAMES, SHORT, WORLD, T, X, Y, cases, is_refused, level
from guided_diffusion_edu.guidance import second_order_step

TABLE = [  # (what, said, call)
    (
        "classifier_guidance without classes",
        "y must hold class indices, whole numbers .* got NoneType",
        lambda: gde.classifier_guidance(NAMES, None),
    ),
    (
        "classifier_guidance with classes of floats",
        "y must hold class indices, whole numbers .* got torch.float32",
        lambda: gde.classifier_guidance(NAMES, Y.float()),
    ),
    (
        "classifier_guidance with classes of bool",
        "y must hold class indices, whole numbers .* got torch.bool",
        lambda: gde.classifier_guidance(NAMES, Y.bool()),
    ),
    (
        "classifier_guidance with a class below 0",
        r"y must hold class indices in \[0, 2\), got -1 to 0",
        lambda: gde.classifier_guidance(NAMES, Y - 1)(X, T),
    ),
    (
        "classifier_guidance with an unknown class",
        r"y must hold class indices in \[0, 2\), got 0 to 2",
        lambda: gde.classifier_guidance(NAMES, 2 * Y)(X, T),
    ),
    (
        "classifier_guidance with classes for others",
        r"y must have shape \(2,\), one class per example, got \(1,\)",
        lambda: gde.classifier_guidance(NAMES, Y[:1])(X, T),
    ),
    (
        "classifier_guidance of scale nan",
        "scale must be a finite number, got nan",
        lambda: gde.classifier_guidance(NAMES, Y, nan),
    ),
    (
        "classifier_guidance of infinite scale",
        "scale must be a finite number, got inf",
        lambda: gde.classifier_guidance(NAMES, Y, INF),
    ),
    (
        "classifier_guidance by a classifier of another shape",
        r"classifier must give shape \(2, classes\), got \(2,\)",
        lambda: gde.classifier_guidance(level, Y)(X, T),
    ),
    (
        "log_prob_guidance of a matrix",
        r"log_prob must give shape \(2,\), one per example, got \(2, 2\)",
        lambda: gde.log_prob_guidance(lambda x, t: x)(X, T),
    ),
    (
        "log_prob_guidance of scale nan",
        "scale must be a finite number",
        lambda: gde.log_prob_guidance(level, nan),
    ),
    (
        "log_prob_guidance of what has no gradient",
        "log_prob must be differentiable in x_t, got what is not",
        lambda: gde.log_prob_guidance(lambda x, t: torch.zeros(len(x)))(X, T),
    ),
    (
        "guided_mean with a gradient of another shape",
        r"gradient must have the shape \(2, 2\) of mean, got \(2, 3\)",
        lambda: gde.guided_mean(X, 1.0, torch.zeros(2, 3)),
    ),
    (
        "second_order_step with a hessian too large",
        "hessian must be smaller",
        lambda: second_order_step(
            X, torch.eye(2).expand(2, 2, 2), X, 5 * torch.eye(2).expand(2, 2, 2)
        ),
    ),
    (
        "exact_guidance with an unknown class",
        r"y must hold classes of \[0, 1\], got \[4, 5\]",
        lambda: gde.exact_guidance(WORLD, LINE, Y + 4)(X, T),
    ),
    (
        "exact_guidance beyond the schedule",
        "t must hold steps",
        lambda: gde.exact_guidance(WORLD, LINE, Y)(X, T + 99),
    ),
    (
        "martingale_gap on nothing",
        "x_0 must hold at least 2 examples, got 0",
        lambda: gde.martingale_gap(NAMES, LINE, X[:0]),
    ),
    (
        "martingale_gap on one",
        "x_0 must hold at least 2 examples, got 1",
        lambda: gde.martingale_gap(NAMES, LINE, X[:1]),
    ),
    (
        "martingale_gap at one level",
        "steps must give at least 2 steps",
        lambda: gde.martingale_gap(NAMES, LINE, X, levels=1),
    ),
]


@cases(TABLE)
def test_it_is_refused_in_one_line(said, call):
    is_refused(said, call)


def test_extreme_scales_give_finite_samples_or_say_so():
    for scale in (1e-30, 1e-3, 1e3, 1e6, -5.0):
        x = gde.ddim_sample(
            EPS, SHORT, (2, 2), guidance=gde.classifier_guidance(NAMES, Y, scale), x_T=X + 0.1
        )
        assert x.isfinite().all(), scale
