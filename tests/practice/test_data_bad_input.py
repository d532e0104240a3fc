"""What the page "data" refuses, and how it says so."""

import gzip
import json
import struct
import zlib

import pytest
import torch

import guided_diffusion_edu as gde
from bad_input import DATA, PIXELS, Y, cases, file_is_refused, is_refused, written
from guided_diffusion_edu import data
from guided_diffusion_edu.data import (
    centre_crop,
    class_examples,
    data_card,
    digits_evaluation_classifier,
    pad,
    within_class_std,
)


def png(path, width, height):
    "A PNG that says it is `width` x `height`, and is cut off there."
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + b"\x00\x00\x00\x10IDAT"
    )
    return path.parent.parent


def emoji(path, listed):
    png(path / "img" / "any" / "64" / "a.png", 64, 64)
    (path / "emoji.json").write_text(listed)
    return f"emoji:{path}"


def picture():
    from PIL import Image

    return Image.new("RGB", (8, 8))


def judge():
    return digits_evaluation_classifier()


TABLE = [  # (what, said, call)
    ("load_data of an unknown name", "data must be .* got 'lions'", lambda: gde.load_data("lions")),
    ("load_data of None", "data must be .* got None", lambda: gde.load_data(None)),
    (
        "load_data of a missing folder",
        "data must be a folder",
        lambda: gde.load_data("folder:/nowhere/at/all"),
    ),
    (
        "load_data of missing emoji",
        "data must be emoji at a path that exists",
        lambda: gde.load_data("emoji:/nowhere/at/all"),
    ),
    (
        "load_data at size 0",
        "image_size must be a whole number .* got 0",
        lambda: gde.load_data("folder:tests", image_size=0),
    ),
    (
        "load_data with an unknown rule",
        "unfit must be one of .* got 'guess'",
        lambda: gde.load_data("digits", unfit="guess"),
    ),
    (
        "pad to less",
        "size must be at least that of the images, 8 x 8, got 4",
        lambda: pad(DATA, 4),
    ),
    (
        "centre_crop to nothing",
        "size must be a whole number .* got 0",
        lambda: centre_crop(picture(), 0),
    ),
    (
        "from_pixels of floats",
        "pixels must be uint8, got torch.float32",
        lambda: gde.from_pixels(PIXELS),
    ),
    (
        "data_card of an unknown name",
        "name must be .* got 'lions'",
        lambda: data_card("lions", DATA),
    ),
    (
        "class_examples with too many",
        "n must be at most the number of images per class, got 2",
        lambda: class_examples(DATA, 2),
    ),
    (
        "class_examples with none",
        "n must be a whole number .* got 0",
        lambda: class_examples(DATA, 0),
    ),
    (
        "digits_evaluation_classifier of another size",
        r"x must have shape \(B, 1, 8, 8\)",
        lambda: judge()(torch.zeros(2, 1, 9, 9)),
    ),
    (
        "within_class_std of nothing",
        r"x must hold at least 1 example",
        lambda: within_class_std(PIXELS[:0], Y[:0]),
    ),
    (
        "within_class_std with classes for others",
        r"y must have shape \(2,\)",
        lambda: within_class_std(PIXELS, Y[:1]),
    ),
]


@cases(TABLE)
def test_it_is_refused_in_one_line(said, call):
    is_refused(said, call)


FILES = [  # (what, said, what is done with the path)
    (
        "an image bomb",
        r"cannot be read \(DecompressionBombError\)",
        lambda p: gde.load_data(f"folder:{png(p / 'a' / 'a.png', 60_000, 60_000)}"),
    ),
    (
        "a cut picture",
        r"cannot be read",
        lambda p: gde.load_data(f"folder:{png(p / 'a' / 'a.png', 64, 64)}"),
    ),
    (
        "a picture of no size",
        r"cannot be read",
        lambda p: gde.load_data(f"folder:{png(p / 'a' / 'a.png', 0, 0)}"),
    ),
    (
        "text named .png",
        r"cannot be read",
        lambda p: (
            png(p / "a" / "b.png", 1, 1),
            written(p / "a" / "b.png", b"text"),
            gde.load_data(f"folder:{p}"),
        ),
    ),
    (
        "an empty folder",
        "data must be a folder with one folder of images per class",
        lambda p: (p.mkdir(), gde.load_data(f"folder:{p}")),
    ),
    (
        "a file for a folder",
        "data must be a folder",
        lambda p: gde.load_data(f"folder:{written(p, b'')}"),
    ),
    (
        "emoji with a list that is no JSON",
        "data must be emoji with npm's emoji.json",
        lambda p: gde.load_data(emoji(p, "[")),
    ),
    (
        "emoji with a list of other things",
        "data must be emoji with npm's emoji.json",
        lambda p: gde.load_data(emoji(p, '[{"image": 3, "category": "a"}]')),
    ),
    (
        "emoji that leave their folder",
        "data must hold emoji, got 0 in 0 categories",
        lambda p: gde.load_data(
            emoji(p, json.dumps([dict(image="../../../emoji.json", category="a")]))
        ),
    ),
    ("a font that is none", "", lambda p: gde.load_data(f"emoji:{written(p, b'no font')}")),
    (
        "an empty IDX file",
        "complete file in MNIST's format",
        lambda p: data.read_idx(written(p, b"")),
    ),
    (
        "a cut IDX file",
        "complete file in MNIST's format",
        lambda p: data.read_idx(written(p, bytes([0, 0, 8, 1, 0, 0, 0, 9, 1]))),
    ),
    (
        "an IDX file that promises all there is",
        "complete file in MNIST's format",
        lambda p: data.read_idx(written(p, bytes([0, 0, 8, 4]) + b"\xff" * 99)),
    ),
    (
        "a gzipped IDX file that is cut",
        "complete file in MNIST's format",
        lambda p: data.read_idx(written(p.with_suffix(".gz"), gzip.compress(bytes(999))[:20])),
    ),
]


@cases(FILES)
@pytest.mark.filterwarnings("ignore")
def test_a_bad_file_is_refused_in_one_line_and_runs_nothing(tmp_path, said, call):
    file_is_refused(tmp_path, said, call)


def test_a_download_that_fails_is_one_line(tmp_path, monkeypatch):
    from torchvision import datasets

    def fails(*_, **__):
        raise RuntimeError("Error downloading train-images\nand more")

    monkeypatch.setattr(datasets, "MNIST", fails)
    with pytest.raises(
        OSError, match=r"^data 'mnist' must be in .* Error downloading train-images$"
    ):
        gde.load_data("mnist", root=tmp_path)
