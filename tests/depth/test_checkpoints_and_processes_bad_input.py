"""What the page "checkpoints and processes" refuses, and how it says so."""

import errno
import os
import struct

import pytest
import torch

import guided_diffusion_edu as gde
from bad_input import LINE, NET, WHOLE, cases, file_is_refused, interrupted, lying, trained, written
from guided_diffusion_edu import batches, checkpoints, commands, evaluation, pretrained
from guided_diffusion_edu.cli import main
from guided_diffusion_edu.training import watch_samples


def whole(path):
    return path.write_bytes(
        lying({"a": dict(dtype="F32", shape=[1], data_offsets=[0, 4])}, b"\0" * 4)
    )


FILES = [  # (what, said, what is done with the path)
    ("an empty safetensors file", WHOLE, lambda p: checkpoints.read_tensors(written(p, b""))),
    (
        "a safetensors file with an endless header",
        WHOLE,
        lambda p: checkpoints.read_tensors(written(p, struct.pack("<Q", 2**63) + b"{}")),
    ),
    (
        "a safetensors file with a header that is no JSON",
        WHOLE,
        lambda p: checkpoints.read_tensors(written(p, lying(b"not json"))),
    ),
    (
        "a safetensors file that promises more",
        WHOLE,
        lambda p: checkpoints.read_tensors(
            written(p, lying({"a": dict(dtype="F32", shape=[9], data_offsets=[0, 36])}, b"\0" * 4))
        ),
    ),
    (
        "a safetensors file with a shape that is not its data",
        WHOLE,
        lambda p: checkpoints.read_tensors(
            written(p, lying({"a": dict(dtype="F32", shape=[9], data_offsets=[0, 4])}, b"\0" * 4))
        ),
    ),
    (
        "a safetensors file with tensors over each other",
        WHOLE,
        lambda p: checkpoints.read_tensors(
            written(
                p,
                lying(
                    {n: dict(dtype="F32", shape=[1], data_offsets=[0, 4]) for n in "ab"}, b"\0" * 4
                ),
            )
        ),
    ),
    (
        "a safetensors file of an unknown dtype",
        WHOLE,
        lambda p: checkpoints.read_tensors(
            written(p, lying({"a": dict(dtype="X9", shape=[1], data_offsets=[0, 4])}, b"\0" * 4))
        ),
    ),
    (
        "a safetensors file with a note that is no JSON",
        WHOLE,
        lambda p: checkpoints.read_tensors(written(p, lying({"__metadata__": {"about": "{"}}))),
    ),
    ("a missing safetensors file", "No such file", lambda p: checkpoints.read_tensors(p)),
    (
        "a folder in place of a safetensors file",
        "",
        lambda p: (p.mkdir(), checkpoints.read_tensors(p)),
    ),
    (
        "a checkpoint of another run",
        "out must be a new folder or one of the same run",
        lambda p: (p.mkdir(), whole(p / "diffusion.checkpoint"), trained(p)),
    ),
    (
        "a checkpoint that is cut",
        WHOLE,
        lambda p: (p.mkdir(), written(p / "diffusion.checkpoint", b"cut"), trained(p)),
    ),
]


@cases(FILES)
@pytest.mark.filterwarnings("ignore")
def test_a_bad_file_is_refused_in_one_line_and_runs_nothing(tmp_path, said, call):
    file_is_refused(tmp_path, said, call)


# A disk that is full, a folder that cannot be written in, an interrupt: an earlier result stays as
# it was, and nothing half written is left.

DIGITS = pretrained.WEIGHTS / "digits"

RANDOM = torch.rand(130, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1

WRITERS = [  # (what, name of the file, how it is written)
    ("write_text", "a.txt", lambda p: checkpoints.write_text(p, "new")),
    (
        "write_tensors",
        "a.safetensors",
        lambda p: checkpoints.write_tensors(p, {"a": torch.zeros(3)}, {}),
    ),
    ("write_png", "a.png", lambda p: commands.write_png(p, RANDOM)),
    (
        "write_npz",
        "a.npz",
        lambda p: batches.write_npz(p, gde.to_pixels(RANDOM), torch.zeros(130).long(), ["0"]),
    ),
    ("write_half", "diffusion.safetensors", lambda p: gde.write_half(DIGITS, p.parent)),
    (
        "write_reference",
        "a.npz",
        lambda p: batches.write_reference(
            p,
            evaluation.FeatureStatistics(*[evaluation.Gaussian(torch.zeros(2), torch.eye(2))] * 2),
            "none",
        ),
    ),
    (
        "watch_samples",
        "samples-000003.png",
        lambda p: watch_samples(p.parent, LINE, (1, 1, 8, 8), steps=2)(NET, range(3)),
    ),
    ("train_diffusion", "diffusion.json", lambda p: trained(p.parent)),
    ("gde sample to .png", "a.png", lambda p: ended(f"sample --count 2 --steps 2 --out {p}")),
    ("gde sample to .npz", "a.npz", lambda p: ended(f"sample --count 2 --steps 2 --out {p}")),
    ("gde data", "a.png", lambda p: ended(f"data --data digits --out {p}")),
    ("gde pack", "diffusion.json", lambda p: ended(f"pack {DIGITS} {p.parent}")),
]


def ended(line):
    if main(line.split()):
        raise OSError("exit code")


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "name, write", [pytest.param(name, write, id=what) for what, name, write in WRITERS]
)
@pytest.mark.parametrize(
    "fault", ["full when it is forced", "full at the move", "interrupted", "no folder"]
)
def test_a_fault_while_writing_leaves_what_was_there(
    tmp_path, monkeypatch, capsys, name, write, fault
):
    folder = tmp_path / "out"
    if fault == "no folder":  # a path under a file cannot be written, by nobody
        folder.write_text("a file")
        with pytest.raises((OSError, ValueError)):
            write(folder / name)
        assert folder.read_text() == "a file" and [p.name for p in tmp_path.iterdir()] == ["out"]
        return
    folder.mkdir()
    (folder / name).write_text("earlier")
    monkeypatch.setattr(
        os,
        *dict(
            zip(
                ["full when it is forced", "full at the move", "interrupted"],
                [("fsync", full), ("replace", full), ("fsync", interrupted)],
            )
        )[fault],
    )
    with pytest.raises((OSError, KeyboardInterrupt)):
        write(folder / name)
    assert "Traceback" not in capsys.readouterr().err
    assert (folder / name).read_text() == "earlier" and not [
        p for p in folder.iterdir() if p.name.startswith(".")
    ]


def test_a_full_device_says_so():
    with pytest.raises(OSError, match="No space left"):
        checkpoints.write_whole(
            "/dev/shm/never", lambda p: open("/dev/full", "wb", buffering=0).write(b"x")
        )


def test_an_interrupted_training_goes_on_from_its_checkpoint(tmp_path):
    """Stopped at the first checkpoint's watch, as by Ctrl-C, and taken up again: the weights of a
    run that was not stopped.
    """
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "a", watch=[interrupted])
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["diffusion.checkpoint"]
    torch.manual_seed(5)
    again, straight = trained(tmp_path / "a"), trained(tmp_path / "b")
    assert all(
        torch.equal(a, b)
        for a, b in zip(again.state_dict().values(), straight.state_dict().values())
    )
