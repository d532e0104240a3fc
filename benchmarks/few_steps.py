"""Fewer evaluations for the same images: FID and accuracy of guided samples by sampler and number
of evaluations, and with guidance in an interval only.

python benchmarks/few_steps.py digits writes results/few-steps-digits.json, point by point; what is
there is kept

Half an hour of a core on the digits, an hour on Fashion-MNIST. Scale, class order, seed and
evaluation classifier are the same at every point.
"""

import argparse
import json
import time
from pathlib import Path

import torch

import guided_diffusion_edu as gde
from guided_diffusion_edu.checkpoints import write_text
from guided_diffusion_edu.distributed import device
from guided_diffusion_edu.evaluation import scores
from guided_diffusion_edu.features import evaluation_classifier, extract, load_sized
from guided_diffusion_edu.provenance import provenance
from guided_diffusion_edu.tradeoff import resume_record

SCALE = 2.0
WHOLE = 0, 999  # first and last t that is guided
even, edm = gde.respace, gde.edm_steps
METHODS = {  # sampler, spacing, evaluations of the UNet in n steps
    "DDPM at x_t": (gde.ddpm_sample, even, lambda n: n),
    "DDPM at mean": (
        lambda *args, **kw: gde.ddpm_sample(*args, gradient_at="mean", **kw),
        even,
        lambda n: n,
    ),
    "DDIM": (gde.ddim_sample, even, lambda n: n),
    "DDIM, EDM levels": (gde.ddim_sample, edm, lambda n: n),
    "2M": (gde.dpmpp_2m_sample, edm, lambda n: n),
    "2M-SDE": (gde.dpmpp_2m_sde_sample, edm, lambda n: n),
    "Heun": (gde.heun_sample, edm, lambda n: 2 * n - 1),
}
INTERVALS = [WHOLE, (0, 799), (0, 599), (0, 399), (200, 999)]  # DDIM, 25 steps
POINTS = {
    "digits": [(name, n, WHOLE) for n in (5, 10, 25) for name in METHODS if name != "Heun"]
    + [("Heun", n, WHOLE) for n in (3, 5, 13)]
    + [("DDPM at x_t", 250, WHOLE), ("DDPM at mean", 250, WHOLE)],
    "fashion-mnist": [(name, 10, WHOLE) for name in METHODS if name != "Heun"]
    + [("Heun", 5, WHOLE)]
    + [("DDPM at x_t", 250, WHOLE), ("DDPM at x_t", 25, WHOLE), ("2M", 25, WHOLE)],
}


def draw(weights, method, steps, interval, y, seed):
    "Pixels for the classes `y`, and the share of steps that were guided."
    sampler, space, _ = METHODS[method]
    schedule, (first, last) = space(weights.schedule, steps), interval

    def sample(model, _, shape, guidance=None, **options):
        limited = gde.interval_guidance(guidance, first, last)
        return sampler(model, schedule, shape, guidance=limited, **options)

    guided = (first <= schedule.timesteps) & (schedule.timesteps <= last)
    return gde.draw_guided(weights, y, steps, SCALE, sample, seed), guided.double().mean().item()


def measure(weights, classifier, reference, point, y, seed):
    "The row of one `point`: method, steps and interval."
    (method, steps, interval), began = point, time.time()
    pixels, share = draw(weights, *point, y, seed)
    table = scores(reference, extract(classifier, pixels), y)
    fid, low, high = table["FID"]
    print(
        f"{method:18} {steps:4} steps, guided {share:4.0%}: FID {fid:.3f} [{low:.3f}, {high:.3f}],",
        f"accuracy {table['accuracy'][0]:.3f}",
        flush=True,
    )
    return dict(
        method=method,
        steps=steps,
        evaluations=METHODS[method][2](steps),
        window=interval,
        guided=share,
        seconds=round(time.time() - began, 1),
        scores={name: table[name] for name in ("FID", "FID infinity", "IS", "accuracy")},
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("data", choices=POINTS)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out")
    args = parser.parse_args()
    weights = gde.load_pretrained(args.data).to(device())
    y, size = torch.arange(args.count) % len(weights.class_names), weights.model.config.image_size
    classifier = evaluation_classifier(args.data, size)
    reference = extract(classifier, load_sized(args.data, size).pixels)
    reference = reference._replace(pool=None)  # FID alone: no neighbourhoods
    out = Path(args.out or Path(__file__).parents[1] / "results" / f"few-steps-{args.data}.json")
    about = dict(weights=args.data, scale=SCALE, count=args.count)
    about |= dict(features=f"evaluation classifier of {args.data}")
    record = resume_record(out, about | (dict(seed=args.seed) if args.seed else {}))
    options = f"--count {args.count} --seed {args.seed}"
    command = f"python benchmarks/few_steps.py {args.data} {options}"
    record["commands"].append(dict(command=command, **provenance()))
    known = [(row["method"], row["steps"], tuple(row["window"])) for row in record["rows"]]
    for point in POINTS[args.data] + [("DDIM", 25, interval) for interval in INTERVALS]:
        if point not in known:
            known.append(point)
            row = measure(weights, classifier, reference, point, y, args.seed)
            record["rows"].append(row)
            write_text(out, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
