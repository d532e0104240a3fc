"""What the page "forward process" refuses, and how it says so."""

import torch
from torch import nan

import guided_diffusion_edu as gde
from bad_input import INF, LINE, T, X, cases, is_refused
from guided_diffusion_edu import schedules
from guided_diffusion_edu.schedules import schedule_from_alpha_bar

TABLE = [  # (what, said, call)
    (
        "Schedule of nothing",
        r"betas must have shape \(T,\) with T > 0, got \(0,\)",
        lambda: gde.Schedule([]),
    ),
    (
        "Schedule of a matrix",
        r"betas must have shape .* got \(1, 1\)",
        lambda: gde.Schedule([[0.1]]),
    ),
    ("Schedule of a number", r"betas must have shape .* got \(\)", lambda: gde.Schedule(0.1)),
    (
        "Schedule with beta 0",
        "betas must lie strictly between 0 and 1, got 0 to",
        lambda: gde.Schedule([0.0, 0.1]),
    ),
    (
        "Schedule with beta 1",
        "betas must lie strictly between 0 and 1",
        lambda: gde.Schedule([0.1, 1.0]),
    ),
    (
        "Schedule with beta nan",
        "betas must lie strictly between 0 and 1",
        lambda: gde.Schedule([0.1, nan]),
    ),
    (
        "Schedule with infinite beta",
        "betas must lie strictly between 0 and 1",
        lambda: gde.Schedule([0.1, INF]),
    ),
    (
        "Schedule with too few timesteps",
        r"timesteps must have shape \(2,\)",
        lambda: gde.Schedule([0.1, 0.2], [0]),
    ),
    (
        "Schedule with timesteps of floats",
        "timesteps must be whole numbers",
        lambda: gde.Schedule([0.1, 0.2], [0.0, 1.5]),
    ),
    (
        "Schedule with timesteps of bool",
        "timesteps must be whole numbers",
        lambda: gde.Schedule([0.1, 0.2], [False, True]),
    ),
    (
        "Schedule with timesteps below 0",
        "timesteps must be whole numbers",
        lambda: gde.Schedule([0.1, 0.2], [-1, 0]),
    ),
    (
        "schedule_from_alpha_bar that stays",
        "alpha_bar must be positive and fall",
        lambda: schedule_from_alpha_bar(lambda u: 1 - 0.9 * u.clamp(min=0.5), T=10),
    ),
    ("respace to infinity", "steps must be a count", lambda: gde.respace(LINE, [INF])),
    (
        "cosine_schedule without end",
        r"T must be below 2 \*\* 63, got 9223372036854775808",
        lambda: gde.cosine_schedule(2**63),
    ),
    ("linear_schedule of no steps", "T must be .* got 0", lambda: gde.linear_schedule(0)),
    ("linear_schedule of few steps", "T must be .* got 20", lambda: gde.linear_schedule(20)),
    (
        "linear_schedule of a fraction",
        "T must be a whole number .* got 50.5",
        lambda: gde.linear_schedule(50.5),
    ),
    (
        "linear_schedule of a word",
        "T must be a whole number .* got '1000'",
        lambda: gde.linear_schedule("1000"),
    ),
    (
        "linear_schedule of nan",
        "T must be a whole number .* got nan",
        lambda: gde.linear_schedule(nan),
    ),
    ("cosine_schedule of no steps", "T must be .* got 0", lambda: gde.cosine_schedule(0)),
    ("cosine_schedule backwards", "T must be .* got -5", lambda: gde.cosine_schedule(-5)),
    (
        "cosine_schedule of None",
        "T must be a whole number .* got None",
        lambda: gde.cosine_schedule(None),
    ),
    (
        "schedule_from_alpha_bar of a rising curve",
        "alpha_bar must be positive and fall",
        lambda: schedule_from_alpha_bar(lambda u: 1 + u, 10),
    ),
    (
        "schedule_from_alpha_bar of nan",
        "alpha_bar must be positive and fall",
        lambda: schedule_from_alpha_bar(lambda u: u * nan, 10),
    ),
    (
        "schedule_from_alpha_bar of a negative curve",
        "alpha_bar must be positive and fall",
        lambda: schedule_from_alpha_bar(lambda u: -1 - u, 10),
    ),
    (
        "schedule_from_alpha_bar with a cap of 1",
        "max_beta must lie strictly between 0 and 1, got 1",
        lambda: schedule_from_alpha_bar(lambda u: 1 - u, 10, max_beta=1),
    ),
    ("log_snr of numbers", "schedule must be a Schedule, got list", lambda: gde.log_snr([0.1])),
    ("respace to none", "steps must be between 1 and 100", lambda: gde.respace(LINE, 0)),
    (
        "respace to fewer than none",
        "steps must be between 1 and 100",
        lambda: gde.respace(LINE, -3),
    ),
    ("respace to one", "steps must give at least 2 steps", lambda: gde.respace(LINE, 1)),
    ("respace to too many", "steps must be between 1 and 100", lambda: gde.respace(LINE, 101)),
    (
        "respace by no stride",
        "steps must be reachable by a whole stride for 'ddim99'",
        lambda: gde.respace(LINE, "ddim99"),
    ),
    ("respace by ddim0", "steps must be reachable", lambda: gde.respace(LINE, "ddim0")),
    (
        "respace by a word",
        "steps must be a count, .* got 'fast'",
        lambda: gde.respace(LINE, "fast"),
    ),
    ("respace by a gap", "steps must be a count", lambda: gde.respace(LINE, "10,,20")),
    (
        "respace by an empty list",
        r"steps must be a count.* got \[\]",
        lambda: gde.respace(LINE, []),
    ),
    ("respace by a fraction", "steps must be a count.* got 2.5", lambda: gde.respace(LINE, 2.5)),
    (
        "respace by sections of a fraction",
        r"steps must be a count.* got \[10, 2.5\]",
        lambda: gde.respace(LINE, [10, 2.5]),
    ),
    ("respace by True", "steps must be a count.* got True", lambda: gde.respace(LINE, True)),
    (
        "respace by more digits than Python reads",
        "steps must be a count",
        lambda: gde.respace(LINE, "9" * 5000),
    ),
    ("respace by None", "steps must be a count.* got None", lambda: gde.respace(LINE, None)),
    (
        "respace by more sections than steps",
        "steps must be between 1 and",
        lambda: gde.respace(LINE, [1] * 101),
    ),
    (
        "respace of no schedule",
        "schedule must be a Schedule, got Tensor",
        lambda: gde.respace(LINE.betas, 5),
    ),
    (
        "add_noise with t of another length",
        r"t must have shape \(2,\), one step per example, got \(1,\)",
        lambda: LINE.add_noise(X, T[:1], X),
    ),
    ("add_noise with a number for t", "t must .* got int", lambda: LINE.add_noise(X, 3, X)),
    (
        "add_noise with t of bool",
        "t must hold whole numbers, got torch.bool",
        lambda: LINE.add_noise(X, T.bool(), X),
    ),
    (
        "add_noise with t of floats",
        "t must hold whole numbers, got torch.float32",
        lambda: LINE.add_noise(X, T.float(), X),
    ),
    (
        "add_noise beyond the last step",
        r"t must hold steps in \[0, 100\), got 0 to 100",
        lambda: LINE.add_noise(X, torch.tensor([0, 100]), X),
    ),
    (
        "add_noise before the first step",
        r"t must hold steps in \[0, 100\), got -1 to 0",
        lambda: LINE.add_noise(X, torch.tensor([-1, 0]), X),
    ),
    (
        "add_noise with eps of another shape",
        r"eps must have the shape \(2, 2\) of x_0, got \(2, 3\)",
        lambda: LINE.add_noise(X, T, torch.zeros(2, 3)),
    ),
]


@cases(TABLE)
def test_it_is_refused_in_one_line(said, call):
    is_refused(said, call)


def test_a_step_outside_is_nan_where_nobody_looks():
    "What `per_example` does on a GPU, by its own formula on the CPU."

    class Elsewhere(torch.Tensor):
        is_cpu = False

    t = torch.tensor([0, -1, 100, 99]).as_subclass(Elsewhere)
    picked = schedules.per_example(LINE.betas, t, torch.zeros(4)).as_subclass(torch.Tensor)
    assert picked.isnan().tolist() == [False, True, True, False]
    assert picked[3] == LINE.betas[99].float()
