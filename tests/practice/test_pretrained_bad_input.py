"""What the page "pretrained" refuses, and how it says so."""

import io
import json
import pickle
import shutil
from dataclasses import asdict

import pytest
import torch

import guided_diffusion_edu as gde
from bad_input import (
    ENLARGER,
    NET,
    PIXELS,
    PLAN,
    SHORT,
    WHOLE,
    Payload,
    T,
    archive,
    cases,
    file_is_refused,
    is_refused,
    written,
)
from guided_diffusion_edu import pretrained


def weights(path, **lies):
    "A folder with the shipped digits, in which some files have other contents."
    shutil.copytree(pretrained.WEIGHTS / "digits", path)
    for name, lie in lies.items():
        file = path / name.replace("_", ".")
        if callable(lie):
            file.write_text(json.dumps(lie(json.loads(file.read_text()))))
        elif lie is None:
            file.unlink()
        else:
            file.write_bytes(lie)
    return path


def changed(**fields):
    return lambda record: record | fields


def answering(body, url="https://there", length=None):
    "What `urlopen` gives, without a network."

    def open_url(address, timeout):
        answer = io.BytesIO(body)
        answer.geturl, answer.headers = lambda: url, {"Content-Length": str(length or len(body))}
        return answer

    return open_url


TABLE = [  # (what, said, call)
    (
        "load_pretrained of an unknown name",
        "weights must be one of .* got 'lion'",
        lambda: gde.load_pretrained("lion"),
    ),
    (
        "load_pretrained of a way out of the folder",
        "weights must be one of",
        lambda: gde.load_pretrained("../weights"),
    ),
    (
        "openai_release of an unknown name",
        "name must be one of .* got '65x65_diffusion'",
        lambda: gde.openai_release("65x65_diffusion"),
    ),
    ("openai_release of None", "name must be one of .* got None", lambda: gde.openai_release(None)),
    (
        "fetch_openai of a way out of the folder",
        "name must be one of",
        lambda: gde.fetch_openai("../../etc/passwd"),
    ),
    (
        "read_weights of a missing file",
        "path must be a file of weights",
        lambda: gde.read_weights("/nowhere/at/all.pt"),
    ),
    (
        "read_weights of a folder",
        "path must be a file of weights",
        lambda: gde.read_weights("tests"),
    ),
    (
        "from_openai with no weights",
        "weights must fit the model, and these do not: missing",
        lambda: gde.from_openai("64x64_classifier", {}),
    ),
    (
        "load_released with weights of words",
        "weights must be tensors by name",
        lambda: gde.load_released(NET, {"time_embed.0.weight": "a"}),
    ),
    (
        "upsample of a flat picture",
        r"low_res must have shape \(B, C, h, w\), got \(1, 8, 8\)",
        lambda: gde.upsample(ENLARGER, SHORT, PIXELS[0]),
    ),
    (
        "upsample by what does not",
        "low_res must be None, as this model does not enlarge",
        lambda: gde.upsample(NET, SHORT, PIXELS),
    ),
    (
        "draw_guided of no class",
        r"y must be one or more classes in \[0, 10\), got \[\]",
        lambda: gde.draw_guided(gde.load_pretrained("digits"), T[:0]),
    ),
    (
        "draw_guided at two scales",
        "scale must be a number",
        lambda: gde.draw_guided(gde.load_pretrained("digits"), T, scale=torch.ones(2)),
    ),
    (
        "draw_guided of an unknown class",
        r"y must be one or more classes in \[0, 10\), got \[10\]",
        lambda: gde.draw_guided(gde.load_pretrained("digits"), T[:1] + 10),
    ),
]


@cases(TABLE)
def test_it_is_refused_in_one_line(said, call):
    is_refused(said, call)


