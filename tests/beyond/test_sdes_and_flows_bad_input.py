"""What the page "sdes and flows" refuses, and how it says so."""

import guided_diffusion_edu as gde
from bad_input import LINE, SHORT, T, X, cases, flat, is_refused, of_samplers
from guided_diffusion_edu.flows import flow_eps_model, flow_sample

TABLE = [  # (what, said, call)
    (
        "sde_sample with noise below 0",
        "kappa must not be negative, got -1",
        lambda: gde.sde_sample(flat, SHORT, (2, 2), kappa=-1),
    ),
    (
        "flow_sample with rising times",
        "times must fall",
        lambda: flow_sample(flat, [0.1, 0.9], X),
    ),
    (
        "flow_sample with no times",
        r"times must have shape \(N,\)",
        lambda: flow_sample(flat, [], X),
    ),
    (
        "flow_sample with times beyond 1",
        "times must fall and lie between 0 and 1, got 2",
        lambda: flow_sample(flat, [2.0, 0.5], X),
    ),
    (
        "diffusion_of beyond the schedule",
        "t must hold steps",
        lambda: flow_eps_model(flat, LINE)(X, T + 99),
    ),
    *of_samplers(gde.sde_sample),
]


@cases(TABLE)
def test_it_is_refused_in_one_line(said, call):
    is_refused(said, call)
