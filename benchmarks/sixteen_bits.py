"""What 16 bits do to guided samples: the same noise, classes, scale and sampler, with the torso of
both networks in float32, bfloat16 and float16.

python benchmarks/sixteen_bits.py digits writes results/sixteen-bits-digits.json

On one core half an hour for the digits, twenty minutes for 500 clothes (--count 500). A processor
without units for 16 bits takes its convolutions one number at a time; here it computes them as a
GPU does, from factors of 16 bits a sum in float32, rounded to 16. Between two float32 rows, of
different noise, lies what chance alone does.
"""

import argparse
import copy
import json
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

import guided_diffusion_edu as gde
from guided_diffusion_edu.checkpoints import write_text
from guided_diffusion_edu.evaluation import bootstrap_interval, frechet_distance, moments, scores
from guided_diffusion_edu.features import evaluation_classifier, extract, load_sized
from guided_diffusion_edu.provenance import provenance
from guided_diffusion_edu.unet import set_torso

SCALE, STEPS = 2.0, 25
SAMPLERS = {"DDIM": gde.ddim_sample, "DDPM at x_t": gde.ddpm_sample}
OTHER_NOISE = "float32, other noise"
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, OTHER_NOISE: torch.float32}


class RoundedConvolutions(TorchDispatchMode):
    "Computes convolutions of 16-bit tensors, and their gradients, in float32 and rounds them."

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        dtype = args[0].dtype if args and isinstance(args[0], torch.Tensor) else None
        if "convolution" not in operator.name() or dtype not in (torch.bfloat16, torch.float16):
            return operator(*args, **(kwargs or {}))
        answer = operator(*tree_map_only(torch.Tensor, torch.Tensor.float, args), **(kwargs or {}))
        return tree_map_only(torch.Tensor, lambda x: x.to(dtype), answer)


def convert(weights, dtype):
    "`weights` with the torso of both networks in `dtype`."
    model, classifier = (set_torso(copy.deepcopy(part), dtype) for part in weights.networks)
    return replace(weights, model=model, classifier=classifier)


def compare(reference, ours, plain, y):
    """{name: (value, low, high)}: FID and accuracy of `ours` less those of `plain`, over redrawn
    pairs, and the share that the evaluation classifier puts into another class.
    """
    g = torch.Generator().manual_seed(0)

    def over_pairs(statistic, *rows):
        pairs = torch.stack(rows, dim=1)

        def difference(pairs):
            return float(statistic(pairs[:, 0]) - statistic(pairs[:, 1]))

        return difference(pairs), *bootstrap_interval(difference, pairs, generator=g)

    def distance(rows):
        return frechet_distance(moments(rows), reference.pooled)

    now, before = (each.probs.argmax(1) for each in (ours, plain))
    return dict(
        FID=over_pairs(distance, ours.pool, plain.pool),
        accuracy=over_pairs(torch.mean, (now == y).double(), (before == y).double()),
        otherwise=over_pairs(torch.mean, (now != before).double(), torch.zeros(len(y)).double()),
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("data", choices=gde.available_weights())
    parser.add_argument("--count", type=int, default=2000)
    args = parser.parse_args()
    weights = gde.load_pretrained(args.data)
    y, size = torch.arange(args.count) % len(weights.class_names), weights.model.config.image_size
    classifier = evaluation_classifier(args.data, size)
    reference = extract(classifier, load_sized(args.data, size).pixels)
    reference = reference._replace(pool=None)  # FID alone: no neighbourhoods
    out = Path(__file__).parents[1] / "results" / f"sixteen-bits-{args.data}.json"
    about = dict(weights=args.data, scale=SCALE, steps=STEPS, count=args.count)
    about |= dict(features=f"evaluation classifier of {args.data}")
    command = f"python benchmarks/sixteen_bits.py {args.data} --count {args.count}"
    record = dict(about=about, commands=[dict(command=command, **provenance())], rows=[])

    def draw(name, dtype, seed):
        began, halved = time.time(), convert(weights, dtype)
        with RoundedConvolutions():
            pixels = gde.draw_guided(halved, y, STEPS, SCALE, SAMPLERS[name], seed)
        return pixels, extract(classifier, pixels), round(time.time() - began, 1)

    def note(name, kind, features, took, **more):
        table = scores(reference, features, y)
        record["rows"].append(
            dict(
                sampler=name,
                dtype=kind,
                seconds=took,
                scores={key: table[key] for key in ("FID", "accuracy")},
                **more,
            )
        )
        print(record["rows"][-1], flush=True)

    for name in SAMPLERS:
        plain, features, took = draw(name, torch.float32, 0)
        note(name, "float32", features, took)
        for kind, dtype in DTYPES.items():
            pixels, ours, took = draw(name, dtype, int(kind == OTHER_NOISE))
            moved = (pixels.double() - plain.double()).abs().flatten(1).mean(1)  # of 255, per image
            note(
                name,
                kind,
                ours,
                took,
                difference=compare(reference, ours, features, y),
                levels=dict(mean=moved.mean().item(), most=moved.max().item()),
            )
    write_text(out, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
