"""The networks against the released code itself (`guided_diffusion`, for tests only): the layout of
the fifteen released models, and the same numbers, forward and backward. And what must be refused.
"""

from copy import deepcopy

import pytest
import torch
from guided_diffusion import script_util
from guided_diffusion.unet import EncoderUNetModel, SuperResModel, UNetModel

import guided_diffusion_edu as gde
from guided_diffusion_edu import pretrained
from guided_diffusion_edu.layers import AttentionBlock, attend, queries_first
from guided_diffusion_edu.unet import set_torso
from helpers import network, randomise

# the flags of the released README, file by file
SHARED = dict(
    attention_resolutions="32,16,8",
    class_cond=True,
    diffusion_steps=1000,
    learn_sigma=True,
    noise_schedule="linear",
    num_channels=256,
    num_res_blocks=2,
    resblock_updown=True,
    use_fp16=True,
    use_scale_shift_norm=True,
)

UNCONDITIONAL = dict(SHARED, image_size=256, num_head_channels=64, class_cond=False)

DIFFUSION = {
    "64x64_diffusion": dict(
        SHARED,
        image_size=64,
        dropout=0.1,
        noise_schedule="cosine",
        num_channels=192,
        num_head_channels=64,
        num_res_blocks=3,
        use_new_attention_order=True,
    ),
    "128x128_diffusion": dict(SHARED, image_size=128, num_heads=4),
    "256x256_diffusion": dict(SHARED, image_size=256, num_head_channels=64),
    "256x256_diffusion_uncond": UNCONDITIONAL,
    "512x512_diffusion": dict(SHARED, image_size=512, num_head_channels=64, use_fp16=False),
    "lsun_bedroom": dict(UNCONDITIONAL, dropout=0.1),
    "lsun_cat": dict(UNCONDITIONAL, dropout=0.1),
    "lsun_horse": dict(UNCONDITIONAL, dropout=0.1),
    "lsun_horse_nodropout": dict(UNCONDITIONAL, dropout=0.0),
}

UPSAMPLERS = {
    "64_256_upsampler": dict(SHARED, large_size=256, small_size=64, num_channels=192, num_heads=4),
    "128_512_upsampler": dict(
        SHARED,
        large_size=512,
        small_size=128,
        attention_resolutions="32,16",
        num_channels=192,
        num_head_channels=64,
    ),
}

CLASSIFIERS = {
    "64x64_classifier": dict(image_size=64, classifier_depth=4),
    "128x128_classifier": dict(image_size=128),
    "256x256_classifier": dict(image_size=256),
    "512x512_classifier": dict(image_size=512),
}

SCALES = {
    "64x64_diffusion": 1.0,
    "128x128_diffusion": 0.5,
    "256x256_diffusion": 1.0,
    "256x256_diffusion_uncond": 10.0,
    "512x512_diffusion": 4.0,
}


def reference(name):
    "The released code's network and diffusion process for a released model."
    if name in DIFFUSION:
        return script_util.create_model_and_diffusion(
            **script_util.model_and_diffusion_defaults() | DIFFUSION[name]
        )
    if name in UPSAMPLERS:
        return script_util.sr_create_model_and_diffusion(
            **script_util.sr_model_and_diffusion_defaults() | UPSAMPLERS[name]
        )
    return script_util.create_classifier_and_diffusion(
        **script_util.classifier_and_diffusion_defaults() | CLASSIFIERS[name]
    )


def shapes(model):
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def relative(ours, theirs):
    assert ours.shape == theirs.shape and theirs.abs().max() > 0
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


# ---- the fifteen


def test_the_fifteen():
    assert (
        set(pretrained.OPENAI) == set(DIFFUSION) | set(UPSAMPLERS) | set(CLASSIFIERS)
        and len(pretrained.OPENAI) == 15
    )
    with pytest.raises(
        ValueError, match=r"name must be one of .*64x64_diffusion.*got .64x64_difusion"
    ):
        gde.openai_release("64x64_difusion")


@pytest.mark.parametrize("name", pretrained.OPENAI)
def test_layout(name):
    """Every weight of the released layout has its place, with its shape, and each place its weight;
    all else that the flags say is in the release.
    """
    release = gde.openai_release(name)
    with torch.device("meta"):
        theirs, diffusion = reference(name)
    with torch.device("meta"):
        ours = network(release.config)
    names = pretrained.released_names(ours)
    assert {names[own]: shape for own, shape in shapes(ours).items()} == shapes(theirs)
    if (
        name not in CLASSIFIERS
    ):  # whose flags do not name a schedule: it is that of the model that they guide
        assert (
            torch.allclose(torch.tensor(diffusion.betas), release.schedule.betas, rtol=1e-9)
            and len(release.schedule) == 1000
            and not diffusion.rescale_timesteps
        )
    flags = DIFFUSION.get(name) or UPSAMPLERS.get(name)
    assert release.noise == (
        flags["noise_schedule"]
        if flags
        else gde.openai_release(name.replace("classifier", "diffusion")).noise
    )
    assert release.half == bool(flags and flags["use_fp16"]) and release.scale == SCALES.get(name)
    heads = [m.num_heads for m in theirs.modules() if type(m).__name__ == "AttentionBlock"]
    orders = {
        type(m.attention).__name__ for m in theirs.modules() if type(m).__name__ == "AttentionBlock"
    }
    own_heads = {path: m.heads for path, m in ours.named_modules() if isinstance(m, AttentionBlock)}
    assert sorted(own_heads.values()) == sorted(heads)
    assert orders == {"QKVAttentionLegacy" if release.heads_first else "QKVAttention"}
    assert [m.p for m in ours.modules() if isinstance(m, torch.nn.Dropout)] == [
        m.p for m in theirs.modules() if isinstance(m, torch.nn.Dropout)
    ]


