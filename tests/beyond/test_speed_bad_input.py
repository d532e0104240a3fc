"""What the page "speed" refuses, and how it says so."""

import torch

import guided_diffusion_edu as gde
from bad_input import cases, flat, is_refused
from guided_diffusion_edu.performance import (
    CudaGraph,
    guided_cost,
    matmul_rate,
    speedup,
    utilisation,
)

TABLE = [  # (what, said, call)
    (
        "interval_guidance to the wrong end",
        "first must be at most last",
        lambda: gde.interval_guidance(flat, 10, 5),
    ),
    ("guided_cost share", "share must be", lambda: guided_cost(1.0, 1.0, share=1.5)),
    ("speedup share", "share must be", lambda: speedup(-0.1, 2.0)),
    ("speedup times", "times must be above 0", lambda: speedup(0.5, 0.0)),
    ("utilisation seconds", "seconds must be above 0", lambda: utilisation(1.0, 0.0, 1.0)),
    ("matmul_rate rounds", "rounds must be", lambda: matmul_rate(8, rounds=0)),
    ("recorded nothing", "function must be callable", lambda: CudaGraph(None)),
    (
        "fast dtype",
        "dtype must be one of",
        lambda: gde.fast(
            gde.UNet(
                gde.UNetConfig(
                    image_size=8,
                    channels=32,
                    channel_mult=(1,),
                    attention_resolutions=(),
                    head_channels=32,
                )
            ),
            torch.float64,
        ),
    ),
]


@cases(TABLE)
def test_it_is_refused_in_one_line(said, call):
    is_refused(said, call)
