"""The networks against the released code itself (`guided_diffusion`, for tests only): the layout of the fifteen released models, and the same numbers, forward and backward. And what must be refused."""

import hashlib
import pickle
from copy import deepcopy
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import nbformat
import pytest
import torch
from guided_diffusion import script_util
from guided_diffusion.unet import EncoderUNetModel, SuperResModel, UNetModel
from safetensors.torch import save_file

import guided_diffusion_edu as gde
from guided_diffusion_edu import pretrained
from guided_diffusion_edu.layers import attend, queries_first
from guided_diffusion_edu.unet import Stage

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


def network(config):
    return (gde.UNet if isinstance(config, gde.UNetConfig) else gde.Classifier)(config)


def shapes(model):
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


@torch.no_grad()
def randomise(model, seed=0):
    "Draws every weight anew, so that no layer is left at zero: matrices keep sizes, gains stay about 1."
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if p.ndim > 1:
            p.normal_(0, (1.0 / p[0].numel()) ** 0.5, generator=g)
        else:
            p.normal_(0, 0.2, generator=g).add_(float(name.endswith("weight")))
    return model.eval()


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
        ValueError, match="name must be one of .*64x64_diffusion.*got .64x64_difusion"
    ):
        gde.openai_config("64x64_difusion")


@pytest.mark.parametrize("name", pretrained.OPENAI)
def test_layout(name):
    "Every weight of the released layout has its place, with its shape, and each place its weight; all else that the flags say is in the release."
    release = gde.openai_release(name)
    with torch.device("meta"):
        theirs, diffusion = reference(name)
    with torch.device("meta"):
        ours = network(gde.openai_config(name))
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
    own_heads = {
        path: m.heads for path, m in ours.named_modules() if isinstance(m, gde.AttentionBlock)
    }
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
    "The options of the `seed`-th small network: kind, conditioning and resampling in all combinations, the rest at random."
    g = torch.Generator().manual_seed(seed)
    pick = lambda *values: values[torch.randint(len(values), (1,), generator=g).item()]
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
    blocks = {path: m for path, m in ours.named_modules() if isinstance(m, gde.AttentionBlock)}
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
    "The torso in float16, as the released code has it: the same places in half precision, and the same numbers to its rounding."
    o = options(seed)
    ours, theirs = pair(o)
    x, t, named = inputs(o)
    exact = ours(x, t, **named)
    gde.set_torso(ours, torch.float16)
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
        torch.equal(gde.set_torso(ours, torch.float32)(x, t, **named), ours(x, t, **named))
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


def test_recomputing_changes_no_number():
    "The same gradients, dropout included, for less memory; and a copy recomputes with its own weights."
    model = randomise(gde.UNet(gde.UNetConfig(**SMALL, dropout=0.3))).train()
    copy = deepcopy(gde.recompute_stages(deepcopy(model)))
    found = []
    for net in (model, copy):
        kept = []

        def note(tensor):
            kept.append(tensor.numel())
            return tensor

        torch.manual_seed(0)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = net(torch.ones(1, 3, 16, 16), torch.tensor([5])).square().sum()
        torch.manual_seed(0)
        loss.backward()
        found.append((sum(kept), [p.grad for p in net.parameters()]))
    assert found[1][0] < found[0][0] / 2
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(found[0][1], found[1][1]))
    for p in copy.parameters():
        torch.nn.init.zeros_(p)
    assert (
        copy(torch.ones(1, 3, 16, 16), torch.tensor([5])).abs().max()
        == 0
        < model(torch.ones(1, 3, 16, 16), torch.tensor([5])).abs().max()
    )


def test_attention_is_fused():
    "A kernel that never holds the scores as a whole takes what `attend` hands it, on the way back as well."
    qkv = torch.randn(2, 3 * 8, 16, requires_grad=True)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
        fused = attend(qkv, 2)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        plain = attend(qkv, 2)
    assert torch.allclose(fused, plain, atol=1e-6)
    weights = torch.randn_like(fused)
    assert torch.allclose(
        *(torch.autograd.grad((out * weights).sum(), qkv)[0] for out in (fused, plain)), atol=1e-5
    )


