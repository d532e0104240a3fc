"""The training loop: what it averages, that it can be taken up again, and that networks hear all that they are told."""

import argparse
import io
import json
import math
import os
import signal
import socket
import subprocess
import sys
from dataclasses import fields, replace
from functools import partialmethod
from pathlib import Path

import pytest
import torch
import training_in_processes as processes
from PIL import Image

import guided_diffusion_edu as gde
from guided_diffusion_edu import cli, training
from guided_diffusion_edu.diffusion import simple_loss
from guided_diffusion_edu.training import (
    State,
    draw_batch,
    fit,
    learning_rate,
    load_state,
    read_tensors,
    save_state,
    training_cost,
    write_half,
    write_tensors,
    write_whole,
)
from guided_diffusion_edu.unet import Stage

SMALL = gde.UNetConfig(
    image_size=8,
    in_channels=1,
    channels=32,
    channel_mult=(1, 1),
    res_blocks=1,
    attention_resolutions=(),
    head_channels=32,
    learned_variance=False,
)
RECIPE = gde.Recipe(steps=4, batch=8, save_every=2, warmup=1, ema_decay=0.5)


def plain(model, schedule, x_0, y, t, eps):
    return simple_loss(model, schedule, x_0, t, eps)


def run(folder, loss=plain, recipe=RECIPE):
    torch.manual_seed(0)
    model = gde.UNet(SMALL)
    average, losses = fit(
        model,
        loss,
        gde.load_data("digits"),
        gde.linear_schedule(),
        recipe,
        folder / "checkpoint",
        {},
        progress=False,
    )
    return model, average, losses


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
    "In the first step of four: it is finished and saved, what was there before acts again, and the run goes on to the same weights."
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    _, straight, losses = run(tmp_path / "a")
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]

    def hurried(*args):
        os.kill(os.getpid(), number)
        return plain(*args)

    with pytest.raises(KeyboardInterrupt, match="stopped after step 1, saved in .*checkpoint"):
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
        ValueError, match="has a finished diffusion.safetensors without its checkpoint"
    ):
        gde.train_diffusion(SMALL, gde.load_data("digits"), tmp_path, RECIPE, progress=False)
    assert (tmp_path / "diffusion.safetensors").read_bytes() == before


def test_a_run_that_is_not_finished_is_said_to_be_one(tmp_path):
    (tmp_path / "diffusion.checkpoint").touch()
    with pytest.raises(
        ValueError,
        match="no diffusion.json, diffusion.safetensors there; a run was begun there and is not finished",
    ):
        gde.load_pretrained(str(tmp_path))
    for ending in ("checkpoint", "json", "safetensors"):
        (tmp_path / f"classifier.{ending}").touch()  # finished, its diffusion model never begun
    (tmp_path / "diffusion.checkpoint").unlink()
    with pytest.raises(ValueError, match=r"\(no diffusion.json, diffusion.safetensors there\)"):
        gde.load_pretrained(str(tmp_path))


def test_the_average_follows_the_weights(tmp_path):
    "One step at decay 0.5 leaves the average half way between the first weights and the present ones."
    torch.manual_seed(0)
    first = gde.UNet(SMALL).state_dict()
    model, average, _ = run(tmp_path, recipe=gde.Recipe(steps=1, batch=8, warmup=1, ema_decay=0.5))
    moved = model.state_dict()
    assert any(not torch.equal(first[name], moved[name]) for name in first)
    for name, value in average.state_dict().items():
        assert torch.allclose(value, (first[name] + moved[name]) / 2, atol=1e-6)


def test_a_batch_is_a_function_of_seed_and_step():
    data, s = gde.load_data("digits"), gde.linear_schedule()
    draw = lambda seed, step: draw_batch(data, s, gde.Recipe(batch=4, seed=seed), step)[3]
    assert torch.equal(draw(1, 5), draw(1, 5))
    assert not torch.equal(draw(1, 5), draw(1, 6)) and not torch.equal(draw(1, 5), draw(2, 5))


def shaken(config):
    "A UNet whose zeroed layers have moved."
    torch.manual_seed(0)
    model = gde.UNet(config)
    for p in model.parameters():
        if p.abs().max() == 0:
            torch.nn.init.normal_(p, std=0.05)
    return model.eval()


