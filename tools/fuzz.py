"""Fuzzing: whatever a file holds and whatever a function is given, only documented errors come out.

`python tools/fuzz.py --seconds 60` (`make fuzz`) takes each file reader in turn with atheris where
it is installed, else with the mutations below, then the functions with hypothesis.
tests/book/test_fuzz.py runs a short part of it. An input that fails is kept in --keep.
"""

import argparse
import gzip
import importlib.util
import io
import json
import pickle
import random
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

import guided_diffusion_edu as gde
from guided_diffusion_edu import batches, checkpoints, data, evaluation, pretrained, tradeoff
from guided_diffusion_edu.batches import Batch
from guided_diffusion_edu.classifier_free import drop_labels
from guided_diffusion_edu.data import data_card, within_class_std
from guided_diffusion_edu.diagnostics import dynamic_threshold
from guided_diffusion_edu.diffusion import noise_like
from guided_diffusion_edu.evaluation import bootstrap_interval, moments
from guided_diffusion_edu.model_card import nearest_distances
from guided_diffusion_edu.particles import effective_sample_size, systematic
from guided_diffusion_edu.training_free import colour, edges, low_pass

DOCUMENTED = (ValueError, TypeError, OSError)


# File readers: {name: (files to begin from, how one is read at a path)}


def written(write, *arguments):
    file = io.BytesIO()
    write(file, *arguments)
    return file.getvalue()


def picture(kind, size=(16, 16)):
    return written(Image.new("RGB", size, "teal").save, kind)


def npz(**arrays):
    file = io.BytesIO()
    numpy.savez(file, **arrays)
    return file.getvalue()


def read_batch(path):
    batch = Batch(path)
    for _ in zip(range(3), batch.split(4) if batch.count else ()):
        pass
    for name in batch.headers:
        if name != "arr_0":
            batch.array(name)


def read_folder(path):
    "The file as a picture of a folder. The folder is that of the file, one level down."
    folder = path.with_name("pictures") / "class"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.png").write_bytes(path.read_bytes())
    gde.load_data(f"folder:{folder.parent}", image_size=8)


def read_emoji(path):
    folder = path.with_name("emoji")
    (folder / "img" / "any" / "64").mkdir(parents=True, exist_ok=True)
    (folder / "img" / "any" / "64" / "a.png").write_bytes(picture("PNG"))
    (folder / "emoji.json").write_bytes(path.read_bytes())
    gde.load_data(f"emoji:{folder}", image_size=8)


def read_record(path):
    pretrained.read_record(path)


def read_results(path):
    tradeoff.resume_record(path, {})


TINY = gde.UNet(
    gde.UNetConfig(
        image_size=8,
        in_channels=1,
        channels=4,
        channel_mult=(1,),
        res_blocks=1,
        attention_resolutions=(),
        head_channels=4,
        groups=2,
    )
)
TENSORS = {name: torch.zeros(2, 3) for name in "ab"}


def read_released(path):
    gde.load_released(TINY, gde.read_weights(path))


READERS = {
    "safetensors": (
        [save(TENSORS), save(TENSORS, metadata=dict(about="{}"))],
        checkpoints.read_tensors,
    ),
    "PyTorch": (
        [
            written(lambda f: torch.save(TENSORS, f)),
            written(lambda f: torch.save(TENSORS, f, _use_new_zipfile_serialization=False)),
            pickle.dumps(TENSORS),
        ],
        gde.read_weights,
    ),
    "released": ([written(lambda f: torch.save(TINY.state_dict(), f))], read_released),
    "npz": (
        [
            npz(arr_0=numpy.zeros((4, 8, 8, 3), numpy.uint8), arr_1=numpy.zeros(4, int)),
            npz(mu=numpy.zeros(3), sigma=numpy.eye(3)),
        ],
        read_batch,
    ),
    "record": (
        [
            (pretrained.WEIGHTS / "digits" / "diffusion.json").read_bytes(),
            b'{"schedule": {"name": "linear", "T": 1}, "config": {}, "class_names": []}',
        ],
        read_record,
    ),
    "results": (
        [b'{"about": {}, "commands": [], "rows": [{"way": "DDIM", "scale": 1.0, "steps": 5}]}'],
        read_results,
    ),
    "emoji.json": ([json.dumps([dict(image="a.png", category="Faces")]).encode()], read_emoji),
    "picture": (
        [
            picture("PNG"),
            picture("JPEG"),
            picture("GIF"),
            picture("BMP"),
            picture("WEBP"),
            picture("TIFF"),
        ],
        read_folder,
    ),
    "IDX": ([bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3]) + bytes(6)], data.read_idx),
    "IDX.gz": ([gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 7]))], data.read_idx),
}


