"""The U-Net: what it refuses, how it is counted and drawn."""

from dataclasses import asdict, replace

import pytest
import torch
from torch.nn import functional as F

import guided_diffusion_edu as gde
from guided_diffusion_edu.unet import Stage, draw_unet, set_torso, sizes, survey
from helpers import randomise

SMALL = dict(
    image_size=16,
    channels=32,
    channel_mult=(1, 2),
    res_blocks=1,
    attention_resolutions=(8,),
    head_channels=16,
)

# ---- what is refused


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(image_size=100), "image_size must be a multiple of 8, for 4 entries of channel_mult"),
        (dict(image_size=0), "image_size must be a whole number of at least 1, got 0"),
        (dict(channels=200), "channel_mult must make multiples of groups = 32"),
        (dict(groups=5), "channel_mult must make multiples of groups = 5"),
        (dict(channels=33, groups=33), "channels must be even"),
        (dict(channel_mult=()), "channel_mult must have an entry per resolution"),
        (dict(channel_mult=(0.3, 1)), "channel_mult must make multiples of groups = 32"),
        (dict(channel_mult=(0, 1)), "channel_mult must make multiples of groups = 32"),
        (dict(head_channels=100), "head_channels must divide the 384 channels"),
        (dict(heads=5), "heads must divide the 384 channels"),
        (
            dict(attention_resolutions=(), head_channels=100),
            "head_channels must divide the 768 channels",
        ),
        (dict(heads=0), "heads must be a whole number of at least 1"),
        (dict(num_classes=0), "num_classes must be"),
        (dict(dropout=1.0), "dropout must be at least 0"),
        (
            dict(conditioning="film"),
            "conditioning must be one of .'adagn', 'addition'., got 'film'",
        ),
        (dict(resampling="pool"), "resampling must be one of"),
        (dict(res_blocks=1.5), "res_blocks must be a whole number"),
        (dict(space_to_depth=4), r"space_to_depth must be one of \[1, 2\], got 4"),
        (dict(image_size=72, space_to_depth=2), "of 16, .* and space_to_depth = 2, got 72"),
    ],
)
@pytest.mark.parametrize("config", [gde.UNetConfig, gde.ClassifierConfig])
def test_bad_plans(config, fields, message):
    defaults = dict(channels=192) | fields
    with pytest.raises(ValueError, match=message):
        config(**defaults)


X, T = torch.zeros(2, 3, 16, 16), torch.tensor([0, 999])


@pytest.mark.parametrize(
    "fields, call, message",
    [
        (dict(num_classes=5), dict(), "y must hold a class for each of 2 examples.*got None"),
        (dict(), dict(y=T), "y must be None, as this model has no classes"),
        (
            dict(num_classes=5),
            dict(y=torch.tensor([0, 5])),
            r"y must hold classes in \[0, 5\), got 0 to 5",
        ),
        (dict(num_classes=5), dict(y=torch.tensor([-1, 0])), "got -1 to 0"),
        (dict(num_classes=5), dict(y=torch.tensor([0])), "y must hold a class for each of 2"),
        (dict(num_classes=5), dict(y=torch.zeros(2)), "whole numbers below 5, got torch.float32"),
        (dict(low_res=True), dict(), "low_res must be images to enlarge.*got None"),
        (dict(), dict(low_res=X), "low_res must be None"),
        (
            dict(low_res=True),
            dict(low_res=X[:1]),
            r"low_res must be images to enlarge, of shape \(2, 3, h, w\), got \(1, 3",
        ),
        (dict(low_res=True), dict(low_res=X[:, :1]), "low_res must be images to enlarge"),
        (dict(), dict(x_t=X[:, :1]), "x_t must have shape .B, 3, H, W., got .2, 1, 16, 16"),
        (dict(), dict(x_t=X[0]), "x_t must have shape"),
        (dict(), dict(x_t=X[..., :15]), "x_t must have sides that are multiples of 2, got"),
        (dict(), dict(t=T[:1]), "t must have shape .2,., one step per example, got .1,"),
    ],
)
def test_bad_inputs(fields, call, message):
    model = gde.UNet(gde.UNetConfig(**SMALL, **fields))
    with pytest.raises(ValueError, match=message):
        model(**dict(x_t=X, t=T) | call)