def test_the_class_is_heard_and_asked_for():
    model, x, t = (
        shaken(replace(SMALL, num_classes=3)),
        torch.randn(2, 1, 8, 8),
        torch.tensor([5, 5]),
    )
    assert not torch.allclose(model(x, t, torch.tensor([0, 0])), model(x, t, torch.tensor([1, 1])))
    with pytest.raises(ValueError, match="y must hold a class"):
        model(x, t)
    with pytest.raises(ValueError, match="this model has no classes"):
        shaken(SMALL)(x, t, torch.tensor([0, 0]))
    with pytest.raises(ValueError, match=r"t must have shape \(2,\)"):
        shaken(SMALL)(x, torch.tensor([5]))


def test_low_resolution_input_is_enlarged_bilinearly():
    model, x, t, low = (
        shaken(replace(SMALL, low_res=True)),
        torch.randn(2, 1, 8, 8),
        torch.tensor([5, 5]),
        torch.randn(2, 1, 4, 4),
    )
    enlarged = torch.nn.functional.interpolate(low, (8, 8), mode="bilinear")
    assert torch.allclose(model(x, t, low_res=low), model(x, t, low_res=enlarged), atol=1e-5)


def tensors(folder):
    return read_tensors(Path(folder) / "checkpoint")[0]


def same(a, b):
    return a.keys() == b.keys() and all(
        torch.equal(a[k], b[k])
        or (k == "history" and torch.equal(a[k].nan_to_num(-1), b[k].nan_to_num(-1)))
        for k in a
    )


def test_the_loop_is_what_it_says(tmp_path):
    "Against the same few lines written out: AdamW, the cut, the average."
    _, average, losses = run(tmp_path)
    torch.manual_seed(0)
    model, data, s = gde.UNet(SMALL), gde.load_data("digits"), gde.linear_schedule()
    adam, mean, seen = (
        torch.optim.AdamW(model.parameters(), weight_decay=0.0),
        [p.detach().clone() for p in model.parameters()],
        [],
    )
    for step in range(4):
        adam.param_groups[0]["lr"] = learning_rate(RECIPE, step)
        loss = plain(model, s, *draw_batch(data, s, RECIPE, step)).mean()
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        seen.append(loss.item())
        mean = [0.5 * m + 0.5 * p.detach() for m, p in zip(mean, model.parameters())]
    assert seen == losses
    for a, b in zip(average.parameters(), mean):
        assert torch.allclose(a, b, atol=1e-6)


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
        [sys.executable, Path(__file__).with_name("training_in_processes.py"), *map(str, argv)],
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
    "The same batch in two processes and two parts each gives the weights of one process, to rounding."
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


@pytest.mark.parametrize(
    "precision, steps, lost_at",
    [("float32", 50, 0), ("float16", 50, training.LOST - 1), ("float16", 5, 4)],
)
def test_a_lost_run_says_so(tmp_path, precision, steps, lost_at):
    "At once, and nothing is written; in float16, where a step may overflow, after a while."

    def lost(model, *rest):
        return processes.plain(model, *rest) * float("nan")

    with pytest.raises(ValueError, match=f"loss must stay a number, and is nan at step {lost_at}:"):
        processes.tiny_run(tmp_path, loss=lost, steps=steps, precision=precision)
    assert precision == "float16" or not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "fields, tolerance",
    [
        (dict(precision="bfloat16"), 0.02),
        (dict(precision="float16"), 0.005),
        (dict(channels_last=True), 1e-4),
        (dict(compile=True), 1e-4),
    ],
    ids=lambda f: str(f),
)
def test_ways_to_run_faster_learn_the_same(tmp_path, monkeypatch, fields, tolerance):
    monkeypatch.setattr(
        torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="eager")
    )  # the tracing without the C++ compiler
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    _, average, losses = run(tmp_path / "a")
    model, faster, found = run(tmp_path / "b", recipe=replace(RECIPE, **fields))
    assert fields != dict(compile=True) or all(
        stage._compiled_call_impl for stage in model.modules() if isinstance(stage, Stage)
    )
    assert found == pytest.approx(losses, rel=tolerance) and (
        found != losses or "precision" not in fields
    )
    assert (
        faster.state_dict().keys() == average.state_dict().keys()
        and next(faster.parameters()).dtype == torch.float32
    )
    assert (
        model.encoder.first.weight.is_contiguous(memory_format=torch.channels_last)
        or "channels_last" not in fields
    )


