"""A training that is killed ten times ends in the very weights of one that was left alone: `gde
train` as a user runs it, killed by SIGKILL.

`python tools/resume_run.py` takes about two minutes on a quiet core; `--steps 21000 --batch 64
--save-every 100` (`make resume`) an hour or more for each of the two. The moments are drawn at
random: a number of steps that must have been kept, and then up to the time from one checkpoint to
the next. Writes results/resume.json.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors import safe_open

from guided_diffusion_edu.checkpoints import read_tensors
from guided_diffusion_edu.provenance import provenance

ROOT = Path(__file__).parents[1]


def command(out, args):
    return [
        sys.executable,
        "-m",
        "guided_diffusion_edu",
        "train",
        "diffusion",
        "--data",
        "digits",
        "--out",
        str(out),
        "--steps",
        str(args.steps),
        "--batch",
        str(args.batch),
        "--save-every",
        str(args.save_every),
        "--timesteps",
        "importance",
        "--no-samples",
    ]


def finish(out, args):
    began = time.monotonic()
    subprocess.run(command(out, args), check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return time.monotonic() - began


def steps_kept(out):
    "How many steps the last whole checkpoint holds."
    checkpoint = out / "diffusion.checkpoint"
    if not checkpoint.exists():
        return 0
    with safe_open(checkpoint, "pt") as file:
        return file.get_slice("history").get_shape()[0]


def killed(out, args, seconds, draw):
    "Kill the run `args.kills` times. Gives the steps that were kept each time."
    kept, between = [], seconds * args.save_every / args.steps
    for least in sorted(draw.sample(range(args.steps - 3 * args.save_every), args.kills)):
        process = subprocess.Popen(command(out, args), stdout=subprocess.DEVNULL, cwd=ROOT)
        while process.poll() is None and steps_kept(out) < least:
            time.sleep(0.02)
        time.sleep(draw.uniform(0, between))
        if process.poll() is not None:
            sys.exit(
                f"the run came to its end, with {process.returncode}, before it was killed "
                f"{args.kills} times: ask for more steps"
            )
        process.kill()
        process.wait()
        kept.append(steps_kept(out))
        print(f"killed; {kept[-1]} of {args.steps} steps are kept", flush=True)
    return kept


def same(a, b):
    "Bit for bit: nan in the history too."
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype
        and torch.equal(
            a[k].contiguous().view(-1).view(torch.uint8),
            b[k].contiguous().view(-1).view(torch.uint8),
        )
        for k in a
    )


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--steps", type=int, default=300)
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--save-every", type=int, default=5)
    p.add_argument("--kills", type=int, default=10)
    p.add_argument("--seed", type=int, default=0, help="of the moments")
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        straight, broken = Path(folder) / "straight", Path(folder) / "broken"
        seconds = finish(straight, args)
        print(f"left alone: {seconds:.0f} s", flush=True)
        kept = killed(broken, args, seconds, random.Random(args.seed))
        finish(broken, args)
        for name in ("diffusion.safetensors", "diffusion.checkpoint"):
            if not same(*(read_tensors(out / name)[0] for out in (straight, broken))):
                sys.exit(f"{name} differs")
    record = dict(
        command=f"python tools/resume_run.py --steps {args.steps} --batch {args.batch} "
        f"--save-every {args.save_every} --kills {args.kills} --seed {args.seed}",
        seconds_left_alone=round(seconds),
        steps_kept_at_each_kill=kept,
        same_weights=True,
        **provenance(),
    )
    (ROOT / "results" / "resume.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"killed {len(kept)} times: the same weights, optimiser and history, bit for bit")


if __name__ == "__main__":
    main()