@pytest.mark.parametrize("network", ["model", "classifier"])
def test_fast_changes_no_number(network, monkeypatch):
    "Compiled stage by stage (here traced whole, without a compiler), channels last: the same answers and gradients. In bfloat16 nearly the same."
    monkeypatch.setattr(
        Stage,
        "compile",
        lambda self, **options: torch.nn.Module.compile(
            self, backend="eager", fullgraph=True, **options
        ),
    )
    plain = getattr(gde.load_pretrained("digits"), network)
    quick, half = gde.fast(deepcopy(plain)), gde.fast(deepcopy(plain), torch.bfloat16)
    x, t = torch.randn(4, 1, 8, 8), torch.tensor([0, 100, 500, 999])

    def answers(net):
        at = x.clone().requires_grad_()
        out = net(at, t)
        return out, torch.autograd.grad(out.square().sum(), at)[0]

    assert all(
        module._compiled_call_impl for module in quick.modules() if isinstance(module, Stage)
    )
    assert all(
        p.is_contiguous(memory_format=torch.channels_last)
        for p in quick.parameters()
        if p.ndim == 4
    )
    for wanted, got, rough in zip(answers(plain), answers(quick), answers(half)):
        assert torch.allclose(got, wanted, atol=1e-4 * wanted.abs().max().item())
        assert (
            rough.dtype == torch.float32 and 1e-4 < (rough - wanted).norm() / wanted.norm() < 0.05
        )
    assert list(quick.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_convolutions_of_16_bits_are_rounded_once(dtype, monkeypatch):
    "What the measurement of 16 bits computes: forward what PyTorch has on a processor, slowly; and each way back, which PyTorch adds up in 16 bits there, is float32's rounded."
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    from sixteen_bits import RoundedConvolutions

    layer, x, upstream = (
        torch.nn.Conv2d(16, 8, 3, padding=1).to(dtype),
        torch.randn(4, 16, 6, 6).to(dtype),
        torch.randn(4, 8, 6, 6).to(dtype),
    )

    def answers(layer, x, upstream):
        at = x.clone().requires_grad_()
        out = layer(at)
        return out, *torch.autograd.grad(out, (at, layer.weight), upstream)

    with RoundedConvolutions():
        found = answers(layer, x, upstream)
    assert (found[0] == layer(x)).float().mean() > 0.99
    for own, exact in zip(found, answers(layer.float(), x.float(), upstream.float())):
        assert own.dtype == dtype and not torch.equal(own.float(), exact)
        assert torch.allclose(own.float(), exact, rtol=0.501 * torch.finfo(dtype).eps, atol=1e-6)


def test_what_is_recorded_on_a_cpu_is_the_function():
    calls = []

    def model(x, t, y):
        calls.append(y)
        return x + t[:, None]

    assert torch.equal(
        gde.cuda_graph(model)(torch.ones(2, 1), torch.tensor([3, 4]), None),
        torch.tensor([[4.0], [5.0]]),
    ) and calls == [None]


@pytest.mark.gpu
def test_what_is_recorded_is_what_is_computed():
    "In two sizes of batch, again with other numbers and other weights, and a whole guided walk; and what it gave is not written over."
    digits = gde.load_pretrained("digits")
    model, classifier, y = (
        digits.model.cuda(),
        digits.classifier.cuda(),
        torch.arange(8, device="cuda"),
    )
    again = gde.cuda_graph(model)
    assert again.config is model.config
    for batch in (8, 3, 8):
        guidance = gde.classifier_guidance(classifier, y[:batch], 2.0)
        steered = gde.cuda_graph(guidance)
        inputs = [
            (torch.randn(batch, 1, 8, 8, device="cuda"), torch.full((batch,), t, device="cuda"))
            for t in (10, 500, 900)
        ]
        found = [(again(x, t, None), steered(x, t)) for x, t in inputs]
        for (x, t), (eps, gradient) in zip(inputs, found):
            with torch.no_grad():
                wanted = model(x, t)
            assert torch.allclose(
                eps, wanted, atol=1e-5 * wanted.abs().max().item()
            ) and torch.allclose(gradient, guidance(x, t), atol=1e-4 * gradient.abs().max().item())
        steps, x_T = gde.respace(digits.schedule, 10), torch.randn(batch, 1, 8, 8, device="cuda")
        walked = [
            gde.ddim_sample(m, steps, x_T.shape, guidance=g, x_T=x_T)
            for m, g in ((model, guidance), (again, steered))
        ]
        assert torch.allclose(*walked, atol=1e-3)
        for p in model.parameters():
            p.mul_(1.01)  # in place: the record sees it


SHIPPED_MODEL = [13.451, 12.5013, 6.5874, 6.8712]
SHIPPED_CLASSIFIER = [
    5.9269,
    5.7847,
    2.0481,
    0.2065,
]  # by the networks as they were when the weights were made


def test_compiled_networks_are_one_graph():
    "The look at the numbers in `y` does not break the graph; outside of a trace it is there."
    model, y = randomise(gde.UNet(gde.UNetConfig(**SMALL, num_classes=3))), torch.tensor([0, 2])
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(X + 1, T, y), model(X + 1, T, y), atol=1e-5)