@pytest.mark.gpu
@pytest.mark.parametrize(
    "fields, tolerance",
    [
        ({}, 1e-3),
        (dict(channels_last=True), 1e-3),
        (dict(precision="bfloat16"), 0.02),
        (dict(precision="float16"), 0.005),
    ],
    ids=lambda f: str(f),
)
def test_a_gpu_learns_the_same_to_a_stated_tolerance(tmp_path, monkeypatch, fields, tolerance):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    model, _, found = run(tmp_path / "a", recipe=replace(RECIPE, **fields))
    assert next(model.parameters()).is_cuda
    monkeypatch.setattr(training, "_device", lambda: torch.device("cpu"))
    model, _, losses = run(tmp_path / "b")
    assert not next(model.parameters()).is_cuda and found == pytest.approx(losses, rel=tolerance)


def test_learned_variance_is_trained_by_the_hybrid_loss(tmp_path):
    "The output of the variance moves, which the simple loss never asks of it."
    processes.unet_run(tmp_path, steps=2, accumulate=1)
    last = read_tensors(tmp_path / "diffusion.safetensors")[0]["last.bias"]
    assert last.shape == (2,) and last[1] != 0


@pytest.mark.parametrize(
    "field, value",
    [
        ("steps", 0),
        ("batch", -1),
        ("accumulate", 0),
        ("ema_decay", 1.0),
        ("precision", "float8"),
        ("timesteps", "late"),
        ("clip", 0.0),
    ],
)
def test_recipes_that_cannot_be(field, value):
    with pytest.raises(ValueError, match=f"{field} must be"):
        gde.Recipe(**{field: value})


def test_flips_mirror_half_and_nothing_else():
    data, s = gde.load_data("digits"), gde.linear_schedule()
    (x, *rest), (flipped, *same_rest) = (
        draw_batch(data, s, gde.Recipe(batch=64, flip=flip), 3) for flip in (False, True)
    )
    mirrored = (flipped == x.flip(-1)).flatten(1).all(1)
    assert all(torch.equal(a, b) for a, b in zip(rest, same_rest)) and 20 < mirrored.sum() < 44
    assert torch.equal(flipped[~mirrored], x[~mirrored])


def test_a_whole_write_forces_file_then_move_then_folder(tmp_path, monkeypatch):
    done = []
    for name in ("fsync", "replace"):
        monkeypatch.setattr(
            os,
            name,
            lambda *args, name=name, real=getattr(os, name): (
                done.append(
                    "folder" if name == "fsync" and os.path.isdir(f"/dev/fd/{args[0]}") else name
                ),
                real(*args),
            )[1],
        )
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
    with pytest.raises(ValueError, match="its record is None$"):
        load_state(state, tmp_path / "checkpoint", begun)


@pytest.mark.parametrize(
    "cuda, bfloat16, wanted",
    [
        (True, True, "bfloat16"),
        (True, False, "float16"),
        (False, True, "bfloat16"),
        (False, False, "float32"),
    ],
)
def test_16_bits_only_where_they_are_built_in(monkeypatch, cuda, bfloat16, wanted):
    "Also in the plans of `gde train`, unless the command line says otherwise."
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: including_emulation or bfloat16,
    )
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(
        torch.cpu,
        "_is_avx512_bf16_supported",
        lambda: bfloat16,
        raising=tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 14),
    )
    assert gde.quick_precision() == wanted
    said = lambda given=None: cli._changed(
        cli.SMALL["fashion-mnist"].diffusion,
        argparse.Namespace(
            **{field.name: None for field in fields(gde.Recipe)} | dict(precision=given)
        ),
    )
    if cuda and not bfloat16:  # before Volta 16 bits are slow
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (6, 1))
        assert gde.quick_precision() == "float32"
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 0))
    assert said().precision == wanted and said("float16").precision == "float16"


def test_history_by_quarter_by_hand():
    state = State(processes.Tiny(), gde.Recipe(timesteps="uniform"), 8)
    state.note(
        torch.tensor([0, 1, 7]), torch.tensor([1.0, 3.0, 5.0]), torch.tensor([1.0, 1.0, 2.0]), 8
    )
    row = state.history[0].tolist()
    assert (
        row[0] == pytest.approx(14 / 3)
        and row[1] == 2
        and math.isnan(row[2])
        and math.isnan(row[3])
        and row[4] == 5
    )


def test_importance_draws_costly_levels_more_often(tmp_path):
    "A loss that is large at one level only: that level is drawn more and more, and the weighted mean stays the mean over all."

    def uneven(model, schedule, x_0, y, t, eps):
        return processes.plain(model, schedule, x_0, y, t, eps) * 0 + (1.0 + 24 * (t == 3))

    _, losses = processes.tiny_run(tmp_path, loss=uneven, steps=60, batch=64, save_every=60)
    seen = tensors(tmp_path)["adaptive.seen"]
    assert seen[3] > 4 * seen[10] and sum(losses[30:]) / 30 == pytest.approx(
        (24 + 25) / 25, rel=0.1
    )


