"""The training loop: what it averages, how it is watched, and what it refuses."""

import io
import json
import math
import sys
from dataclasses import replace
from functools import partialmethod

import pytest
import torch
from PIL import Image

import guided_diffusion_edu as gde
import training_in_processes as processes
from guided_diffusion_edu import training
from guided_diffusion_edu.checkpoints import read_tensors
from guided_diffusion_edu.losses import eps_from_v, eps_model, target_weight
from guided_diffusion_edu.plans import SMALL_PLANS, change_recipe
from guided_diffusion_edu.training import (
    LoopNetwork,
    State,
    diffusion_loss,
    draw_batch,
    fit,
    learning_rate,
    quick_precision,
    training_cost,
    velocity_loss,
)
from guided_diffusion_edu.unet import Stage
from training_runs import RECIPE, SMALL, plain, run, tensors


def test_the_average_follows_the_weights(tmp_path):
    """One step at decay 0.5 leaves the average half way between the first weights and the present
    ones.
    """
    torch.manual_seed(0)
    first = gde.UNet(SMALL).state_dict()
    model, average, _ = run(tmp_path, recipe=gde.Recipe(steps=1, batch=8, warmup=1, ema_decay=0.5))
    moved = model.state_dict()
    assert any(not torch.equal(first[name], moved[name]) for name in first)
    for name, value in average.state_dict().items():
        assert torch.allclose(value, (first[name] + moved[name]) / 2, atol=1e-6)


def test_a_batch_is_a_function_of_seed_and_step():
    data, s = gde.load_data("digits"), gde.linear_schedule()

    def draw(seed, step):
        return draw_batch(data, s, gde.Recipe(batch=4, seed=seed), step)[3]

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
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
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
        ("predicts", "x_0"),
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
    assert quick_precision() == wanted
    recipe = SMALL_PLANS["fashion-mnist"].unet_recipe
    assert recipe.precision != "float32"
    if cuda and not bfloat16:  # before Volta 16 bits are slow
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (6, 1))
        assert quick_precision() == "float32"
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 0))
    assert change_recipe(recipe).precision == wanted
    assert change_recipe(recipe, precision="float16").precision == "float16"


