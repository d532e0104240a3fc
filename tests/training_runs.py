"""A small training run, for the tests that look at what it leaves behind."""

from pathlib import Path

import torch

import guided_diffusion_edu as gde
from guided_diffusion_edu.checkpoints import read_tensors
from guided_diffusion_edu.diffusion import simple_loss
from guided_diffusion_edu.training import fit

SMALL = gde.UNetConfig(
    image_size=8,
    in_channels=1,
    channels=32,
    channel_mult=(1, 1),
    res_blocks=1,
    attention_resolutions=(),
    head_channels=32,
    learned_variance=False,
)

RECIPE = gde.Recipe(steps=4, batch=8, save_every=2, warmup=1, ema_decay=0.5)


def plain(model, schedule, x_0, y, t, eps):
    return simple_loss(model, schedule, x_0, t, eps)


def run(folder, loss=plain, recipe=RECIPE):
    torch.manual_seed(0)
    model = gde.UNet(SMALL)
    data, schedule, path = gde.load_data("digits"), gde.linear_schedule(), folder / "checkpoint"
    average, history = fit(model, loss, data, schedule, recipe, path, progress=False)
    return model, average, history[:, 0].tolist()


def tensors(folder):
    return read_tensors(Path(folder) / "checkpoint")[0]