def test_watching(tmp_path, monkeypatch):
    import types

    written = []

    class Writer:
        def __init__(self, folder, purge_step):
            assert purge_step == 0

        def add_scalar(self, name, value, step):
            written.append((name, step))

        def flush(self):
            pass

    monkeypatch.setitem(
        sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer)
    )
    watch = [
        training.watch_samples(tmp_path, processes.SCHEDULE, (4, 1, 8, 8), steps=3),
        training.watch_tensorboard(tmp_path),
    ]
    recipe = gde.Recipe(steps=5, batch=8, save_every=2)
    fit(
        processes.Tiny(),
        processes.plain,
        processes.DIGITS,
        processes.SCHEDULE,
        recipe,
        tmp_path / "checkpoint",
        {},
        False,
        watch,
    )
    assert sorted(p.name for p in tmp_path.glob("*.png")) == [
        "samples-000002.png",
        "samples-000004.png",
        "samples-000005.png",
    ]
    assert Image.open(tmp_path / "samples-000005.png").size == (
        152,
        152,
    )  # 2 x 2 pictures of 8 and 3 lines, times 8
    assert [step for name, step in written if name == "loss/all"] == [0, 1, 2, 3, 4]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match="tensorboard must be installed"):
        training.watch_tensorboard(tmp_path)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_is_shown_the_loss_and_the_speed(tmp_path, monkeypatch):
    def said(screen):
        monkeypatch.setattr(sys, "stderr", screen)
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        _, losses = fit(
            processes.Tiny(),
            processes.plain,
            processes.DIGITS,
            processes.SCHEDULE,
            gde.Recipe(steps=3, batch=8),
            folder / "checkpoint",
            {},
        )
        return screen.getvalue(), losses

    shown, losses = said(Terminal())
    assert "3/3" in shown and f"loss {losses[-1]:.3f}" in shown and "images/s" in shown
    assert said(io.StringIO())[0] == ""  # a file or a pipe is not


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


def test_tensorboard_reads_the_losses(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    watch = training.watch_tensorboard(tmp_path / "board")
    recipe = gde.Recipe(steps=5, batch=8, save_every=2)
    _, losses = fit(
        processes.Tiny(),
        processes.plain,
        processes.DIGITS,
        processes.SCHEDULE,
        recipe,
        tmp_path / "checkpoint",
        {},
        False,
        [watch],
    )
    board = EventAccumulator(str(tmp_path / "board"))
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("loss/all")] == [
        (step, pytest.approx(loss)) for step, loss in enumerate(losses)
    ]
    assert set(board.Tags()["scalars"]) == {"loss/all", "loss/q1", "loss/q2", "loss/q3", "loss/q4"}


@pytest.mark.parametrize(
    "network, config",
    [
        (gde.UNet, replace(SMALL, num_classes=3, attention_resolutions=(4,))),
        (
            gde.Classifier,
            gde.ClassifierConfig(
                image_size=8,
                in_channels=1,
                channels=32,
                channel_mult=(1, 1),
                res_blocks=1,
                attention_resolutions=(),
                head_channels=32,
                num_classes=3,
            ),
        ),
    ],
)
def test_cost_on_meta_is_the_cost_of_the_real_thing(network, config):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    recipe, model = gde.Recipe(batch=6), network(config)
    cost = training_cost(network, config, recipe)
    inputs = [torch.randn(6, 1, 8, 8), torch.arange(6)] + [torch.arange(6) % 3] * (
        network is gde.UNet
    )
    with (
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):  # as on `meta`; the fused kernel keeps less, and is not counted
        kept, output = training.kept_bytes(model, inputs)
        output.sum().backward()
    assert training.kept_bytes(model, inputs)[0] < kept
    assert cost.parameters == sum(
        p.numel() for p in model.parameters()
    ) and cost.flops == pytest.approx(counter.get_total_flops(), rel=0.01)
    assert cost.memory - 20 * cost.parameters == pytest.approx(kept, rel=0.02)
    assert training_cost(network, config, replace(recipe, accumulate=2)).memory < cost.memory
    half = training_cost(network, config, replace(recipe, precision="bfloat16"))
    assert half.memory - 20 * cost.parameters == pytest.approx(
        (cost.memory - 20 * cost.parameters) / 2, abs=1
    )