# ---- the drawing and the counting


def test_survey_notes_every_part_in_order():
    plan = gde.UNetConfig(
        **SMALL | dict(channel_mult=(1, 2, 4), attention_resolutions=(4,)), resampling="conv"
    )
    with torch.device("meta"):
        model = gde.UNet(plan)
        x, t = torch.empty(1, 3, 16, 16), torch.zeros(1)
    parts = survey(model, x, t)
    assert [p.size for p in parts] == [16, 16, 8, 8, 4, 4, 4, 4, 4, 4, 4, 8, 8, 8, 16, 16, 16, 16]
    assert [p.channels for p in parts] == [
        32,
        32,
        32,
        64,
        64,
        128,
        128,
        128,
        128,
        128,
        128,
        128,
        64,
        64,
        64,
        32,
        32,
        6,
    ]
    assert [p.attends for p in parts] == [
        p.name in ("encoder.down.4", "encoder.middle.1", "up.0", "up.1") for p in parts
    ]
    down = next(p for p in parts if p.name == "encoder.down.1")  # a convolution in steps of 2
    assert (down.parameters, down.flops) == (9 * 32 * 32 + 32, 2 * 9 * 32 * 32 * 8 * 8)
    beside = sum(p.numel() for p in model.time.parameters()) + sum(
        p.numel() for p in model.norm.parameters()
    )
    assert sum(p.parameters for p in parts) + beside == sum(p.numel() for p in model.parameters())
    assert not any(isinstance(m, Stage) and m._forward_hooks for m in model.modules())
    assert [p.flops for p in survey(gde.UNet(plan), torch.zeros(1, 3, 16, 16), torch.zeros(1))] == [
        p.flops for p in parts
    ]  # attention that is fused is counted as well


def test_the_drawing_joins_what_the_network_joins():
    import matplotlib

    matplotlib.use("agg")
    model = gde.UNet(gde.UNetConfig(**SMALL | dict(channel_mult=(1, 2, 4))))
    parts = survey(model, torch.zeros(1, 3, 16, 16), torch.tensor([0]))
    axes = draw_unet(model, parts).axes[0]
    brackets = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 4]
    assert len(brackets) == len(model.encoder.skip_channels)
    for left, _, right, _ in [(b[0], b[1], b[2], b[3]) for b in brackets]:
        assert (
            parts[int(left)].size == parts[int(right)].size
            and parts[int(left)].name.startswith("encoder")
            and parts[int(right)].name.startswith("up")
        )
        taken = model.up[
            int(parts[int(right)].name.split(".")[1])
        ].residual.norm.num_channels  # h and the skip together
        assert taken == parts[int(right) - 1].channels + parts[int(left)].channels


def test_a_survey_that_fails_leaves_nothing_behind():
    model = gde.UNet(gde.UNetConfig(**SMALL))
    with pytest.raises(ValueError, match="x_t must have shape"):
        survey(model, torch.zeros(1, 1, 7, 7), torch.zeros(1, dtype=torch.long))
    assert not any(module._forward_hooks for module in model.modules())


# ---- space to depth

FOLDED = gde.UNetConfig(**SMALL, space_to_depth=2)


def unshuffle(x):
    "2 x 2 pixels to four channels, by indices."
    parts = [x[:, c, i::2, j::2] for c in range(x.shape[1]) for i in (0, 1) for j in (0, 1)]
    return torch.stack(parts, dim=1)


@pytest.mark.parametrize("learned_variance", [False, True])
@pytest.mark.parametrize("low_res", [False, True])
@pytest.mark.parametrize("num_classes", [None, 3])
@torch.no_grad()
def test_space_to_depth_is_a_network_of_four_times_the_channels(
    learned_variance, low_res, num_classes
):
    options = dict(learned_variance=learned_variance, low_res=low_res, num_classes=num_classes)
    config = replace(FOLDED, **options)
    inside = replace(config, space_to_depth=1, image_size=8, in_channels=12)
    outer, inner = randomise(gde.UNet(config)), gde.UNet(inside).eval()
    inner.load_state_dict(outer.state_dict())  # the same names and shapes
    x, t, more = torch.randn(2, 3, 16, 16), torch.tensor([3, 950]), {}
    if num_classes:
        more["y"] = torch.tensor([2, 0])
    by_hand = dict(more)
    if low_res:
        more["low_res"] = torch.randn(2, 3, 4, 4)
        large = F.interpolate(more["low_res"], (16, 16), mode="bilinear")
        by_hand["low_res"] = unshuffle(large)  # enlarged to the size that it has: as it is
    out = outer(x, t, **more)
    assert out.shape == (2, 6 if learned_variance else 3, 16, 16)
    wanted = inner(unshuffle(x), t, **by_hand)
    assert torch.allclose(unshuffle(out), wanted, atol=1e-5) and out.abs().max() > 0.1