@pytest.mark.parametrize("name", ["64x64_diffusion", "64x64_classifier"])
@torch.no_grad()
def test_full_size(name):
    "The whole 64x64 models, all weights drawn anew: the same numbers."
    with torch.device("meta"):
        theirs, _ = reference(name)
    theirs = randomise(theirs.to_empty(device="cpu"))
    ours = gde.from_openai(name, theirs.state_dict())
    assert not ours.training and all(
        p.dtype == torch.float32 and not p.requires_grad for p in ours.parameters()
    )
    x, t = (
        torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)),
        torch.tensor([321]),
    )
    inputs = (x, t, torch.tensor([207])) if name in DIFFUSION else (x, t)
    if name in DIFFUSION:
        theirs.dtype = torch.float32  # its flags ask for half precision
    assert relative(ours(*inputs), theirs(*inputs)) < 1e-4


# ---- small networks with every option


def options(seed):
    """The options of the `seed`-th small network: kind, conditioning and resampling in all
    combinations, the rest at random.
    """
    g = torch.Generator().manual_seed(seed)

    def pick(*values):
        return values[torch.randint(len(values), (1,), generator=g).item()]

    kind = ("unet", "unet", "low_res", "classifier")[seed % 4]
    return dict(
        kind=kind,
        channels=pick(32, 64),
        channel_mult=pick((1, 2), (1, 1, 2), (2, 1), (0.5, 1) if seed % 2 else (1, 3)),
        res_blocks=pick(1, 2),
        attention=pick((8,), (16, 8), (16,), (4,)),
        by_count=pick(True, False),
        heads_first=pick(True, False),
        conditioning=("adagn", "addition")[seed // 4 % 2],
        resampling=("block", "conv", "plain")[seed % 3],
        num_classes=pick(None, 5),
        learned_variance=pick(True, False),
        in_channels=pick(1, 3),
    )


def pair(o):
    "Our network and the released code's, with the same random weights."
    if 0.5 in o["channel_mult"]:
        o = dict(o, channels=64)
    heads = (
        dict(num_heads=2, num_head_channels=-1)
        if o["by_count"] and o["kind"] != "classifier"
        else dict(num_head_channels=16)
    )
    shared = dict(
        image_size=16,
        in_channels=o["in_channels"],
        channel_mult=o["channel_mult"],
        attention_resolutions=o["attention"],
    )
    theirs_only = dict(
        model_channels=o["channels"],
        num_res_blocks=o["res_blocks"],
        resblock_updown=o["resampling"] == "block",
        conv_resample=o["resampling"] == "conv",
        use_scale_shift_norm=o["conditioning"] == "adagn",
        use_new_attention_order=not o["heads_first"],
        **heads,
    )
    theirs_only |= dict(attention_resolutions=tuple(16 // size for size in o["attention"]))
    ours_only = dict(
        channels=o["channels"],
        res_blocks=o["res_blocks"],
        conditioning=o["conditioning"],
        resampling=o["resampling"],
        dropout=0.2,
        **(dict(heads=2) if "num_heads" in heads else dict(head_channels=16)),
    )
    if o["kind"] == "classifier":
        theirs = EncoderUNetModel(**shared | theirs_only, out_channels=7, pool="attention")
        ours = gde.Classifier(gde.ClassifierConfig(**shared | ours_only, num_classes=7))
    else:
        out = o["in_channels"] * (2 if o["learned_variance"] else 1)
        theirs = (SuperResModel if o["kind"] == "low_res" else UNetModel)(
            **shared | theirs_only, out_channels=out, num_classes=o["num_classes"]
        )
        ours = gde.UNet(
            gde.UNetConfig(
                **shared | ours_only,
                num_classes=o["num_classes"],
                learned_variance=o["learned_variance"],
                low_res=o["kind"] == "low_res",
            )
        )
    randomise(theirs)
    return gde.load_released(ours, theirs.state_dict(), o["heads_first"]).eval(), theirs


def inputs(o, seed=0, size=16):
    g = torch.Generator().manual_seed(seed)
    x, t = torch.randn(2, o["in_channels"], size, size, generator=g), torch.tensor([3, 950])
    named = dict(y=torch.tensor([4, 0])) if o["num_classes"] and o["kind"] != "classifier" else {}
    if o["kind"] == "low_res":
        named["low_res"] = torch.randn(2, o["in_channels"], 4, 4, generator=g)
    return x, t, named


@pytest.mark.parametrize("seed", range(24))
def test_small_networks(seed):
    o = options(seed)
    ours, theirs = pair(o)
    results = []
    for model in (ours, theirs):
        x, t, named = inputs(o)
        watched = [x.requires_grad_()] + [
            v.requires_grad_() for v in named.values() if v.is_floating_point()
        ]
        out = model(x, t, **named)
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(9))
        (out * weights).sum().backward()
        results.append((out, watched))
    (out, watched), (their_out, their_watched) = results
    assert relative(out, their_out) < 1e-4
    for value, other in zip(watched, their_watched):
        assert relative(value.grad, other.grad) < 1e-4
    names, their_grads = (
        pretrained.released_names(ours),
        {name: p.grad for name, p in theirs.named_parameters()},
    )
    blocks = {path: m for path, m in ours.named_modules() if isinstance(m, AttentionBlock)}
    largest = max(grad.abs().max() for grad in their_grads.values())
    for own, p in ours.named_parameters():
        wanted, path = their_grads[names[own]], own.rpartition(".qkv.")[0]
        if o["heads_first"] and path in blocks:
            wanted = queries_first(wanted, blocks[path].heads)
        assert (p.grad - wanted).abs().max() <= 1e-4 * wanted.abs().max() + 1e-6 * largest, (
            own
        )  # a bias before a norm has a gradient of 0 but for rounding


def test_every_option_comes_up():
    seen = [options(seed) for seed in range(24)]
    for key, values in dict(
        kind=3,
        conditioning=2,
        resampling=3,
        by_count=2,
        heads_first=2,
        num_classes=2,
        learned_variance=2,
        in_channels=2,
        res_blocks=2,
        attention=3,
    ).items():
        assert (
            len({o[key] for o in seen if o["kind"] != "classifier" or key in ("kind", "attention")})
            >= values
        ), key
    for kind in (
        "unet",
        "low_res",
        "classifier",
    ):  # the three ways of resampling and both of conditioning, in each kind
        assert (
            len({o["resampling"] for o in seen if o["kind"] == kind}) == 3
            and len({o["conditioning"] for o in seen if o["kind"] == kind}) == 2
        )


def test_a_wrong_order_of_heads_would_be_noticed():
    o = dict(options(0), heads_first=True, attention=(16, 8))
    ours, theirs = pair(o)
    x, t, named = inputs(o)
    wrong = gde.load_released(deepcopy(ours), theirs.state_dict(), heads_first=False)
    with torch.no_grad():
        assert relative(wrong(x, t, **named), theirs(x, t, **named)) > 0.01


def test_both_orders_are_one_attention():
    qkv = torch.randn(2, 3 * 24, 7, generator=torch.Generator().manual_seed(0))
    by_head = torch.cat(
        [attend(part, 1) for part in qkv.split(3 * 12, dim=1)], dim=1
    )  # two heads, each with its q, k, v
    moved = torch.stack([queries_first(rows, 2) for rows in qkv])
    assert torch.allclose(attend(moved, 2), by_head, atol=1e-6) and not torch.allclose(
        attend(qkv, 2), by_head, atol=0.1
    )


@pytest.mark.parametrize("seed", [1, 2, 3])
@torch.no_grad()
def test_half_precision(seed):
    """The torso in float16, as the released code has it: the same places in half precision, and the
    same numbers to its rounding.
    """
    o = options(seed)
    ours, theirs = pair(o)
    x, t, named = inputs(o)
    exact = ours(x, t, **named)
    set_torso(ours, torch.float16)
    theirs.convert_to_fp16()
    theirs.dtype = torch.float16
    names = pretrained.released_names(ours)
    assert {names[own]: p.dtype for own, p in ours.named_parameters()} == {
        name: p.dtype for name, p in theirs.named_parameters()
    }
    out = ours(x, t, **named)
    assert out.dtype == torch.float32 and 0 < relative(out, exact) < 0.03
    assert relative(out, theirs(x, t, **named)) < 0.03
    assert (
        torch.equal(set_torso(ours, torch.float32)(x, t, **named), ours(x, t, **named))
        and out.isfinite().all()
    )


def test_dropout_only_while_training():
    model = randomise(gde.UNet(gde.UNetConfig(**SMALL, dropout=0.5)))
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([1, 2])
    assert torch.equal(model(x, t), model(x, t)) and not torch.equal(
        model.train()(x, t), model(x, t)
    )


SMALL = dict(
    image_size=16,
    channels=32,
    channel_mult=(1, 2),
    res_blocks=1,
    attention_resolutions=(8,),
    head_channels=16,
)
