"""The U-Net: what it refuses, how it is counted and drawn."""

import pytest
import torch

import guided_diffusion_edu as gde
from guided_diffusion_edu.unet import Stage, draw_unet, survey

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
        (dict(image_size=100), "image_size must halve 3 times"),
        (dict(image_size=0), "image_size must be a whole number above 0, got 0"),
        (dict(channels=200), "channel_mult must make multiples of groups = 32"),
        (dict(groups=5), "channel_mult must make multiples of groups = 5"),
        (dict(channels=33, groups=33), "channels must be even"),
        (dict(channel_mult=()), "channel_mult must have an entry"),
        (dict(channel_mult=(0.3, 1)), "channel_mult must make whole numbers"),
        (dict(head_channels=100), "head_channels must divide the 384 channels"),
        (dict(heads=5), "heads must divide the 384 channels"),
        (
            dict(attention_resolutions=(), head_channels=100),
            "head_channels must divide the 768 channels",
        ),
        (dict(heads=0), "heads must be a whole number above 0, or None"),
        (dict(num_classes=0), "num_classes must be"),
        (dict(dropout=1.0), "dropout must be at least 0"),
        (
            dict(conditioning="film"),
            "conditioning must be one of .'adagn', 'addition'., got 'film'",
        ),
        (dict(resampling="pool"), "resampling must be one of"),
        (dict(res_blocks=1.5), "res_blocks must be a whole number"),
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
        (dict(), dict(y=T), "y must be None: this model has no classes"),
        (
            dict(num_classes=5),
            dict(y=torch.tensor([0, 5])),
            r"y must hold classes in \[0, 5\), got 0 to 5",
        ),
        (dict(num_classes=5), dict(y=torch.tensor([-1, 0])), "got -1 to 0"),
        (dict(num_classes=5), dict(y=torch.tensor([0])), "y must hold a class for each of 2"),
        (dict(num_classes=5), dict(y=torch.zeros(2)), "whole numbers below 5, got torch.float32"),
        (dict(low_res=True), dict(), "low_res must be the pictures to enlarge, got None"),
        (dict(), dict(low_res=X), "low_res must be None"),
        (
            dict(low_res=True),
            dict(low_res=X[:1]),
            "low_res must have shape .2, 3. . .h, w., got .1, 3",
        ),
        (dict(low_res=True), dict(low_res=X[:, :1]), "low_res must have shape"),
        (dict(), dict(x_t=X[:, :1]), "x_t must have shape .B, 3, H, W., got .2, 1, 16, 16"),
        (dict(), dict(x_t=X[0]), "x_t must have shape"),
        (dict(), dict(x_t=X[..., :15]), "x_t must have sides that halve 1 times"),
        (dict(), dict(t=T[:1]), "t must have shape .2,., one step an example, got .1,"),
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