def test_space_to_depth_changes_two_convolutions():
    config = replace(FOLDED, attention_resolutions=())  # which are those inside
    plain, folded = gde.UNet(replace(config, space_to_depth=1)), gde.UNet(config)
    count = {net: sum(p.numel() for p in net.parameters()) for net in (plain, folded)}
    first, last = 9 * (12 - 3) * 32, 9 * 32 * (24 - 6) + (24 - 6)
    assert count[folded] - count[plain] == first + last
    shapes = [{k: v.shape for k, v in net.state_dict().items()} for net in (plain, folded)]
    assert shapes[0].keys() == shapes[1].keys()
    changed = {name for name in shapes[0] if shapes[0][name] != shapes[1][name]}
    assert changed == {"encoder.first.weight", "last.weight", "last.bias"}


def test_space_to_depth_has_a_quarter_of_the_positions():
    assert sizes(FOLDED) == [8, 4] and sizes(replace(FOLDED, space_to_depth=1)) == [16, 8]
    model = gde.UNet(FOLDED)  # attends at 8, the finest inside
    parts = survey(model, torch.zeros(1, 3, 16, 16), torch.zeros(1))
    assert [part.size for part in parts] == [8, 8, 4, 4, 4, 4, 4, 4, 4, 8, 8, 8, 8]
    assert {part.size for part in parts if part.attends} == {8, 4}


def test_space_to_depth_is_off_unless_asked_for():
    assert gde.UNetConfig().space_to_depth == gde.ClassifierConfig().space_to_depth == 1
    before = {name: value for name, value in asdict(FOLDED).items() if name != "space_to_depth"}
    assert gde.UNetConfig(**before) == replace(FOLDED, space_to_depth=1)  # a plan of an older file


def test_space_to_depth_trains_samples_and_runs_in_half_precision():
    model = randomise(gde.UNet(FOLDED))
    schedule, x = gde.respace(gde.linear_schedule(), 3), torch.randn(2, 3, 16, 16)
    model(x, torch.tensor([1, 2])).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
    assert gde.ddpm_sample(model, schedule, (2, 3, 16, 16)).shape == (2, 3, 16, 16)
    with torch.no_grad():
        exact = model(x, torch.tensor([1, 2]))
        rough = set_torso(model, torch.bfloat16)(x, torch.tensor([1, 2]))
    assert rough.dtype == torch.float32 and (rough - exact).norm() < 0.05 * exact.norm()


def test_images_of_a_folded_network_halve_once_more():
    model = gde.UNet(FOLDED)
    assert model(torch.zeros(1, 3, 20, 20), torch.zeros(1)).shape == (1, 6, 20, 20)
    with pytest.raises(ValueError, match="x_t must have sides that are multiples of 4"):
        model(torch.zeros(1, 3, 18, 18), torch.zeros(1))


@torch.no_grad()
def test_space_to_depth_of_a_classifier():
    config = gde.ClassifierConfig(**SMALL, num_classes=3, space_to_depth=2)
    inside = replace(config, space_to_depth=1, image_size=8, in_channels=12)
    outer, inner = randomise(gde.Classifier(config)), gde.Classifier(inside).eval()
    inner.load_state_dict(outer.state_dict())
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 950])
    assert torch.allclose(outer(x, t), inner(unshuffle(x), t), atol=1e-5)


# ---- any integer dtype


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_classes_have_any_integer_dtype(dtype):
    model, y = randomise(gde.UNet(gde.UNetConfig(**SMALL, num_classes=3))), torch.tensor([2, 0])
    assert torch.equal(model(X, T, y.to(dtype)), model(X, T, y))