def test_shipped_weights_give_what_they_gave():
    "Numbers noted when the weights were shipped: later versions of the networks read them in the same way."
    digits = gde.load_pretrained("digits")
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 100, 500, 999])
    assert digits.model(x, t).flatten(1).norm(dim=1).tolist() == pytest.approx(
        SHIPPED_MODEL, rel=1e-3
    )
    assert digits.classifier(x, t).flatten(1).norm(dim=1).tolist() == pytest.approx(
        SHIPPED_CLASSIFIER, rel=1e-3
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


def test_a_classifier_has_classes():
    with pytest.raises(ValueError, match="num_classes must be a whole number, got None"):
        gde.ClassifierConfig(num_classes=None)


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


def test_bad_inputs_of_a_classifier():
    classifier = gde.Classifier(gde.ClassifierConfig(**SMALL, num_classes=3))
    for x, message in (
        (X[:, :1], "x_t must have shape"),
        (torch.zeros(2, 3, 32, 32), "x_t must be pictures of 16 x 16, got"),
    ):
        with pytest.raises(ValueError, match=message):
            classifier(x, T)
    with pytest.raises(ValueError, match="t must have shape"):
        classifier(X, T[:1])


def test_blocks_refuse_what_does_not_divide():
    with pytest.raises(ValueError, match="channels must be a multiple of groups = 32, got 48"):
        gde.AdaGN(48, 8)
    with pytest.raises(
        ValueError, match="channels must be a multiple of head_channels = 64, got 96"
    ):
        gde.AttentionBlock(96)
    with pytest.raises(ValueError, match="dim must be even"):
        gde.timestep_embedding(T, 7)


# ---- reading checkpoints


@pytest.fixture
def tiny(monkeypatch):
    "The 64x64 pair and its upsampler, as tiny networks of the same kinds; gives their weights in the released layout."
    plans = {
        "64x64_diffusion": gde.UNetConfig(**SMALL, num_classes=300),
        "64x64_classifier": gde.ClassifierConfig(**SMALL, num_classes=300),
        "64_256_upsampler": gde.UNetConfig(
            **SMALL | dict(image_size=32), num_classes=300, low_res=True
        ),
    }
    released = {}
    for name, plan in plans.items():
        monkeypatch.setitem(pretrained.OPENAI, name, replace(pretrained.OPENAI[name], config=plan))
        model = randomise(network(plan))
        names = pretrained.released_names(model)
        released[name] = {names[own]: value for own, value in model.state_dict().items()}
    return released


def test_what_does_not_fit_is_named(tiny):
    weights = tiny["64x64_diffusion"]
    spoiled = dict(weights, **{"extra.weight": X, "time_embed.0.weight": torch.zeros(3, 2)})
    for k in range(3):
        del spoiled[
            f"middle_block.{k}.norm.weight" if k == 1 else f"middle_block.{k}.in_layers.0.weight"
        ]
    with pytest.raises(ValueError) as error:
        gde.from_openai("64x64_diffusion", spoiled)
    text = str(error.value)
    assert (
        "missing: middle_block.0.in_layers.0.weight, middle_block.1.norm.weight, middle_block.2.in_layers.0.weight"
        in text
    )
    assert (
        "left over: extra.weight" in text
        and "misshapen: time_embed.0.weight (3, 2), not (128, 32)" in text
    )
    with pytest.raises(ValueError, match=r"and \d+ more"):
        gde.from_openai("64x64_diffusion", {})


def test_the_given_weights_stay_the_users(tiny):
    weights = tiny["64x64_diffusion"]
    before = {name: value.clone() for name, value in weights.items()}
    model = gde.from_openai("64x64_diffusion", weights)
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    for p in model.parameters():
        p.zero_()
    assert all(torch.equal(before[name], value) for name, value in weights.items())
    half = gde.from_openai(
        "64x64_diffusion", {name: value.half() for name, value in weights.items()}
    )
    assert {p.dtype for p in half.parameters()} == {torch.float32}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_files(tiny, tmp_path, suffix):
    path = tmp_path / f"64x64_diffusion{suffix}"
    torch.save(tiny["64x64_diffusion"], path) if suffix == ".pt" else save_file(
        tiny["64x64_diffusion"], path
    )
    x, y = torch.randn(2, 3, 16, 16), torch.tensor([0, 299])
    assert torch.equal(
        gde.from_openai("64x64_diffusion", path)(x, T, y),
        gde.from_openai("64x64_diffusion", tiny["64x64_diffusion"])(x, T, y),
    )
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="path must be a whole file of tensors"):
        gde.read_weights(path)
    with pytest.raises(ValueError, match="path must be a file of weights, got .*nowhere"):
        gde.read_weights(tmp_path / f"nowhere{suffix}")


