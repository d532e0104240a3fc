"""The guided chain by quadrature: what the chapter and findings report of whole chains, and that
each part uses all that it is told.
"""

import pytest
import torch

import guided_diffusion_edu as gde
from guided_diffusion_edu.diffusion import large_variance, small_variance
from guided_diffusion_edu.lab.quadrature import (
    class_distribution,
    eps_tilt,
    exact_class,
    exact_kernel,
    gaussian_kernel,
    guided_chain,
    hessian_tilt,
    late_mean_tilt,
    matched_kernel,
    mean_tilt,
    moments_tilt,
    no_tilt,
    product_tilt,
    total_variation,
    x_t_tilt,
)

DOUBLE = torch.float64
LINEAR = gde.linear_schedule()
LINE = gde.three_modes()
EXACTLY = exact_class(LINE, 1)
X, BELOW = torch.linspace(-1, 1, 5, dtype=DOUBLE), torch.linspace(-5, 5, 4001, dtype=DOUBLE)


def error(kernel, tilt, steps, label=1):
    s = gde.respace(LINEAR, steps)
    x, weights = guided_chain(LINE, s, label, kernel, tilt)
    return total_variation(weights, class_distribution(LINE, label, s.alpha_bars[0].item(), x))


@pytest.mark.parametrize("steps", [2, 5, 40])
@pytest.mark.parametrize("label", [0, 1])
def test_appendix_h_to_rounding(steps, label):
    tilt = product_tilt(exact_class(LINE, label))
    assert error(exact_kernel(LINE), tilt, steps, label) < 1e-8


def test_the_released_place_wins_with_the_exact_variance():
    """At 250 steps, as first measured: product, at the mean of level t, at x_t, at the mean of
    level t-1, second order.
    """
    tilts = [tilt(EXACTLY) for tilt in (product_tilt, late_mean_tilt, x_t_tilt, mean_tilt)]
    tilts.append(hessian_tilt(EXACTLY, "large"))
    errors = [error(matched_kernel(LINE), tilt, 250) for tilt in tilts]
    assert errors == sorted(errors) and 0.001 < errors[0] and errors[-1] < 0.015


def test_the_mean_wins_with_the_small_variance_and_few_steps():
    assert error(gaussian_kernel(LINE), mean_tilt(EXACTLY), 10) < 0.6 * error(
        gaussian_kernel(LINE), x_t_tilt(EXACTLY), 10
    )


def test_both_moments_make_the_step_of_a_gaussian_class_exact():
    assert error(matched_kernel(LINE), moments_tilt(EXACTLY, LINE), 10) < 1e-8
    assert (
        error(matched_kernel(LINE), moments_tilt(exact_class(LINE, 0), LINE), 25, label=0) > 1e-3
    )  # a class of two Gaussians: the step is none


def moments(kernel, tilt, s, i, scale=1.0):
    logs, mean = kernel(s, i, X, BELOW)
    weights = (logs + scale * tilt(s, i, X, mean, BELOW)).softmax(1)
    first = weights @ BELOW
    return first, weights @ BELOW**2 - first**2


SHORT = gde.respace(LINEAR, 25)


@pytest.mark.parametrize(
    ("variance", "table"),
    [
        ("small", small_variance(SHORT)),
        ("large", large_variance(SHORT)),
        (SHORT.betas / 2, SHORT.betas / 2),
    ],
    ids=["small", "large", "tensor"],
)
def test_a_kernel_has_the_variance_asked_for_and_the_shift_by_eps_is_exact(variance, table):
    s, i = SHORT, 12
    mean, measured = moments(gaussian_kernel(LINE, variance), no_tilt, s, i)
    assert torch.allclose(measured, table[i], rtol=1e-6)
    moved, _ = moments(gaussian_kernel(LINE, variance), eps_tilt(EXACTLY, variance), s, i)
    noised = LINE.at(s.alpha_bars[i].item())
    g = (noised.score(X[:, None], torch.ones(5, dtype=torch.long)) - noised.score(X[:, None]))[:, 0]
    assert torch.allclose(moved - mean, s.betas[i] / s.alphas[i].sqrt() * g, atol=1e-6)


def test_second_order_is_cut_where_it_does_not_exist():
    "Where a classifier bends up more than the kernel bends down, H is cut to 0.9 / variance."
    s, i, step = SHORT, 12, BELOW[1] - BELOW[0]
    for variance, table in (("small", small_variance(s)), ("large", large_variance(s))):
        for curvature in (500.0, -3.0):

            def bowl(alpha_bar, x):
                return 0.5 * curvature * x**2

            tilt = hessian_tilt(bowl, variance)(s, i, X, 0.1 * X, BELOW)
            bend = (tilt[:, 2:] - 2 * tilt[:, 1:-1] + tilt[:, :-2]) / step**2
            assert torch.allclose(
                bend,
                torch.tensor(min(curvature, 0.9 / table[i].item()), dtype=DOUBLE),
                rtol=1e-5,
            )


def test_the_scale_multiplies_the_tilt():
    s = gde.respace(LINEAR, 5)

    def strong(schedule, i, x, mean, below):
        return 3 * mean_tilt(EXACTLY)(schedule, i, x, mean, below)

    (_, a), (_, b) = (
        guided_chain(LINE, s, 1, gaussian_kernel(LINE), tilt, scale)
        for tilt, scale in ((mean_tilt(EXACTLY), 3.0), (strong, 1.0))
    )
    assert torch.allclose(a, b)