def test_accuracy_by_level_is_that_of_a_loop():
    digits, data, s = (
        gde.load_pretrained("digits").classifier,
        gde.load_data("digits", train=False),
        gde.linear_schedule(),
    )
    few = gde.Images(data.pixels[:60], data.labels[:60], data.class_names)
    found = training.accuracy_by_level(digits, s, few, levels=(0, 999), batch=25)
    assert found[0] > 0.9 > 0.5 > found[999] and found == training.accuracy_by_level(
        digits, s, few, levels=(0, 999), batch=25
    )


def test_half_weights_load_and_answer_alike(tmp_path, root):
    write_half(root / "guided_diffusion_edu" / "weights" / "digits", tmp_path / "half")
    full, half = gde.load_pretrained("digits"), gde.load_pretrained(str(tmp_path / "half"))
    x, t = (
        torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
        torch.arange(0, 960, 60),
    )
    assert (
        next(half.model.parameters()).dtype == torch.float32
        and half.records["diffusion"]["stored"] == "float16"
    )
    with torch.no_grad():
        difference = (full.model(x, t) - half.model(x, t)).abs().max()
    assert 0 < difference < 0.01
    with pytest.raises(ValueError, match="source must be a folder with trained weights"):
        write_half(tmp_path, tmp_path / "b")


@pytest.mark.parametrize("name", gde.available_weights())
def test_shipped_weights_draw_and_fit_their_records(name):
    found = gde.load_pretrained(name)
    for kind, network in (("diffusion", found.model), ("classifier", found.classifier)):
        assert sum(p.numel() for p in network.parameters()) == found.records[kind]["parameters"]
    assert found.records["classifier"]["class_names"] == list(
        found.class_names
    ) and found.classifier.config.num_classes == len(found.class_names)
    pixels = gde.draw_guided(found, torch.tensor([0, len(found.class_names) - 1]), steps=3)
    assert pixels.float().flatten(1).std(1).min() > 5  # pictures, not a flat shade


def test_shipped_weights_are_small():
    from guided_diffusion_edu.pretrained import WEIGHTS

    assert gde.available_weights() == ["digits", "emoji", "fashion-mnist"]
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*.safetensors")) < 12e6


def test_an_overflow_in_float16_is_no_loss(tmp_path):
    calls = []

    def overflows(model, *rest):
        calls.append(0)
        return processes.plain(model, *rest) * (float("inf") if len(calls) % 3 else 1.0)

    processes.tiny_run(tmp_path, loss=overflows, steps=training.LOST + 5, precision="float16")


@pytest.mark.parametrize(
    "config, said",
    [
        (
            dict(image_size=16),
            r"data must have pictures of shape \(1, 16, 16\), as the network, got \(1, 8, 8\)",
        ),
        (dict(in_channels=3), "data must have pictures of shape"),
        (dict(num_classes=3), "data must have 3 classes, as the network, got 10"),
    ],
)
def test_network_and_data_must_fit(tmp_path, config, said):
    with pytest.raises(ValueError, match=said):
        gde.train_diffusion(
            replace(SMALL, **config), gde.load_data("digits"), tmp_path, RECIPE, progress=False
        )
    assert not (tmp_path / "diffusion.checkpoint").exists()


@pytest.mark.parametrize("pixels, labels", [(8, 4), (4, 8), (0, 0)])
def test_every_picture_has_a_label(tmp_path, pixels, labels):
    data = gde.load_data("digits")
    with pytest.raises(
        ValueError,
        match=f"data must have pictures, and a label for each, got {pixels} and {labels}",
    ):
        gde.train_diffusion(
            SMALL,
            data._replace(pixels=data.pixels[:pixels], labels=data.labels[:labels]),
            tmp_path,
            RECIPE,
            progress=False,
        )


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


def test_the_schedule_of_a_recipe_is_trained_and_loaded(tmp_path):
    data, recipe = gde.load_data("digits"), replace(RECIPE, schedule="cosine")
    gde.train_diffusion(SMALL, data, tmp_path, recipe, progress=False)
    found = gde.load_pretrained(str(tmp_path))
    assert torch.equal(found.schedule.betas, gde.cosine_schedule().betas)
    gde.train_diffusion(SMALL, data, tmp_path / "other", RECIPE, progress=False)
    linear = read_tensors(tmp_path / "other" / "diffusion.safetensors")[0]
    assert not torch.equal(found.model.state_dict()["last.bias"], linear["last.bias"])
    with pytest.raises(
        ValueError, match="schedule must be one of \\['linear', 'cosine'\\], got 'steep'"
    ):
        gde.Recipe(schedule="steep")
