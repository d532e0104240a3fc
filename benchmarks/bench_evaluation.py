"""Evaluation at full size in bounded memory: each case in a process of its own, with its seconds
and its peak of memory.

make bench writes results/bench-evaluation.json
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy
import torch

from guided_diffusion_edu.batches import Batch
from guided_diffusion_edu.data import Images
from guided_diffusion_edu.evaluation import manifolds
from guided_diffusion_edu.features import extract, train_evaluation_classifier
from guided_diffusion_edu.provenance import provenance


def write_batch(path, count):
    "Write a batch of `count` images of 64 x 64 x 3, a thousand at a time."
    import zipfile

    header = dict(descr="|u1", fortran_order=False, shape=(count, 64, 64, 3))
    generator = numpy.random.default_rng(0)
    with (
        zipfile.ZipFile(path, "w") as archive,
        archive.open("arr_0.npy", "w", force_zip64=True) as stream,
    ):
        numpy.lib.format.write_array_header_1_0(stream, header)
        for start in range(0, count, 1000):
            stream.write(generator.bytes(min(1000, count - start) * 64 * 64 * 3))


def time_images(count):
    "Features of `count` images of 64 x 64 x 3, streamed from a file."
    pixels = torch.zeros(9, 3, 64, 64, dtype=torch.uint8)
    data = Images(pixels, torch.arange(9), tuple("abcdefghi"))
    classifier = train_evaluation_classifier(data, steps=2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "batch.npz"
        write_batch(path, count)
        began = time.perf_counter()
        features = extract(classifier, Batch(path))
    assert len(features.pool) == features.spatial.count == count
    return time.perf_counter() - began


def time_neighbours(count, size=2048):
    """Precision, recall, density and coverage of `count` against `count` features of the size of
    Inception's.
    """
    generator = torch.Generator().manual_seed(0)
    real, fake = (
        torch.randn(count, size, generator=generator),
        torch.randn(count, size, generator=generator),
    )
    began = time.perf_counter()
    manifolds(real, fake, block=500)
    return time.perf_counter() - began


CASES = {
    "images of 64 x 64 x 3": (time_images, 50_000),
    "nearest neighbours": (time_neighbours, 10_000),
}


def measure(name, share):
    command = [sys.executable, __file__, "--case", name, "--share", str(share)]
    return json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--share", type=float, default=1.0, help="of the full number of samples")
    args = parser.parse_args()
    if args.case:
        run, count = CASES[args.case]
        at_start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds = run(int(count * args.share))
        unit = 2**20 if sys.platform == "darwin" else 2**10
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(
            json.dumps(
                dict(
                    count=int(count * args.share),
                    seconds=round(seconds, 1),
                    start_mb=at_start // unit,
                    peak_mb=peak // unit,
                )
            )
        )
        return
    rows = {}
    for name in CASES:
        rows[name] = dict(tenth=measure(name, args.share / 10), full=measure(name, args.share))
        for row in rows[name].values():
            print(
                f"{name:24} {row['count']:6} samples: {row['seconds']:7.1f} s,",
                f"peak {row['peak_mb']} MB, {row['peak_mb'] - row['start_mb']} MB above the start",
                flush=True,
            )
    out = Path(__file__).parents[1] / "results" / "bench-evaluation.json"
    out.write_text(json.dumps(dict(rows=rows, **provenance()), indent=1) + "\n")


if __name__ == "__main__":
    main()