def mutated(content, g):
    """`content` with one to four of the changes that damage files: bits, bytes, numbers, cuts,
    repeats.
    """
    content = bytearray(content)
    for _ in range(g.randint(1, 4)):
        i, j = sorted(g.randrange(len(content) + 1) for _ in range(2))
        change = g.randrange(6)
        if change == 0 and content:
            content[i % len(content)] ^= 1 << g.randrange(8)
        if change == 1 and content:
            content[i % len(content)] = g.choice((0, 1, 127, 128, 255, g.randrange(256)))
        if change == 2:
            content[i : i + 4] = g.choice((0, 1, 2**31 - 1, 2**32 - 1)).to_bytes(
                4, g.choice(("little", "big"))
            )
        if change == 3:
            del content[i : min(j, i + 64)]
        if change == 4:
            content[i:i] = content[i : min(j, i + 64)]
        if change == 5:
            del content[g.randrange(len(content) + 1) :]
    return bytes(content)


def try_reader(name, content, folder, keep=None):
    """Read `content` as a file of the kind `name`; whatever is not documented is raised, and the
    file kept.
    """
    path = Path(folder) / f"input.{name.replace(' ', '')}"
    if name == "safetensors":
        path = path.with_suffix(".safetensors")
    path.write_bytes(content)
    try:
        READERS[name][1](path)
    except DOCUMENTED:
        pass
    except BaseException:
        if keep:
            (Path(keep) / f"{name}-{abs(hash(content))}").write_bytes(content)
        raise


def by_mutation(name, seed=0, count=None, seconds=None, keep=None):
    "`count` inputs, or as many as `seconds` allow. Gives their number."
    g, end, done = random.Random(f"{name} {seed}"), time.monotonic() + (seconds or 1e9), 0
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while done != count and time.monotonic() < end:
            try_reader(name, mutated(g.choice(READERS[name][0]), g), folder, keep)
            done += 1
    return done


def by_atheris(name, seconds, keep):
    """Guided by the branches of the package and of the readers in Python, in a process of its own:
    atheris does not come back.
    """
    corpus = Path(keep) / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    for i, content in enumerate(READERS[name][0]):
        (corpus / f"seed-{i}").write_bytes(content)
    return subprocess.run(
        [
            sys.executable,
            __file__,
            "--atheris",
            name,
            str(corpus),
            f"-max_total_time={seconds}",
            "-max_len=65536",
            "-verbosity=0",
            "-print_final_stats=1",
            f"-artifact_prefix={keep}/{name}-",
        ],
        check=True,
    )


def run_atheris(name, argv):
    import atheris

    folder = tempfile.mkdtemp()
    warnings.simplefilter("ignore")
    import zipfile

    import numpy.lib.format
    import torch._weights_only_unpickler

    for module in (
        data,
        pretrained,
        checkpoints,
        batches,
        evaluation,
        numpy.lib.format,
        zipfile,
        torch._weights_only_unpickler,
    ):
        for value in vars(module).values():
            if (
                callable(value)
                and getattr(value, "__module__", None) == module.__name__
                and hasattr(value, "__code__")
            ):
                atheris.instrument_func(value)
    atheris.Setup([sys.argv[0], *argv], lambda content: try_reader(name, content, folder))
    atheris.Fuzz()


# Functions: anything at all for each argument.

SIZES = st.integers(0, 3)
NUMBERS = st.one_of(
    st.integers(-3, 200),
    st.floats(allow_nan=True),
    st.sampled_from([0, 1, -1, 0.5, 1e-300, 1e300, float("nan"), float("inf"), 2**63]),
)
DTYPES = st.sampled_from(
    [torch.float32, torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool]
)


@st.composite
def tensors(draw, most=4):
    shape = draw(st.lists(SIZES, max_size=most))
    x = torch.full(shape, draw(st.sampled_from([0.0, 1.0, -1.0, 0.3, 200.0])), dtype=torch.float64)
    if x.numel() and draw(st.booleans()):
        x.view(-1)[0] = draw(st.sampled_from([float("nan"), float("inf"), -1e30, 0.5]))
    return (
        x.nan_to_num().clamp(-100, 250).to(dtype)
        if not (dtype := draw(DTYPES)).is_floating_point
        else x.to(dtype)
    )


WORDS = st.one_of(
    NUMBERS, st.none(), st.text(max_size=6), st.lists(NUMBERS, max_size=4)
)  # for what is never a tensor
ANYTHING = st.one_of(
    tensors(),
    NUMBERS,
    st.none(),
    st.text(max_size=6),
    st.lists(NUMBERS, max_size=4),
    st.sampled_from(["ddim5", "3,4", "digits", "folder:", "emoji:", ""]),
)
LINE = gde.linear_schedule(30)
SHORT = gde.respace(LINE, 3)
WORLD = gde.four_corners()


def flat(x, t, y=None):
    return x * 0


def classify(x, t):
    return torch.cat([x.flatten(1)[:, :1], 1 - x.flatten(1)[:, :1]], 1)


