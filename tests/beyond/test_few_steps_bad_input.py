"""What the page "few steps" refuses, and how it says so."""

import guided_diffusion_edu as gde
from bad_input import LINE, cases, is_refused, of_samplers

TABLE = [  # (what, said, call)
    (
        "edm_steps of one",
        "steps must be a whole number of at least 2, got 1",
        lambda: gde.edm_steps(LINE, 1),
    ),
    ("edm_steps of too many", "steps must be few enough", lambda: gde.edm_steps(LINE, 1000)),
    ("edm_steps with rho 0", "rho must be .* got 0", lambda: gde.edm_steps(LINE, 5, rho=0)),
    *of_samplers(gde.dpmpp_2m_sample, gde.dpmpp_2m_sde_sample, gde.heun_sample),
]


@cases(TABLE)
def test_it_is_refused_in_one_line(said, call):
    is_refused(said, call)