class Bomb:
    def __init__(self, fuse):
        self.fuse = fuse

    def __reduce__(self):
        return Path.touch, (self.fuse,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_runs_no_code(tmp_path, zipped):
    path, fuse = tmp_path / "bad.pt", tmp_path / "it ran"
    torch.save(dict(weight=Bomb(fuse)), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="holds code .which was not run."):
        gde.from_openai("64x64_diffusion", path)
    assert not fuse.exists()
    torch.load(path, weights_only=False)
    assert fuse.exists()  # it would have
    for other in (dict(a=3), [X]):
        torch.save(other, path)
        with pytest.raises(ValueError, match="path must be a file of tensors by name"):
            gde.read_weights(path)
    path.write_bytes(pickle.dumps(dict(a=[1])))
    with pytest.raises(ValueError, match="path must be"):
        gde.read_weights(path)


class Answer(BytesIO):
    def __init__(self, content, url, size=None):
        super().__init__(content)
        self.url, self.headers = (
            url,
            {"Content-Length": str(len(content) if size is None else size)},
        )

    def geturl(self):
        return self.url


def test_fetch(tmp_path):
    asked = []

    def server(url, timeout):
        asked.append(url)
        return Answer(b"weights", url)

    path = gde.fetch_openai("lsun_cat", tmp_path / "models", server)
    assert path.read_bytes() == b"weights" and asked == [
        "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/lsun_cat.pt"
    ]
    record = path.with_name("lsun_cat.pt.sha256")
    assert (
        record.read_text() == f"{hashlib.sha256(b'weights').hexdigest()}  lsun_cat.pt\n"
    )  # as sha256sum -c wants it
    assert gde.fetch_openai("lsun_cat", tmp_path / "models", server) == path and len(asked) == 1
    path.write_bytes(b"Weights")
    with pytest.raises(
        ValueError, match="lsun_cat.pt must have the SHA-256 .*damaged or exchanged"
    ):
        gde.fetch_openai("lsun_cat", tmp_path / "models", server)
    path.unlink()  # downloaded again, it must be the same file
    other = lambda url, timeout: Answer(b"other", url)
    with pytest.raises(ValueError, match="damaged or exchanged"):
        gde.fetch_openai("lsun_cat", tmp_path / "models", other)
    assert [p.name for p in path.parent.iterdir()] == ["lsun_cat.pt.sha256"]


@pytest.mark.parametrize(
    "answer, message",
    [
        (lambda url, timeout: Answer(b"wei", url, 7), "the file must be whole: got 3 of 7 bytes"),
        (
            lambda url, timeout: Answer(b"weights", "http://elsewhere/lsun_cat.pt"),
            "the answer must come by https, and came from http://elsewhere",
        ),
    ],
)
def test_a_bad_download_leaves_nothing(tmp_path, answer, message):
    with pytest.raises(ValueError, match=message):
        gde.fetch_openai("lsun_cat", tmp_path, answer)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="name must be one of"):
        gde.fetch_openai("../lsun_cat", tmp_path, answer)