# name: (number of arguments, or a letter for each, n for one that is never a tensor; call)
CALLS = {
    "Schedule": (2, lambda a, b: gde.Schedule(a, b)),
    "linear_schedule": (1, gde.linear_schedule),
    "cosine_schedule": (1, gde.cosine_schedule),
    "respace": (1, lambda a: gde.respace(LINE, a)),
    "add_noise": (3, LINE.add_noise),
    "edm_steps": ("nn", lambda a, b: gde.edm_steps(LINE, a, b)),
    "GaussianMixture": (4, gde.GaussianMixture),
    "log_prob": (2, WORLD.log_prob),
    "score": (2, WORLD.score),
    "class_log_probs": (1, WORLD.class_log_probs),
    "at": ("n", WORLD.at),
    "sample": ("nn", WORLD.sample),
    "denoiser": (3, WORLD.denoiser(LINE)),
    "classifier": (2, WORLD.classifier(LINE)),
    "noise_like": (2, noise_like),
    "simple_loss": (3, lambda a, b, c: gde.simple_loss(flat, LINE, a, b, c)),
    "classifier_guidance": (
        "an",
        lambda a, b: gde.classifier_guidance(classify, a, b)(
            torch.zeros(2, 2), torch.tensor([0, 1])
        ),
    ),
    "exact_guidance": (
        "an",
        lambda a, b: gde.exact_guidance(WORLD, LINE, a, b)(torch.zeros(2, 2), torch.tensor([0, 1])),
    ),
    "guided_mean": (1, lambda a: gde.guided_mean(torch.zeros(2, 2), 1.0, a)),
    **{
        sampler.__name__: (3, lambda a, b, c, sampler=sampler: sampler(flat, SHORT, a, y=b, x_T=c))
        for sampler in (gde.ddpm_sample, gde.ddim_sample, gde.dpmpp_2m_sample, gde.heun_sample)
    },
    "particle_sample": (
        "na",
        lambda a, b: gde.particle_sample(
            flat, SHORT, a, twist=lambda x, t: x.flatten(1).sum(1), x_T=b
        ),
    ),
    "timestep_embedding": ("an", gde.timestep_embedding),
    "UNet": (3, lambda a, b, c: TINY(a, b, c)),
    "Recipe": (3, lambda a, b, c: gde.Recipe(steps=a, lr=b, seed=c)),
    "UNetConfig": ("nnn", lambda a, b, c: gde.UNetConfig(channels=a, image_size=b, dropout=c)),
    "load_data": (1, lambda a: gde.load_data(a, image_size=8)),
    "load_pretrained": (1, gde.load_pretrained),
    "openai_release": (1, gde.openai_release),
    "data_card": (1, lambda a: data_card(a, gde.load_data("digits"))),
    "moments": (1, moments),
    "fid": (2, gde.fid),
    "inception_score": (1, gde.inception_score),
    "precision_recall": ("aan", gde.precision_recall),
    "bootstrap_interval": (
        "nn",
        lambda a, b: bootstrap_interval(
            torch.mean, torch.rand(5), a if not isinstance(a, int) or a < 50 else 5, b
        ),
    ),
    "drop_labels": ("nn", lambda a, b: drop_labels(torch.tensor([0, 1]), a, 9)),
    "cfg_model": ("an", lambda a, b: gde.cfg_model(flat, a, b)),
    "systematic": (
        "an",
        lambda a, b: systematic(a, b if not isinstance(b, int) or abs(b) < 1000 else 5),
    ),
    "effective_sample_size": (1, effective_sample_size),
    "low_pass": ("n", low_pass),
    "colour": (1, colour),
    "edges": (1, edges),
    "dynamic_threshold": ("n", dynamic_threshold),
    "to_pixels": (1, gde.to_pixels),
    "image_grid": (2, gde.image_grid),
    "from_pixels": (1, gde.from_pixels),
    "within_class_std": (2, within_class_std),
    "nearest_distances": (2, nearest_distances),
}


def by_hypothesis(name, examples):
    kinds, call = CALLS[name]
    kinds = "a" * kinds if isinstance(kinds, int) else kinds

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.tuples(*[WORDS if kind == "n" else ANYTHING for kind in kinds]))
    def no_other_error(arguments):
        try:
            call(*arguments)
        except DOCUMENTED:
            pass

    no_other_error()


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--seconds", type=int, default=600, help="altogether, about")
    p.add_argument("--keep", default="runs/fuzz", help="folder for inputs that fail")
    args = p.parse_args()
    Path(args.keep).mkdir(parents=True, exist_ok=True)
    each = max(1, args.seconds // (2 * len(READERS)))
    for name in READERS:
        if importlib.util.find_spec("atheris"):
            by_atheris(name, each, args.keep)
            print(f"{name}: {each} s with atheris", flush=True)
        else:
            count = by_mutation(name, seed=time.time(), seconds=each, keep=args.keep)
            print(f"{name}: {count} inputs", flush=True)
    examples, began = max(50, 20 * args.seconds // len(CALLS)), time.monotonic()
    for name in CALLS:
        if time.monotonic() < began + args.seconds:
            by_hypothesis(name, examples)
    print(f"{len(CALLS)} functions, {examples} calls each")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--atheris"]:
        run_atheris(sys.argv[2], sys.argv[3:])
    else:
        main()