FILES = [  # (what, said, what is done with the path)
    (
        "a pickle that runs code",
        WHOLE,
        lambda p: gde.read_weights(written(p, pickle.dumps(Payload()))),
    ),
    (
        "a PyTorch file that runs code",
        WHOLE,
        lambda p: (torch.save({"a": Payload()}, p), gde.read_weights(p)),
    ),
    (
        "a checkpoint that runs code",
        WHOLE,
        lambda p: (
            torch.save({"time_embed.0.weight": Payload()}, p),
            gde.from_openai("64x64_classifier", p),
        ),
    ),
    (
        "an old PyTorch file that runs code",
        WHOLE,
        lambda p: (
            torch.save([Payload()], p, _use_new_zipfile_serialization=False),
            gde.read_weights(p),
        ),
    ),
    (
        "a PyTorch file of other things",
        "path must be a file of tensors by name",
        lambda p: (torch.save({"a": 3}, p), gde.read_weights(p)),
    ),
    ("an empty file of weights", WHOLE, lambda p: gde.read_weights(written(p, b""))),
    (
        "a cut PyTorch file",
        WHOLE,
        lambda p: (
            torch.save({"a": torch.zeros(99)}, p),
            gde.read_weights(written(p, p.read_bytes()[:300])),
        ),
    ),
    ("a zip that is no PyTorch file", WHOLE, lambda p: gde.read_weights(archive(p, a=b""))),
    (
        "a folder without a classifier",
        r"no classifier.json",
        lambda p: gde.load_pretrained(weights(p, classifier_json=None)),
    ),
    (
        "a record that is no JSON",
        "weights must have the record of their training",
        lambda p: gde.load_pretrained(weights(p, diffusion_json=b'{"config"')),
    ),
    (
        "a record of bytes",
        "weights must have the record of their training",
        lambda p: gde.load_pretrained(weights(p, diffusion_json=b"\xff\xfe\x00")),
    ),
    (
        "a record that is a list",
        "weights must have the record of their training",
        lambda p: gde.load_pretrained(weights(p, diffusion_json=b"[]")),
    ),
    (
        "a record too deep",
        "weights must have the record of their training",
        lambda p: gde.load_pretrained(weights(p, diffusion_json=b"[" * 100_000)),
    ),
    (
        "a record with an unknown schedule",
        "weights must have the record",
        lambda p: gde.load_pretrained(
            weights(p, diffusion_json=changed(schedule=dict(name="steep", T=1000)))
        ),
    ),
    (
        "a record with too many steps",
        "weights must have the record",
        lambda p: gde.load_pretrained(
            weights(p, diffusion_json=changed(schedule=dict(name="linear", T=10**15)))
        ),
    ),
    (
        "a record with steps that are a word",
        "weights must have the record",
        lambda p: gde.load_pretrained(
            weights(p, diffusion_json=changed(schedule=dict(name="linear", T="many")))
        ),
    ),
    (
        "a record with an unknown prediction",
        "weights must have the record",
        lambda p: gde.load_pretrained(
            weights(p, diffusion_json=changed(recipe=dict(predicts="x_0")))
        ),
    ),
    (
        "a record with a recipe that is a list",
        "weights must have the record",
        lambda p: gde.load_pretrained(weights(p, diffusion_json=changed(recipe=[]))),
    ),
    (
        "a record with an unknown field",
        "weights must fit their record",
        lambda p: gde.load_pretrained(weights(p, diffusion_json=changed(config=dict(depth=3)))),
    ),
    (
        "a record of another network",
        "weights must fit their record",
        lambda p: gde.load_pretrained(weights(p, diffusion_json=changed(config=asdict(PLAN)))),
    ),
    (
        "a record of an impossible network",
        "channels must be",
        lambda p: gde.load_pretrained(weights(p, diffusion_json=changed(config=dict(channels=-1)))),
    ),
    (
        "cut weights",
        WHOLE,
        lambda p: gde.load_pretrained(
            weights(
                p,
                diffusion_safetensors=(
                    pretrained.WEIGHTS / "digits" / "diffusion.safetensors"
                ).read_bytes()[:5000],
            )
        ),
    ),
    (
        "weights from a host without https",
        "must come by https",
        lambda p: gde.fetch_openai("64x64_classifier", p, answering(b"x", "http://elsewhere")),
    ),
    (
        "weights that end too soon",
        r"must be whole: got 1 of 2 bytes",
        lambda p: gde.fetch_openai("64x64_classifier", p, answering(b"x", length=2)),
    ),
    (
        "weights that were exchanged",
        "must have the SHA-256",
        lambda p: (
            gde.fetch_openai("64x64_classifier", p, answering(b"x")),
            written(p / "64x64_classifier.pt", b"y"),
            gde.fetch_openai("64x64_classifier", p),
        ),
    ),
    (
        "half precision of damaged weights",
        WHOLE,
        lambda p: gde.write_half(weights(p / "a", diffusion_safetensors=b""), p / "b"),
    ),
]


@cases(FILES)
@pytest.mark.filterwarnings("ignore")
def test_a_bad_file_is_refused_in_one_line_and_runs_nothing(tmp_path, said, call):
    file_is_refused(tmp_path, said, call)