def test_the_chapters_own_lines_for_a_gpu(tiny, tmp_path, monkeypatch, root):
    "The cells of chapter 11 that need a GPU, run as they stand with tiny networks: fetch, guide, enlarge."
    cells = [
        c.source
        for c in nbformat.read(root / "nbs" / "11_pretrained.ipynb", 4).cells
        if c.source.startswith("#| cuda\n#| slow\n")
    ]
    assert len(cells) == 2

    def server(url, timeout):
        file = BytesIO()
        torch.save(tiny[url.split("/")[-1].removesuffix(".pt")], file)
        return Answer(file.getvalue(), url)

    shown, short = (
        [],
        lambda schedule, steps: (
            gde.respace(schedule, 2) if steps == 250 else pytest.fail("another number of steps")
        ),
    )
    here = {name: getattr(gde, name) for name in dir(gde)} | dict(
        torch=torch,
        show_grid=lambda images, **_: shown.append(images),
        respace=short,
        fetch_openai=lambda name: gde.fetch_openai(name, tmp_path, server),
    )
    for cell in cells:
        exec(cell, here)
    small, large = shown
    assert (
        small.shape == (4, 3, 16, 16)
        and large.shape == (4, 3, 32, 32)
        and small.isfinite().all()
        and large.isfinite().all()
    )
    assert {p.dtype for p in here["upsampler"].encoder.down[0].residual.conv.parameters()} == {
        torch.float16
    }
    by_hand = here["upsampler"](large, torch.zeros(4).long(), here["y"], low_res=small)
    assert by_hand.shape == (4, 6, 32, 32)


def test_upsampling_is_the_sampler_on_the_model():
    model, small = (
        randomise(gde.UNet(gde.UNetConfig(**SMALL, low_res=True))),
        torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 4 - 2,
    )
    steps, seeded = gde.respace(gde.linear_schedule(), 4), lambda: torch.Generator().manual_seed(3)
    for sampler in (gde.ddim_sample, gde.ddpm_sample):
        large = gde.upsample(model, steps, small, sampler=sampler, generator=seeded())
        by_hand = sampler(
            lambda x, t, y: model(x, t, low_res=small.clamp(-1, 1)),
            steps,
            (2, 3, 16, 16),
            generator=seeded(),
        )
        assert torch.equal(large, by_hand)


# ---- the drawing and the counting


def test_survey_notes_every_part_in_order():
    plan = gde.UNetConfig(
        **SMALL | dict(channel_mult=(1, 2, 4), attention_resolutions=(4,)), resampling="conv"
    )
    with torch.device("meta"):
        model = gde.UNet(plan)
        x, t = torch.empty(1, 3, 16, 16), torch.zeros(1)
    parts = gde.survey(model, x, t)
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
    assert [
        p.flops for p in gde.survey(gde.UNet(plan), torch.zeros(1, 3, 16, 16), torch.zeros(1))
    ] == [p.flops for p in parts]  # attention that is fused is counted as well


def test_the_drawing_joins_what_the_network_joins():
    import matplotlib

    matplotlib.use("agg")
    model = gde.UNet(gde.UNetConfig(**SMALL | dict(channel_mult=(1, 2, 4))))
    parts = gde.survey(model, torch.zeros(1, 3, 16, 16), torch.tensor([0]))
    axes = gde.draw_unet(model, parts).axes[0]
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
    with pytest.raises(Exception):
        gde.survey(model, torch.zeros(1, 1, 7, 7), torch.zeros(1, dtype=torch.long))
    assert not any(module._forward_hooks for module in model.modules())
