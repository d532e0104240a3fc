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
from guided_diffusion_edu.checkpoints import (
    load_state,
    read_tensors,
    save_state,
    write_tensors,
    write_text,
    write_whole,
)
from guided_diffusion_edu.distributed import gather_rows, own_rows
from guided_diffusion_edu.distributed import processes as processes_of_torchrun
from guided_diffusion_edu.provenance import digest_of, provenance
from guided_diffusion_edu.training import State, fit
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


@pytest.fixture(autouse=True)
def python_s_own_handlers():
    "A script that starts the tests in the background lets them ignore SIGINT: they do not."
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


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
        match=r"no diffusion\.json, diffusion\.safetensors there; a run was begun there "
        r"and is not finished",
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
            read_tensors(tmp_path / "a" / "checkpoint")[1]["numbers"]["scaler.scale"] == 2**15
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
    with pytest.raises(ValueError, match="out must be a new folder or one of the same run"):
        load_state(tmp_path / "checkpoint", {"another": 1})


def test_what_differs_from_another_run_is_said(tmp_path):
    begun = dict(recipe=dict(precision="bfloat16", steps=9), note="a", extra=1)
    save_state(tmp_path / "checkpoint", dict(w=torch.ones(2), step=3), begun)
    assert load_state(tmp_path / "checkpoint", begun)["step"] == 3
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
            load_state(tmp_path / "checkpoint", now)
    write_tensors(tmp_path / "checkpoint", {}, dict(about=None))
    with pytest.raises(ValueError, match=r"its record is None$"):
        load_state(tmp_path / "checkpoint", begun)


def test_under_torchrun_a_process_group_lasts_as_long_as_the_run(monkeypatch, tmp_path):
    "One process, told by torchrun that it is the only one; without torchrun there is none."
    from torch import distributed

    with processes_of_torchrun():
        assert not distributed.is_initialized()
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    for name, value in dict(
        RANK=0, LOCAL_RANK=0, WORLD_SIZE=1, MASTER_ADDR="127.0.0.1", MASTER_PORT=port
    ).items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(KeyError), processes_of_torchrun():
        assert distributed.get_world_size() == 1
        with processes_of_torchrun():
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


def test_a_state_of_another_network_does_not_fit(tmp_path):
    "By name and by shape; and what a file of this run must hold is missed."
    data, schedule, path = gde.load_data("digits"), gde.linear_schedule(), tmp_path / "checkpoint"
    run(tmp_path)
    for config in (replace(SMALL, channels=64), replace(SMALL, channel_mult=(1,))):
        with pytest.raises(ValueError, match="out must hold a whole checkpoint of this run, and"):
            fit(gde.UNet(config), plain, data, schedule, RECIPE, path, progress=False)
    tensors, about = read_tensors(path)
    del tensors["history"]
    write_tensors(path, tensors, about)
    with pytest.raises(ValueError, match="does not fit: 'history'"):
        run(tmp_path)
    write_tensors(path, tensors, dict(about=None, numbers=3))
    with pytest.raises(ValueError, match="out must hold a whole checkpoint of this run, and"):
        run(tmp_path)


def test_a_state_comes_back_whole():
    "Tensors, numbers and words by name, on another state of the same kind."
    recipe = gde.Recipe(timesteps="importance", precision="float16")
    one, two = (State(processes.Tiny(), processes.SCHEDULE, recipe) for _ in range(2))
    share = processes.DIGITS.pixels[:4].float() / 127.5 - 1
    for _ in range(2):
        one.scaler.scale(one.model(share, torch.zeros(4)).square().mean()).backward()
        one.update()
        one.note(torch.arange(4), torch.ones(4), torch.ones(4))
    two.load_state_dict(one.state_dict())
    ours, theirs = one.state_dict(), two.state_dict()
    assert ours.keys() == theirs.keys() and {"optimizer.0.exp_avg", "scaler.scale"} <= ours.keys()
    for name, value in ours.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value.nan_to_num(-1), theirs[name].nan_to_num(-1)), name
        else:
            assert value == theirs[name], name


def test_one_process_holds_all_rows():
    rows = torch.randn(6, 2)
    assert torch.equal(own_rows(rows), rows) and gather_rows(rows) is rows


def test_a_process_takes_every_second_row(monkeypatch):
    from guided_diffusion_edu import distributed

    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    for k in range(2):
        monkeypatch.setattr(distributed, "rank", lambda k=k: k)
        assert own_rows(torch.arange(6)).tolist() == [k, k + 2, k + 4]


def test_a_digest_is_of_numbers_shape_and_type():
    x = torch.arange(6, dtype=torch.int32)
    same_numbers = [x.view(2, 3), x.long(), x.flip(0), x.view(torch.float32)]
    assert digest_of([x]) == digest_of([x.view(3, 2).T.contiguous().T.reshape(6)])
    assert len({digest_of([x]), *(digest_of([y]) for y in same_numbers)}) == 5
    assert digest_of([x[:3], x[3:]]) != digest_of([x])


def test_provenance_without_git_or_installation(monkeypatch):
    "Outside a clone there is no commit, and a copy that is not installed has no version."
    import importlib.metadata

    from guided_diffusion_edu import provenance as module

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    assert provenance()["version"] == gde.__version__
    monkeypatch.setattr(module.shutil, "which", lambda _: None)
    monkeypatch.setattr(module, "version", missing)
    record = provenance()
    assert record["commit"] is None and record["version"] is None and record["device"] == "cpu"


def test_a_text_is_whole(tmp_path):
    write_text(tmp_path / "a.txt", "ä")
    assert (tmp_path / "a.txt").read_text() == "ä" and len(list(tmp_path.iterdir())) == 1
