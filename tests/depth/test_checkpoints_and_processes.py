"""Runs that are interrupted, killed and taken up again, and runs shared by processes."""

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import guided_diffusion_edu as gde
import training_in_processes as processes
from guided_diffusion_edu import training
from guided_diffusion_edu.training import (
    State,
    fit,
    load_state,
    read_tensors,
    save_state,
    write_tensors,
    write_whole,
)
from training_runs import RECIPE, SMALL, plain, run, tensors


def test_resumed_is_straight_to_the_bit(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    _, straight, losses = run(tmp_path / "a")
    calls = []

    def failing(*args):
        calls.append(1)
        if len(calls) > 3:
            raise KeyboardInterrupt  # in the fourth step, after the checkpoint of the second
        return plain(*args)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", failing)
    _, resumed, again = run(tmp_path / "b")
    assert losses == again
    for a, b in zip(straight.state_dict().values(), resumed.state_dict().values()):
        assert torch.equal(a, b)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_step_and_is_saved(tmp_path, number):
    """In the first step of four: it is finished and saved, what was there before acts again, and
    the run goes on to the same weights.
    """
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    _, straight, losses = run(tmp_path / "a")
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]

    def hurried(*args):
        os.kill(os.getpid(), number)
        return plain(*args)

    with pytest.raises(KeyboardInterrupt, match=r"stopped after step 1, saved in .*checkpoint"):
        run(tmp_path / "b", hurried)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    assert len(read_tensors(tmp_path / "b" / "checkpoint")[0]["history"]) == 1
    _, resumed, again = run(tmp_path / "b")
    assert losses == again and all(
        torch.equal(a, b)
        for a, b in zip(straight.state_dict().values(), resumed.state_dict().values())
    )


def test_a_second_interrupt_stops_at_once(tmp_path):
    def twice(*_):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("went on")

    with pytest.raises(KeyboardInterrupt) as stopped:
        run(tmp_path, twice)
    assert not str(stopped.value) and not (tmp_path / "checkpoint").exists()


def test_an_interrupt_after_the_last_step_is_one(tmp_path):
    "All is saved by then; what comes after training must not begin."

    def late(*_):
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(
            gde.UNet(SMALL),
            plain,
            gde.load_data("digits"),
            gde.linear_schedule(),
            replace(RECIPE, save_every=4),
            tmp_path / "checkpoint",
            {},
            progress=False,
            watch=[late],
        )
    assert len(read_tensors(tmp_path / "checkpoint")[0]["history"]) == 4


def test_what_is_ignored_stays_ignored(tmp_path):
    "As under nohup."
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:

        def hurried(*args):
            os.kill(os.getpid(), signal.SIGINT)
            return plain(*args)

        assert len(run(tmp_path, hurried)[2]) == 4
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_record_may_hold_what_json_holds(tmp_path):
    for _ in range(2):
        fit(
            gde.UNet(SMALL),
            plain,
            gde.load_data("digits"),
            gde.linear_schedule(),
            RECIPE,
            tmp_path / "checkpoint",
            dict(names=("a", "b")),
            progress=False,
        )
    with pytest.raises(FileNotFoundError, match="must be in a folder that exists"):
        fit(
            gde.UNet(SMALL),
            lambda *_: pytest.fail("trained"),
            gde.load_data("digits"),
            gde.linear_schedule(),
            RECIPE,
            tmp_path / "none" / "a",
            {},
            progress=False,
        )


def test_finished_weights_are_not_trained_over(tmp_path):
    "Without the checkpoint, which is large and may be deleted, a run cannot go on from them."
    gde.train_diffusion(SMALL, gde.load_data("digits"), tmp_path, RECIPE, progress=False)
    (tmp_path / "diffusion.checkpoint").unlink()
    before = (tmp_path / "diffusion.safetensors").read_bytes()
    with pytest.raises(
        ValueError, match=r"has a finished diffusion.safetensors without its checkpoint"
    ):
        gde.train_diffusion(SMALL, gde.load_data("digits"), tmp_path, RECIPE, progress=False)
    assert (tmp_path / "diffusion.safetensors").read_bytes() == before


