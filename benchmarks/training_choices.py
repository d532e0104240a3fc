"""Three choices of training, measured on the digits: the classifier's noise, AdaGN, a conditional
base.

python benchmarks/training_choices.py [--out results/training-choices.json]

Ten minutes on one core. Every run has the same small network, recipe and number of steps; what is
repeated over seeds is trained anew with each.
"""

import argparse
import json
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch.nn import functional as F

import guided_diffusion_edu as gde
from guided_diffusion_edu.checkpoints import write_text
from guided_diffusion_edu.data import digits_evaluation_classifier, within_class_std
from guided_diffusion_edu.provenance import provenance
from guided_diffusion_edu.training import diffusion_loss, fit

SMALL = dict(
    image_size=8,
    in_channels=1,
    channels=32,
    head_channels=32,
    channel_mult=(1, 1),
    attention_resolutions=(4,),
    groups=8,
)
UNET = gde.UNetConfig(**SMALL, res_blocks=1, learned_variance=False)
CLASSIFIER = gde.ClassifierConfig(**SMALL, res_blocks=1, num_classes=10, dropout=0.1)
RECIPE = gde.Recipe(steps=500, batch=64, ema_decay=0.99, save_every=500)
SEEDS, SCALES, COUNT = (0, 1, 2), (0.0, 1.0, 2.0, 4.0), 300
SCHEDULE = gde.linear_schedule()
STEPS = gde.respace(SCHEDULE, 25)
DATA, HELD_OUT = gde.load_data("digits"), gde.load_data("digits", train=False)
EVALUATION_CLASSIFIER = digits_evaluation_classifier()


def train(network, config, loss, recipe):
    "The averaged network, in `eval` mode."
    torch.manual_seed(recipe.seed)
    model = network(config)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint"
        average, _ = fit(model, loss, DATA, SCHEDULE, recipe, path, progress=False)
    return average.eval().requires_grad_(False)


def train_unet(seed, **fields):
    config, recipe = replace(UNET, **fields), replace(RECIPE, seed=seed)
    return train(gde.UNet, config, diffusion_loss(config, recipe), recipe)


def clean_loss(classifier, schedule, x_0, y, t, eps):
    "Cross-entropy on pictures without noise: the classifier that one has at hand."
    return F.cross_entropy(classifier(x_0, torch.zeros_like(t)), y, reduction="none")


def as_if_clean(classifier):
    return lambda x, t: classifier(x, torch.zeros_like(t))


def classes_for(model, y):
    "`y` if the model is class-conditional."
    return y if model.config.num_classes else None


@torch.no_grad()
def held_out_loss(model):
    "Mean squared error of the noise on the held-out digits, over 20 even timesteps, fixed noise."
    g, x_0 = torch.Generator().manual_seed(0), gde.from_pixels(HELD_OUT.pixels)
    y, losses = classes_for(model, HELD_OUT.labels), []
    for level in range(25, 1000, 50):
        t, eps = torch.full((len(x_0),), level), torch.randn(x_0.shape, generator=g)
        losses.append(gde.simple_loss(model, SCHEDULE, x_0, t, eps, y).mean().item())
    return sum(losses) / len(losses)


def quality(model, scale, classifier, seed=0):
    """Of COUNT samples by guided DDIM in 25 steps, from noise by `seed`: the accuracy of the
    evaluation classifier, the spread within a class, the distance of pixels to held-out digits.
    """
    y, g = torch.arange(COUNT) % 10, torch.Generator().manual_seed(1 + seed)
    guidance = gde.classifier_guidance(classifier, y, scale) if scale else None
    shape = (COUNT, 1, 8, 8)
    x = gde.ddim_sample(
        model, STEPS, shape, y=classes_for(model, y), guidance=guidance, generator=g
    ).clamp(-1, 1)
    real = gde.from_pixels(HELD_OUT.pixels)
    return dict(
        scale=scale,
        right=(EVALUATION_CLASSIFIER(x) == y).double().mean().item(),
        spread=within_class_std(x, y) / within_class_std(real, HELD_OUT.labels),
        frechet=gde.fid(x.flatten(1).double(), real.flatten(1).double()),
    )


@torch.no_grad()
def accuracy(classifier, t):
    "On held-out digits at step `t`."
    g, x_0 = torch.Generator().manual_seed(2), gde.from_pixels(HELD_OUT.pixels)
    t = torch.full((len(x_0),), t)
    x_t = SCHEDULE.add_noise(x_0, t, torch.randn(x_0.shape, generator=g))
    return (classifier(x_t, t).argmax(-1) == HELD_OUT.labels).double().mean().item()


def classifiers(base):
    "The same classifier, trained with noise and without."
    noisy = train(gde.Classifier, CLASSIFIER, gde.classifier_loss, RECIPE)
    clean = as_if_clean(train(gde.Classifier, CLASSIFIER, clean_loss, RECIPE))
    levels = [0, 100, 200, 300, 400, 600, 800]
    return {
        name: dict(
            levels=levels,
            accuracy=[accuracy(c, t) for t in levels],
            guided=[quality(base, scale, c) for scale in SCALES],
        )
        for name, c in (("noise-aware", noisy), ("clean", clean))
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="results/training-choices.json")
    out, began = Path(parser.parse_args().out), time.process_time()
    noisy = gde.load_pretrained("digits").classifier
    record = dict(
        provenance=dict(command="python benchmarks/training_choices.py", **provenance()),
        recipe=asdict(RECIPE),
        unet=asdict(UNET),
        classifier=asdict(CLASSIFIER),
        samples=COUNT,
        seeds=SEEDS,
    )
    bases = {
        name: [train_unet(seed, **fields) for seed in SEEDS]
        for name, fields in dict(
            unconditional={},
            conditional=dict(num_classes=10),
            addition=dict(num_classes=10, conditioning="addition"),
        ).items()
    }
    print(f"trained after {time.process_time() - began:.0f} s", flush=True)
    record["conditioning"] = {
        name: [
            dict(held_out_loss=held_out_loss(model), **quality(model, 0.0, None, seed))
            for seed, model in zip(SEEDS, bases[key])
        ]
        for name, key in (("AdaGN", "conditional"), ("addition", "addition"))
    }
    record["base"] = {
        name: [
            [quality(model, scale, noisy, seed) for scale in SCALES]
            for seed, model in zip(SEEDS, bases[name])
        ]
        for name in ("unconditional", "conditional")
    }
    record["classifiers"] = classifiers(bases["unconditional"][0])
    record["seconds"] = round(time.process_time() - began)
    write_text(out, json.dumps(record, indent=1) + "\n")
    print(f"{out} after {record['seconds']} s")


if __name__ == "__main__":
    main()
