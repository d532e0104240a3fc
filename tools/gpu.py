"""What `make test-gpu` runs, on a machine with a GPU: every notebook whole, each in an empty
folder, its `cuda` cells with the others, and the tests marked `gpu`.

python tools/gpu.py [--workers N] [--stand-ins]

The report, with device and versions, goes to results/gpu-<device>.json. Ends with 1 where something
failed, which the report then names.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import torch
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

import guided_diffusion_edu as gde
from guided_diffusion_edu.checkpoints import write_text
from guided_diffusion_edu.pretrained import build_network, released_names
from guided_diffusion_edu.provenance import provenance

ROOT = Path(__file__).parents[1]
COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # of a traceback in a terminal
RELEASED = "64x64_diffusion", "64x64_classifier", "64_256_upsampler"


def stand_in(name, folder):
    "A checkpoint with the names and shapes of OpenAI's `name`, and random numbers."
    model = build_network(gde.openai_release(name).config)
    for p in model.parameters():
        if p.abs().max() == 0:
            torch.nn.init.normal_(p, std=0.02)  # nothing would come through
    names = released_names(model)
    folder.mkdir(exist_ok=True)
    torch.save(
        {names[own]: value for own, value in model.state_dict().items()}, folder / f"{name}.pt"
    )


def run(path, models):
    "Seconds of the notebook, whether it has a `cuda` cell, and the error that ended it or None."
    notebook = nbformat.read(path, 4)
    began, error = time.time(), None
    with tempfile.TemporaryDirectory() as folder:
        if models:
            (Path(folder) / "models").symlink_to(models)
        try:
            NotebookClient(
                notebook, timeout=3600, resources=dict(metadata=dict(path=folder))
            ).execute()
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as found:
            error = COLOURS.sub(
                "", f"{getattr(found, 'ename', type(found).__name__)}: {str(found)[-1500:]}"
            )
    cuda = [cell for cell in notebook.cells if "#| cuda" in cell.source.splitlines()]
    printed = [
        out.text
        for cell in cuda
        for out in cell.get("outputs", [])
        if out.output_type == "stream" and out.name == "stdout"
    ]
    print(f"{path.stem}: {time.time() - began:.0f} s {error or ''}", flush=True)
    return dict(
        seconds=round(time.time() - began, 1),
        cuda=bool(cuda),
        printed="".join(printed),
        error=error,
    )


def tests():
    "{test: None or what is wrong} of those marked `gpu`."
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-m",
                "gpu",
                f"--junitxml={report}",
                str(ROOT / "tests"),
            ],
            cwd=ROOT,
        )
        cases = ElementTree.parse(report).iter("testcase")
        return {
            case.get("name"): next(
                (
                    part.get("message")
                    for part in case
                    if part.tag in ("failure", "error", "skipped")
                ),
                None,
            )
            for case in cases
        }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=max((os.cpu_count() or 1) // 2, 1))
    parser.add_argument(
        "--stand-ins",
        action="store_true",
        help="random numbers in the place of OpenAI's weights, where they cannot be fetched",
    )
    parser.add_argument(
        "--notebooks", nargs="+", type=Path, default=sorted((ROOT / "nbs").rglob("*.ipynb"))
    )
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("make test-gpu needs a GPU, and torch finds none")
    about = dict(
        provenance(),
        command=" ".join(["python tools/gpu.py", *sys.argv[1:]]),
        cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version(),
    )
    if args.stand_ins:
        about["weights"] = "random numbers in the place of OpenAI's"
    report = dict(about=about, tests=tests(), notebooks={})
    if not report["tests"]:
        sys.exit("no test marked gpu was found")

    def keep():
        write_text(
            ROOT / "results" / f"gpu-{about['device'].replace(' ', '-')}.json",
            json.dumps(report, indent=1) + "\n",
        )

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.workers) as pool:
        models = Path(folder) / "models" if args.stand_ins else None
        if models:
            list(pool.map(lambda name: stand_in(name, models), RELEASED))
        for path, found in zip(
            args.notebooks, pool.map(lambda path: run(path, models), args.notebooks)
        ):
            report["notebooks"][path.stem] = found
            keep()  # nothing is lost if the machine goes
    wrong = [name for name, found in report["notebooks"].items() if found["error"]] + [
        name for name, message in report["tests"].items() if message
    ]
    sys.exit(f"failed: {', '.join(wrong)}" if wrong else 0)


if __name__ == "__main__":
    main()
