"""What the tests of bad input share: a schedule, a mixture, small networks and data, files that
lie, and what a refusal is.

Each line of a table is a call that must not go through. It must end in a ValueError, TypeError or
OSError of one line that says what stands beside it.
"""

import json
import re
import struct
import zipfile
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nan

import guided_diffusion_edu as gde
from guided_diffusion_edu.evaluation import moments

INF = float("inf")


LINE = gde.linear_schedule(100)


SHORT = gde.respace(LINE, 3)


WORLD = gde.four_corners()


EPS, NAMES = WORLD.denoiser(LINE), WORLD.classifier(LINE)


X, T, Y = torch.zeros(2, 2), torch.tensor([0, 1]), torch.tensor([0, 1])


PIXELS = torch.zeros(2, 1, 8, 8)


SMALL = dict(
    image_size=8,
    in_channels=1,
    channels=8,
    channel_mult=(1, 1),
    res_blocks=1,
    attention_resolutions=(4,),
    head_channels=8,
    groups=4,
)


PLAN, GUIDE = (
    gde.UNetConfig(**SMALL, learned_variance=False),
    gde.ClassifierConfig(**SMALL, num_classes=3),
)


NET, JUDGE = gde.UNet(PLAN), gde.Classifier(GUIDE)


OF_CLASS = gde.UNet(replace(PLAN, num_classes=3))


ENLARGER = gde.UNet(replace(PLAN, low_res=True))


DATA = gde.Images(
    torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 2, 2]), ("a", "b", "c")
)


LAW = moments(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)))


SAMPLERS = [
    gde.ddpm_sample,
    gde.ddim_sample,
    gde.dpmpp_2m_sample,
    gde.dpmpp_2m_sde_sample,
    gde.heun_sample,
    gde.sde_sample,
    gde.recurrent_sample,
]


def flat(x, t, y=None):
    return torch.zeros_like(x)


def meta(x):
    return x.to("meta")


def level(x, t):
    return x.sum(1)


RAN = []  # what code from a file would leave a trace in


class Payload:
    def __reduce__(self):
        return (RAN.append, ("code from a file has run",))


def lying(header, data=b""):
    "A safetensors file whose header says `header`."
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + data


def archive(path, bomb=0, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(
                name.replace("__", "/").replace("DOTS", "..") + ".npy", content + bytes(bomb)
            )
    return path


def written(path, content):
    path.write_bytes(content)
    return path


def trained(path, **more):
    recipe = gde.Recipe(steps=4, batch=4, warmup=1, save_every=2)
    return gde.train_diffusion(PLAN, DATA, path, recipe, progress=False, **more)


def interrupted(*_, **__):
    raise KeyboardInterrupt


WHOLE = "path must be a whole file of tensors"


OF_SAMPLERS = [  # what every sampler says, with which arguments
    (
        "no schedule",
        "schedule must be a Schedule, got list",
        lambda sample: sample(flat, [0.1], (2, 2)),
    ),
    ("a shape of no axes", "shape must be", lambda sample: sample(flat, SHORT, ())),
    ("a shape without channels", "shape must be", lambda sample: sample(flat, SHORT, (4,))),
    (
        "a class that the model has not",
        r"y must hold classes in \[0, 3\), got 0 to 3",
        lambda sample: sample(OF_CLASS, SHORT, (2, 1, 8, 8), y=torch.tensor([0, 3])),
    ),
    ("a shape of fractions", "shape must be", lambda sample: sample(flat, SHORT, (2, 2.5))),
    ("a shape below 0", "shape must be", lambda sample: sample(flat, SHORT, (-1, 2))),
    ("a number for a shape", "shape must be", lambda sample: sample(flat, SHORT, 4)),
    (
        "x_T of another shape",
        r"x_T must have shape \(2, 2\)",
        lambda sample: sample(flat, SHORT, (2, 2), x_T=torch.zeros(3, 2)),
    ),
    (
        "x_T of whole numbers",
        "x_T must be of floating point, got torch.int64",
        lambda sample: sample(flat, SHORT, (2, 1), x_T=T[:, None]),
    ),
    (
        "a start without x_T",
        r"start must be in \[0, 2\] and come with x_T",
        lambda sample: sample(flat, SHORT, (2, 2), start=0),
    ),
    (
        "a start beyond the end",
        r"start must be in \[0, 2\]",
        lambda sample: sample(flat, SHORT, (2, 2), start=3, x_T=X),
    ),
    (
        "classes for others",
        r"y must have shape \(2,\)",
        lambda sample: sample(flat, SHORT, (2, 2), y=Y[:1]),
    ),
    (
        "a class that is no tensor",
        "y must hold class indices, whole numbers .* got int",
        lambda sample: sample(flat, SHORT, (2, 2), y=1),
    ),
    (
        "a class beyond the model",
        r"y must hold classes in \[0, 3\), got 2 to 3",
        lambda sample: sample(OF_CLASS, SHORT, PIXELS.shape, y=Y + 2),
    ),
    (
        "a model of three times the channels",
        "model must give 2 or 4 channels",
        lambda sample: sample(lambda x, t, y: x.repeat(1, 3), SHORT, (2, 2)),
    ),
    (
        "a model of half the pictures",
        "model must give",
        lambda sample: sample(lambda x, t, y: x[:1], SHORT, (2, 2)),
    ),
    (
        "a model that gives no tensor",
        "model must give a tensor, got NoneType",
        lambda sample: sample(lambda x, t, y: None, SHORT, (2, 2)),
    ),
    (
        "guidance of another shape",
        r"guidance must give a gradient of the shape \(2, 2\)",
        lambda sample: sample(flat, SHORT, (2, 2), guidance=lambda x, t: x[:, :1]),
    ),
    (
        "guidance of nan",
        "guidance must give finite gradients",
        lambda sample: sample(flat, SHORT, (2, 2), guidance=lambda x, t: x * nan),
    ),
    (
        "a seed for a generator",
        "generator must be",
        lambda sample: sample(flat, SHORT, (2, 2), generator=0),
    ),
    (
        "too few generators",
        "generator must be one, or a list of 2",
        lambda sample: sample(flat, SHORT, (2, 2), generator=[torch.Generator()]),
    ),
]


def of_samplers(*samplers):
    "What each of these samplers refuses."
    return [
        (f"{sampler.__name__} with {what}", said, partial(call, sampler))
        for sampler in samplers
        for what, said, call in OF_SAMPLERS
    ]


def cases(table):
    "The rows of a table (what, said, call) as parameters of a test."
    return pytest.mark.parametrize(
        "said, call", [pytest.param(said, call, id=what) for what, said, call in table]
    )


def is_refused(said, call):
    with pytest.raises((ValueError, TypeError, OSError)) as caught:
        call()
    message = str(caught.value)
    assert re.search(said, message) and "\n" not in message, message


def file_is_refused(folder, said, use):
    "One line, nothing run, nothing half written."
    path = folder / "inside" / "file.pt"
    path.parent.mkdir()
    with pytest.raises((ValueError, OSError)) as caught:
        use(path)
    assert re.search(said, str(caught.value)) and "\n" not in str(caught.value), caught.value
    assert not RAN and [p.name for p in folder.iterdir()] == ["inside"]
    assert not [p for p in path.parent.rglob(".*")]