def test_a_run_that_is_not_finished_is_said_to_be_one(tmp_path):
    (tmp_path / "diffusion.checkpoint").touch()
    with pytest.raises(
        ValueError,
        match=r"no diffusion.json, diffusion.safetensors there; a run was begun there and is not finished",
    ):
        gde.load_pretrained(str(tmp_path))
    for ending in ("checkpoint", "json", "safetensors"):
        (tmp_path / f"classifier.{ending}").touch()  # finished, its diffusion model never begun
    (tmp_path / "diffusion.checkpoint").unlink()
    with pytest.raises(ValueError, match=r"\(no diffusion.json, diffusion.safetensors there\)"):
        gde.load_pretrained(str(tmp_path))


def same(a, b):
    return a.keys() == b.keys() and all(
        torch.equal(a[k], b[k])
        or (k == "history" and torch.equal(a[k].nan_to_num(-1), b[k].nan_to_num(-1)))
        for k in a
    )


@pytest.mark.parametrize(
    "fields",
    [{}, dict(precision="float16"), dict(timesteps="uniform", flip=True, accumulate=2)],
    ids=["importance", "float16", "flips"],
)
def test_resumed_is_straight_with_dropout_importance_and_scaling(tmp_path, fields):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    processes.tiny_run(tmp_path / "a", steps=12, save_every=5, **fields)
    calls = []

    def failing(*args):
        calls.append(1)
        if len(calls) > 8 * fields.get("accumulate", 1):
            raise KeyboardInterrupt
        return processes.plain(*args)

    with pytest.raises(KeyboardInterrupt):
        processes.tiny_run(tmp_path / "b", loss=failing, steps=12, save_every=5, **fields)
    assert len(tensors(tmp_path / "b")["history"]) == 5
    processes.tiny_run(tmp_path / "b", steps=12, save_every=5, **fields)
    assert same(tensors(tmp_path / "a"), tensors(tmp_path / "b"))
    assert (
        read_tensors(tmp_path / "a" / "checkpoint")[1]
        == read_tensors(tmp_path / "b" / "checkpoint")[1]
    )
    if not fields:
        assert "adaptive.seen" in tensors(tmp_path / "a")
    if "precision" in fields:
        assert (
            read_tensors(tmp_path / "a" / "checkpoint")[1]["scaler"]["scale"] == 2**15
        )  # one step overflowed and was left out


