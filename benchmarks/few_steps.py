"""Fewer evaluations for the same pictures: FID and accuracy of guided samples by sampler and number
of evaluations, and with guidance on a part of the way only.

python benchmarks/few_steps.py digits writes results/few-steps-digits.json, point by point; what is
there is kept

Half an hour of a core on the digits, an hour on Fashion-MNIST. Scale, class order, seed and judge
are the same at every point.
"""

import argparse
import json
import time
from pathlib import Path

import torch

import guided_diffusion_edu as gde
from guided_diffusion_edu.checkpoints import write_text
from guided_diffusion_edu.classifier_free import interval_guidance
from guided_diffusion_edu.distributed import device
from guided_diffusion_edu.evaluation import scores
from guided_diffusion_edu.features import evaluation_classifier, extract, load_sized
from guided_diffusion_edu.provenance import provenance
from guided_diffusion_edu.tradeoff import resume_record

SCALE = 2.0
WHOLE = 0, 999  # first and last t that is guided
even, edm = gde.respace, gde.edm_steps
METHODS = {  # sampler, levels, evaluations of the UNet in n steps
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
WINDOWS = [WHOLE, (0, 799), (0, 599), (0, 399), (200, 999)]  # DDIM, 25 steps
POINTS = {
    "digits": [(name, n, WHOLE) for n in (5, 10, 25) for name in METHODS if name != "Heun"]
    + [("Heun", n, WHOLE) for n in (3, 5, 13)]
    + [("DDPM at x_t", 250, WHOLE), ("DDPM at mean", 250, WHOLE)],
    "fashion-mnist": [(name, 10, WHOLE) for name in METHODS if name != "Heun"]
    + [("Heun", 5, WHOLE)]
    + [("DDPM at x_t", 250, WHOLE), ("DDPM at x_t", 25, WHOLE), ("2M", 25, WHOLE)],
}


def drawn(found, method, steps, window, y, seed):
    "Pixels for the classes `y`, and the share of steps that were guided."
    sampler, levels, _ = METHODS[method]
    schedule = levels(found.schedule, steps)

    def walk(model, _, shape, guidance=None, **kw):
        return sampler(
            model, schedule, shape, guidance=interval_guidance(guidance, *window), **kw
        )

    t = schedule.timesteps
    return gde.draw_guided(found, y, steps, SCALE, walk, seed), (
        (window[0] <= t) & (t <= window[1])
    ).double().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("data", choices=POINTS)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out")
    args = parser.parse_args()
    found = gde.load_pretrained(args.data).to(device())
    size = found.model.config.image_size
    judge, y = (
        evaluation_classifier(args.data, size),
        torch.arange(args.count) % len(found.class_names),
    )
    reference = extract(judge, load_sized(args.data, size).pixels)._replace(
        pool=None
    )  # FID alone: no neighbourhoods
    out = Path(args.out or Path(__file__).parents[1] / "results" / f"few-steps-{args.data}.json")
    record = resume_record(
        out,
        dict(weights=args.data, scale=SCALE, count=args.count, features=f"judge of {args.data}")
        | (dict(seed=args.seed) if args.seed else {}),
    )
    record["commands"].append(
        dict(
            command=f"python benchmarks/few_steps.py {args.data} "
            f"--count {args.count} --seed {args.seed}",
            **provenance(),
        )
    )
    known = [(row["method"], row["steps"], tuple(row["window"])) for row in record["rows"]]
    for point in POINTS[args.data] + [("DDIM", 25, window) for window in WINDOWS]:
        if point in known:
            continue
        known.append(point)
        method, steps, window = point
        began = time.time()
        pixels, share = drawn(found, method, steps, window, y, args.seed)
        table = scores(reference, extract(judge, pixels), y)
        record["rows"].append(
            dict(
                method=method,
                steps=steps,
                evaluations=METHODS[method][2](steps),
                window=window,
                guided=share,
                seconds=round(time.time() - began, 1),
                scores={name: table[name] for name in ("FID", "FID infinity", "IS", "accuracy")},
            )
        )
        write_text(out, json.dumps(record, indent=1) + "\n")
        print(
            f"{method:18} {steps:4} steps, guided {share:4.0%}: FID {table['FID'][0]:.3f}",
            f"[{table['FID'][1]:.3f}, {table['FID'][2]:.3f}],",
            f"accuracy {table['accuracy'][0]:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