def test_history_by_quarter_by_hand():
    state = State(processes.Tiny(), gde.cosine_schedule(8), gde.Recipe())
    state.note(
        torch.tensor([0, 1, 7]), torch.tensor([1.0, 3.0, 5.0]), torch.tensor([1.0, 1.0, 2.0])
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
    """A loss that is large at one level only: that level is drawn more and more, and the weighted
    mean stays the mean over all.
    """

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
        progress=False,
        watch=watch,
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
        _, history = fit(
            processes.Tiny(),
            processes.plain,
            processes.DIGITS,
            processes.SCHEDULE,
            gde.Recipe(steps=3, batch=8),
            folder / "checkpoint",
        )
        return screen.getvalue(), history[:, 0].tolist()

    shown, losses = said(Terminal())
    assert "3/3" in shown and f"loss {losses[-1]:.3f}" in shown and "images/s" in shown
    assert said(io.StringIO())[0] == ""  # a file or a pipe is not


def test_tensorboard_reads_the_losses(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    watch = training.watch_tensorboard(tmp_path / "board")
    recipe = gde.Recipe(steps=5, batch=8, save_every=2)
    _, history = fit(
        processes.Tiny(),
        processes.plain,
        processes.DIGITS,
        processes.SCHEDULE,
        recipe,
        tmp_path / "checkpoint",
        progress=False,
        watch=[watch],
    )
    losses = history[:, 0].tolist()
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


def test_the_rows_of_a_balanced_batch(tmp_path):
    "Each class is drawn as often, whatever its size, and within it each row; without, each row."
    labels = torch.tensor([0] * 10 + [2] * 90)  # and none of class 1
    data = gde.Images(torch.arange(100, dtype=torch.uint8).view(100, 1, 1, 1), labels, tuple("abc"))
    recipe, s = gde.Recipe(batch=20_000, balance=True), gde.cosine_schedule(4)
    x_0, y, *_ = draw_batch(data, s, recipe, 3)
    assert abs((y == 0).double().mean() - 0.5) < 0.02
    rows = ((x_0.flatten() + 1) * 127.5).round().long()
    assert torch.equal(labels[rows], y)
    counts = rows.bincount(minlength=100).double()
    assert 700 < counts[:10].min() and counts[:10].max() < 1300 and counts[10:].max() < 180
    assert torch.equal(draw_batch(data, s, recipe, 3)[1], y)
    assert not torch.equal(draw_batch(data, s, recipe, 4)[1], y)
    assert (
        abs((draw_batch(data, s, replace(recipe, balance=False), 3)[1] == 0).double().mean() - 0.1)
        < 0.01
    )


def test_the_loss_of_v_is_that_of_eps_weighted():
    network, s = shaken(replace(SMALL, num_classes=3)).double(), gde.linear_schedule()
    x_0, eps = (torch.randn(5, 1, 8, 8, dtype=torch.float64) for _ in range(2))
    t, y = torch.tensor([1, 20, 300, 700, 999]), torch.tensor([0, 1, 2, 0, 1])
    config, recipe = network.config, gde.Recipe(predicts="v")
    of_v = diffusion_loss(config, recipe)(network, s, x_0, y, t, eps)
    weight, model = target_weight(s, eps_from_v), eps_model(network, s, eps_from_v)
    assert torch.allclose(of_v, gde.simple_loss(model, s, x_0, t, eps, y, weight=weight))
    assert torch.equal(of_v, velocity_loss(network, s, x_0, t, eps, y))
    a = s.alpha_bars[t].view(-1, 1, 1, 1)
    v = a.sqrt() * eps - (1 - a).sqrt() * x_0
    said = network(a.sqrt() * x_0 + (1 - a).sqrt() * eps, t, y)
    assert torch.allclose(of_v, (v - said).square().flatten(1).mean(1))


def test_a_network_of_v_learns_neither_eps_nor_a_variance():
    with pytest.raises(ValueError, match="predicts must be 'eps' with learned_variance=True"):
        diffusion_loss(replace(SMALL, learned_variance=True), gde.Recipe(predicts="v"))
    network = shaken(replace(SMALL, learned_variance=True))
    x_0, t = torch.zeros(2, 1, 8, 8), torch.tensor([1, 2])
    with pytest.raises(ValueError, match="output must have the shape"):
        velocity_loss(network, gde.linear_schedule(), x_0, t, x_0)


def test_a_network_of_v_comes_back_as_a_model_of_eps(tmp_path):
    "Trained, written, loaded: the record says v, and what is loaded is eps; so is what is watched."
    data, recipe, s = gde.load_data("digits"), replace(RECIPE, predicts="v"), gde.linear_schedule()
    watch = [training.watch_samples(tmp_path, s, (2, 1, 8, 8), steps=2, predicts="v")]
    trained = gde.train_diffusion(SMALL, data, tmp_path, recipe, progress=False, watch=watch)
    record = json.loads((tmp_path / "diffusion.json").read_text())
    assert record["recipe"]["predicts"] == "v"
    network = gde.UNet(SMALL).eval()
    network.load_state_dict(read_tensors(tmp_path / "diffusion.safetensors")[0])
    x_t, t = torch.randn(3, 1, 8, 8), torch.tensor([1, 500, 999])
    a = s.alpha_bars[t].view(-1, 1, 1, 1).float()
    with torch.no_grad():
        eps = eps_from_v(x_t, network(x_t, t), a)
        assert torch.allclose(gde.load_pretrained(str(tmp_path)).model(x_t, t), eps, atol=1e-5)
        assert torch.allclose(trained(x_t, t), eps, atol=1e-5)
    (tmp_path / "other").mkdir()
    training.watch_samples(tmp_path / "other", s, (2, 1, 8, 8), steps=2)(network, range(4))
    seen = [Image.open(folder / "samples-000004.png") for folder in (tmp_path, tmp_path / "other")]
    assert seen[0].tobytes() != seen[1].tobytes()  # without the word, its v is taken for eps
    del record["recipe"]["predicts"]  # as records were before there was a choice
    (tmp_path / "diffusion.json").write_text(json.dumps(record))
    with torch.no_grad():
        assert torch.equal(gde.load_pretrained(str(tmp_path)).model(x_t, t), network(x_t, t))


def test_a_run_of_v_is_not_one_of_eps(tmp_path):
    data = gde.load_data("digits")
    gde.train_diffusion(SMALL, data, tmp_path, RECIPE, progress=False)
    for changed, said in (
        (dict(predicts="v"), "predicts was 'eps', now 'v'"),
        (dict(balance=True), "balance was False, now True"),
    ):
        with pytest.raises(ValueError, match=f"recipe.{said}"):
            gde.train_diffusion(SMALL, data, tmp_path, replace(RECIPE, **changed), progress=False)


def test_the_network_of_the_loop_keeps_its_config():
    network = LoopNetwork(gde.UNet(SMALL), gde.Recipe(precision="bfloat16"))
    assert network.config is SMALL and LoopNetwork(processes.Tiny(), gde.Recipe()).config is None