def process(*argv):
    done = subprocess.run(
        [sys.executable, Path(__file__).parents[1] / "training_in_processes.py", *map(str, argv)],
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ | dict(PYTHONPATH=str(Path(gde.__file__).parents[1])),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_killed_at_any_moment_it_goes_on_from_the_last_whole_checkpoint(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    processes.tiny_run(tmp_path / "a")
    kills = int(process("kill", tmp_path / "b", 0))
    assert kills >= 3
    assert same(tensors(tmp_path / "a"), tensors(tmp_path / "b"))
    assert [p.name for p in (tmp_path / "b").iterdir()] == [
        "checkpoint"
    ]  # what a kill left half written is gone


def test_two_processes_are_one(tmp_path):
    """The same batch in two processes and two parts each gives the weights of one process, to
    rounding.
    """
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()
    process("share", two)
    processes.unet_run(one / "unet", accumulate=1), processes.tiny_run(one, dropout=0.0)
    for name in ("checkpoint", "unet/diffusion.checkpoint"):
        a, b = (read_tensors(folder / name)[0] for folder in (one, two))
        assert a.keys() == b.keys()
        for key in a:
            assert torch.allclose(
                a[key].double().nan_to_num(-1), b[key].double().nan_to_num(-1), atol=2e-5, rtol=1e-4
            ), key
    assert torch.equal(tensors(one)["adaptive.seen"], tensors(two)["adaptive.seen"])
    assert json.loads((two / "unet" / "diffusion.json").read_text())["processes"] == 2


def test_shares_must_be_even(tmp_path):
    with pytest.raises(
        ValueError, match="batch must be a multiple of processes times accumulate = 1 x 3, got 16"
    ):
        processes.tiny_run(tmp_path, accumulate=3)


def test_a_whole_write_forces_file_then_move_then_folder(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace

    def forced(number):
        done.append("folder" if os.path.isdir(f"/dev/fd/{number}") else "fsync")
        return fsync(number)

    def moved(*paths):
        done.append("replace")
        return replace(*paths)

    monkeypatch.setattr(os, "fsync", forced)
    monkeypatch.setattr(os, "replace", moved)
    write_whole(tmp_path / "a", lambda p: p.write_text("x"))
    assert done == ["fsync", "replace", "folder"] and (tmp_path / "a").read_text() == "x"


def test_another_runs_checkpoint_is_refused(tmp_path):
    processes.tiny_run(tmp_path, steps=1)
    state = State(processes.Tiny(), gde.Recipe(), 25)
    with pytest.raises(ValueError, match="out must be a new folder or one of the same run"):
        load_state(state, tmp_path / "checkpoint", {"another": 1})


def test_what_differs_from_another_run_is_said(tmp_path):
    state = State(processes.Tiny(), gde.Recipe(), 25)
    begun = dict(recipe=dict(precision="bfloat16", steps=9), note="a", extra=1)
    save_state(state, tmp_path / "checkpoint", begun)
    for now, said in [
        (
            dict(begun, recipe=dict(precision="float16", steps=9)),
            "recipe.precision was 'bfloat16', now 'float16'$",
        ),
        (
            dict(begun, note="b", recipe=dict(precision="float32", steps=8)),
            "was 'bfloat16', now 'float32'; recipe.steps was 9, now 8; note was 'a', now 'b'$",
        ),
        (dict(recipe=begun["recipe"], note="a"), r"it records \['extra'\] too$"),
    ]:
        with pytest.raises(ValueError, match=said):
            load_state(state, tmp_path / "checkpoint", now)
    write_tensors(tmp_path / "checkpoint", {}, dict(about=None))
    with pytest.raises(ValueError, match=r"its record is None$"):
        load_state(state, tmp_path / "checkpoint", begun)


def test_under_torchrun_a_process_group_lasts_as_long_as_the_run(monkeypatch, tmp_path):
    "One process, told by torchrun that it is the only one; without torchrun there is none."
    from torch import distributed

    with training.processes():
        assert not distributed.is_initialized()
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    for name, value in dict(
        RANK=0, LOCAL_RANK=0, WORLD_SIZE=1, MASTER_ADDR="127.0.0.1", MASTER_PORT=port
    ).items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(KeyError), training.processes():
        assert distributed.get_world_size() == 1
        with training.processes():
            pass  # the inner one leaves it alone
        assert distributed.is_initialized()
        raise KeyError
    assert not distributed.is_initialized()


def test_a_run_goes_on_with_its_own_data_only_however_they_are_called(tmp_path):
    data = gde.load_data("digits")

    def go_on(pixels, labels=data.labels, **fields):
        return gde.train_diffusion(
            SMALL,
            data._replace(pixels=pixels, labels=labels),
            tmp_path,
            replace(RECIPE, **fields),
            note=str(fields),
            progress=False,
        )

    go_on(data.pixels)
    go_on(data.pixels, save_every=3)
    other = data.pixels.clone()
    other[0, 0, 0, 0] += 1
    go_on(
        data.pixels.flip(-1).flip(-1).mT.contiguous().mT
    )  # the same numbers, another way through memory
    for pixels, labels in ((other, data.labels), (data.pixels, data.labels.flip(0))):
        with pytest.raises(ValueError, match="was written by another: data was"):
            go_on(pixels, labels)


def test_a_record_is_json(tmp_path):
    "In two steps not every quarter of the levels is met; JSON has no nan."
    gde.train_diffusion(
        SMALL, gde.load_data("digits"), tmp_path, gde.Recipe(steps=1, batch=2), progress=False
    )
    record = json.loads(
        (tmp_path / "diffusion.json").read_text(), parse_constant=lambda name: pytest.fail(name)
    )
    assert None in record["loss_by_quarter"] and record["note"] == ""
