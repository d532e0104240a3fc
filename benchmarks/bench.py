"""Side by side with four peers, in one process, in turns: the released ADM code (PyPI's
guided-diffusion-sdk), diffusers, denoising-diffusion-pytorch, smalldiffusion.

make bench writes results/bench-<device>.json

The released code and diffusers run the very network, with the same weights; that the results are
equal is checked before anything is timed. The other two have networks of their own and are given
one of as many parameters; what it computes is counted. Each ratio is of two runs of one round;
medians and extremes over the rounds are kept. On a GPU three more take part: the released code in
float16, as its README runs it; ours by `fast` in bfloat16; and that recorded.
"""

import argparse
import contextlib
import copy
import functools
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import guided_diffusion_edu as gde
from guided_diffusion_edu.checkpoints import write_text
from guided_diffusion_edu.performance import CudaGraph, matmul_rate, utilisation
from guided_diffusion_edu.provenance import provenance
from guided_diffusion_edu.training import PRECISIONS, LoopNetwork
from guided_diffusion_edu.unet import survey

warnings.filterwarnings("ignore", category=FutureWarning)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
STEPS, SCALE, ROUNDS = 4, 1.0, 5
SHARE = 1 if DEVICE.type == "cuda" else 3  # a third of the width on a processor
SMALL = dict(
    image_size=32,
    channels=64,
    channel_mult=(1, 2, 2),
    res_blocks=2,
    attention_resolutions=(16, 8),
    head_channels=64,
)
ADM = dict(
    image_size=64,
    channels=192 // SHARE,
    channel_mult=(1, 2, 3, 4),
    res_blocks=3,
    attention_resolutions=(32, 16, 8),
    head_channels=64,
)
CLASSIFIERS = {
    32: dict(SMALL, channels=32, head_channels=32, res_blocks=1),
    64: dict(
        image_size=64,
        channels=max(128 // SHARE // 32, 1) * 32,
        channel_mult=(1, 2, 3, 4),
        res_blocks=2,
        attention_resolutions=(32, 16, 8),
        head_channels=32,
    ),
}
FULL = 64  # a batch that fills a GPU
SETUPS = {
    "32 x 32, 8 M parameters": (SMALL, 8),
    f"ADM-64{'' if SHARE == 1 else ', a third of the width'}": (
        ADM,
        FULL if DEVICE.type == "cuda" else 2,
    ),
}
PACKAGES = {
    "released": "guided-diffusion-sdk",
    "diffusers": "diffusers",
    "denoising-diffusion-pytorch": "denoising-diffusion-pytorch",
    "smalldiffusion": "smalldiffusion",
}


class Problem:
    "What all are asked to do: noise, target, classes, and weights of the released networks."

    def __init__(self, fields, batch):
        from guided_diffusion.unet import EncoderUNetModel, UNetModel

        torch.manual_seed(0)
        self.fields, self.size = fields, fields["image_size"]
        self.guide = CLASSIFIERS[self.size]
        self.unet = UNetModel(
            self.size, 3, fields["channels"], 6, fields["res_blocks"], **self.released(fields)
        )
        self.classifier = EncoderUNetModel(
            self.size,
            3,
            self.guide["channels"],
            10,
            self.guide["res_blocks"],
            **self.released(self.guide),
            pool="attention",
        )
        for p in [*self.unet.parameters(), *self.classifier.parameters()]:
            if p.abs().max() == 0:
                torch.nn.init.normal_(
                    p, std=0.02
                )  # zeroed layers would hide all that is behind them
        self.unet.to(DEVICE), self.classifier.to(DEVICE).requires_grad_(False)
        self.x, self.target = (
            torch.randn(batch, 3, self.size, self.size, device=DEVICE) for _ in range(2)
        )
        self.t = torch.full((batch,), 500, device=DEVICE)
        self.y = torch.arange(batch, device=DEVICE) % 10

    def released(self, fields):
        factors = tuple(self.size // size for size in fields["attention_resolutions"])
        return dict(
            attention_resolutions=factors,
            channel_mult=fields["channel_mult"],
            num_head_channels=fields["head_channels"],
            use_scale_shift_norm=True,
            resblock_updown=True,
            use_new_attention_order=True,
        )

    def gradient(self, x, t):
        "As the released script has it: of the log-probability, in x."
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return (
                SCALE
                * torch.autograd.grad(
                    self.classifier(x, t).log_softmax(-1)[torch.arange(len(x)), self.y].sum(), x
                )[0]
            )


def training(problem, model, predict=None):
    """Forward, squared error of eps, backward, a step of AdamW that moves nothing.

    `predict`: how the model is asked, if not plainly.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0)
    if predict is None:
        predict = model  # a compiled one has no truth value

    def run():
        optimizer.zero_grad()
        loss = F.mse_loss(predict(problem.x, problem.t)[:, :3].float(), problem.target)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return run


def samplers(model, guidance, problem):
    def sample(sampler, steps):
        return lambda: sampler(
            model,
            gde.respace(gde.linear_schedule(), steps),
            problem.x.shape,
            guidance=guidance,
            x_T=problem.x,
        )

    return {
        "guided DDPM step": sample(gde.ddpm_sample, STEPS),
        "guided DDIM step": sample(gde.ddim_sample, STEPS),
        "guided DDIM-25": sample(gde.ddim_sample, 25),
    }


def own_networks(problem):
    unet = gde.load_released(
        gde.UNet(gde.UNetConfig(**problem.fields)), problem.unet.state_dict(), heads_first=False
    )
    classifier = gde.load_released(
        gde.Classifier(gde.ClassifierConfig(**problem.guide, num_classes=10)),
        problem.classifier.state_dict(),
        heads_first=False,
    )
    return unet.to(DEVICE), classifier.to(DEVICE).eval().requires_grad_(False)


def ours(problem):
    unet, classifier = own_networks(problem)
    sampling = copy.deepcopy(unet).eval().requires_grad_(False)
    return unet, {
        "training step": training(problem, unet),
        **samplers(sampling, gde.classifier_guidance(classifier, problem.y, SCALE), problem),
    }


@functools.lru_cache  # compiled once
def fast_networks(problem):
    """The UNet, how it is trained (as `gde train` with --channels-last --compile, on a GPU
    --precision bfloat16), its copy for sampling, and the guidance.
    """
    unet, classifier = own_networks(problem)
    precision = "bfloat16" if DEVICE.type == "cuda" else "float32"
    dtype = PRECISIONS[precision] or torch.float32
    sampling = gde.fast(copy.deepcopy(unet).eval().requires_grad_(False), dtype)
    network = LoopNetwork(
        unet.to(memory_format=torch.channels_last), gde.Recipe(precision=precision, compile=True)
    )
    return (
        unet,
        network,
        sampling,
        gde.classifier_guidance(gde.fast(classifier, dtype), problem.y, SCALE),
    )


def ours_fast(problem):
    unet, network, sampling, guidance = fast_networks(problem)
    return unet, {
        "training step": training(problem, unet, network),
        **samplers(sampling, guidance, problem),
    }


def ours_recorded(problem):
    unet, _, sampling, guidance = fast_networks(problem)
    return unet, samplers(CudaGraph(sampling), CudaGraph(guidance), problem)


def released_samples(problem, unet):
    from guided_diffusion.gaussian_diffusion import (
        LossType,
        ModelMeanType,
        ModelVarType,
        get_named_beta_schedule,
    )
    from guided_diffusion.respace import SpacedDiffusion, space_timesteps

    def sample(name, steps):
        process = SpacedDiffusion(
            space_timesteps(1000, f"{steps}"),
            betas=get_named_beta_schedule("linear", 1000),
            model_mean_type=ModelMeanType.EPSILON,
            model_var_type=ModelVarType.LEARNED_RANGE,
            loss_type=LossType.MSE,
        )
        return lambda: getattr(process, name)(
            unet, problem.x.shape, noise=problem.x, cond_fn=problem.gradient, model_kwargs={}
        )

    return {
        "guided DDPM step": sample("p_sample_loop", STEPS),
        "guided DDIM step": sample("ddim_sample_loop", STEPS),
        "guided DDIM-25": sample("ddim_sample_loop", 25),
    }


def released(problem):
    return problem.unet, {
        "training step": training(problem, problem.unet),
        **released_samples(problem, problem.unet),
    }


def released_half(problem):
    """UNet in float16, classifier in float32: the flags of its README.

    Training by its own trainer, with a scaled loss and float32 copies of the weights.
    """
    from guided_diffusion import logger
    from guided_diffusion.fp16_util import MixedPrecisionTrainer

    logger.set_level(logger.DISABLED)
    sampling, unet = copy.deepcopy(problem.unet).requires_grad_(False), copy.deepcopy(problem.unet)
    for model in (sampling, unet):
        model.dtype = torch.float16
    sampling.convert_to_fp16()
    trainer = MixedPrecisionTrainer(model=unet, use_fp16=True)
    optimizer = torch.optim.AdamW(trainer.master_params, lr=0.0, weight_decay=0.0)

    def run():
        trainer.zero_grad()
        loss = F.mse_loss(unet(problem.x, problem.t)[:, :3].float(), problem.target)
        trainer.backward(loss)
        trainer.optimize(optimizer)
        return loss.detach()

    return unet, {"training step": run, **released_samples(problem, sampling)}


# diffusers: the same network by other names

RES = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}


def diffusers_blocks(fields):
    "(block of the released network, where diffusers has it), in order."
    depth, levels = fields["res_blocks"], len(fields["channel_mult"])
    attends = [
        fields["image_size"] >> level in fields["attention_resolutions"] for level in range(levels)
    ]
    block = 0
    for level in range(levels):
        for j in range(depth):
            block += 1
            yield f"input_blocks.{block}.0", f"down_blocks.{level}.resnets.{j}"
            if attends[level]:
                yield f"input_blocks.{block}.1", f"down_blocks.{level}.attentions.{j}"
        if level < levels - 1:
            block += 1
            yield f"input_blocks.{block}.0", f"down_blocks.{level}.downsamplers.0"
    yield from [
        ("middle_block.0", "mid_block.resnets.0"),
        ("middle_block.1", "mid_block.attentions.0"),
        ("middle_block.2", "mid_block.resnets.1"),
    ]
    block = 0
    for up, level in enumerate(reversed(range(levels))):
        for j in range(depth + 1):
            yield f"output_blocks.{block}.0", f"up_blocks.{up}.resnets.{j}"
            if attends[level]:
                yield f"output_blocks.{block}.1", f"up_blocks.{up}.attentions.{j}"
            if j == depth and level > 0:
                yield (
                    f"output_blocks.{block}.{2 if attends[level] else 1}",
                    f"up_blocks.{up}.upsamplers.0",
                )
            block += 1


def diffusers_state(fields, state):
    "The released network's `state` by diffusers' names."
    renamed = {}

    def move(old, new):
        for kind in ("weight", "bias"):
            if f"{old}.{kind}" in state:
                renamed[f"{new}.{kind}"] = state[f"{old}.{kind}"]

    for old, new in {
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "input_blocks.0.0": "conv_in",
        "out.0": "conv_norm_out",
        "out.2": "conv_out",
    }.items():
        move(old, new)
    for old, new in diffusers_blocks(fields):
        if ".attentions." not in new:
            for part, name in RES.items():
                move(f"{old}.{part}", f"{new}.{name}")
            continue
        move(f"{old}.norm", f"{new}.group_norm")
        for kind in ("weight", "bias"):
            for name, value in zip("qkv", state[f"{old}.qkv.{kind}"].chunk(3)):
                renamed[f"{new}.to_{name}.{kind}"] = value.flatten(1) if kind == "weight" else value
            value = state[f"{old}.proj_out.{kind}"]
            renamed[f"{new}.to_out.0.{kind}"] = value.flatten(1) if kind == "weight" else value
    return renamed


def diffusers(problem):
    """Has no guidance by a classifier for this network: eps_hat is made beside it, its scheduler
    makes the step.
    """
    from diffusers import DDIMScheduler, UNet2DModel

    fields = problem.fields
    attends = [
        problem.size >> level in fields["attention_resolutions"]
        for level in range(len(fields["channel_mult"]))
    ]
    model = UNet2DModel(
        sample_size=problem.size,
        in_channels=3,
        out_channels=6,
        block_out_channels=[fields["channels"] * m for m in fields["channel_mult"]],
        down_block_types=["AttnDownBlock2D" if a else "ResnetDownsampleBlock2D" for a in attends],
        up_block_types=["AttnUpBlock2D" if a else "ResnetUpsampleBlock2D" for a in attends[::-1]],
        layers_per_block=fields["res_blocks"],
        attention_head_dim=fields["head_channels"],
        resnet_time_scale_shift="scale_shift",
        downsample_type="resnet",
        upsample_type="resnet",
        freq_shift=0,
        flip_sin_to_cos=True,
        norm_eps=1e-5,
        attn_norm_num_groups=32,
    ).to(DEVICE)
    model.load_state_dict(diffusers_state(fields, problem.unet.state_dict()))

    def predict(x, t):
        return model(x, t).sample

    def sample(steps):
        scheduler = DDIMScheduler(beta_start=1e-4, beta_end=0.02)
        scheduler.set_timesteps(steps)
        width = (1 - scheduler.alphas_cumprod).sqrt().tolist()

        @torch.no_grad()
        def run():
            x = problem.x
            for t in scheduler.timesteps.tolist():
                times = torch.full((len(x),), t, device=DEVICE)
                eps = predict(x, times)[:, :3] - width[t] * problem.gradient(x, times)
                x = scheduler.step(eps, t, x).prev_sample
            return x

        return run

    return model, {
        "training step": training(problem, model, predict),
        "guided DDIM step": sample(STEPS),
        "guided DDIM-25": sample(25),
    }


# networks of their own, of as many parameters


def nearest_width(build, wanted, widths):
    "The network that `build(width)` makes with the number of parameters nearest to `wanted`."
    with torch.device("meta"):
        best = min(widths, key=lambda width: abs(parameters(build(width)) - wanted))
    return build(best).to(DEVICE)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def lucidrains(problem):
    """denoising-diffusion-pytorch: DDPM guided at the mean; its DDIM takes a guide and does not ask
    it, so it has no row here.
    """
    from denoising_diffusion_pytorch.guided_diffusion import GaussianDiffusion, Unet

    model = nearest_width(
        lambda width: Unet(width, dim_mults=problem.fields["channel_mult"]),
        parameters(problem.unet),
        range(16, 513, 8),
    )
    process = GaussianDiffusion(
        model, image_size=problem.size, timesteps=1000, beta_schedule="linear"
    ).to(DEVICE)

    @torch.no_grad()
    def sample():
        x = problem.x
        for t in range(STEPS - 1, -1, -1):
            with contextlib.redirect_stdout(None):
                x, _ = process.p_sample(
                    x, t, None, problem.gradient, {}
                )  # it prints each step's gradient
        return x

    return model, {"training step": training(problem, model), "guided DDPM step": sample}


def smalldiffusion(problem):
    """Guides by classes that the network was told, not by a classifier: the gradient is put into
    what its sampler asks.
    """
    from smalldiffusion import ScheduleDDPM, samples
    from smalldiffusion.model_unet import Unet

    fields, schedule = problem.fields, ScheduleDDPM(1000)
    noise = schedule.sigmas.to(DEVICE)

    def build(width):
        return Unet(
            problem.size,
            3,
            3,
            width,
            fields["channel_mult"],
            num_res_blocks=fields["res_blocks"],
            attn_resolutions=fields["attention_resolutions"],
            dropout=0.0,
        )

    model = nearest_width(build, parameters(problem.unet), range(32, 257, 32))

    class Guided(torch.nn.Module):
        def predict_eps_cfg(self, x, sigma, *_):
            t = torch.searchsorted(noise, sigma).expand(len(x))
            signal = (1 + sigma**2) ** -0.5
            return model(x, sigma) - sigma * signal * problem.gradient(signal * x, t)

        def rand_input(self, batch):
            return torch.randn(batch, 3, problem.size, problem.size)

    def sample(steps):
        sigmas = schedule.sample_sigmas(steps)

        @torch.no_grad()
        def run():
            return list(samples(guided, sigmas, xt=problem.x * sigmas[0], accelerator=place))[-1]

        return run

    guided, place = Guided(), SimpleNamespace(device=DEVICE)

    def predict(x, t):
        return model(x, noise[t])

    return model, {
        "training step": training(problem, model, predict),
        "guided DDIM step": sample(STEPS),
        "guided DDIM-25": sample(25),
    }


PEERS = {
    "released": released,
    "ours": ours,
    "ours, fast": ours_fast,
    "diffusers": diffusers,
    "denoising-diffusion-pytorch": lucidrains,
    "smalldiffusion": smalldiffusion,
}
if DEVICE.type == "cuda":
    PEERS |= {"released, float16": released_half, "ours, fast and recorded": ours_recorded}
ROUNDED = (
    ("ours, fast", "ours, fast and recorded", "released, float16") if DEVICE.type == "cuda" else ()
)  # 16 bits: near, not the same
OURS = tuple(peer for peer in PEERS if peer.startswith("ours"))
SAME = {"training step": (*OURS, "diffusers"), "guided DDPM step": OURS, "guided DDIM step": OURS}


@functools.lru_cache
def problem_of(name):
    return Problem(*SETUPS[name])


def settle():
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def result(run):
    torch.manual_seed(1)
    output = run()
    settle()
    return output


def seconds(run):
    settle()
    began = time.perf_counter()
    result(run)
    return time.perf_counter() - began


def flops(run):
    plain = (
        sdpa_kernel(SDPBackend.MATH) if DEVICE.type == "cpu" else contextlib.nullcontext()
    )  # the fused kernel of a processor is not counted
    with plain, FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def race(runs, rounds):
    """{peer: times as fast as the released code: median, least, most}, each round in turns, and its
    seconds.
    """
    taken = [{peer: seconds(run) for peer, run in runs.items()} for _ in range(rounds)]
    table = {}
    for peer in runs:
        ratios = [one["released"] / one[peer] for one in taken]
        table[peer] = dict(
            times_as_fast=round(statistics.median(ratios), 3),
            least=round(min(ratios), 3),
            most=round(max(ratios), 3),
            seconds=round(statistics.median(one[peer] for one in taken), 4),
        )
    return table


def differences(name, row, runs):
    """Largest difference of each result from the released code's; those not `ROUNDED` must be the
    same. Each is warmed up as well.
    """
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        answers = {peer: result(run) for peer, run in runs.items() if peer not in ROUNDED}
    answers |= {peer: result(run) for peer, run in runs.items() if peer in ROUNDED}
    gaps = {
        peer: (answers[peer] - answers["released"]).abs().max().item()
        for peer in (*SAME[row], *ROUNDED)
        if peer in runs
    }
    for peer, gap in gaps.items():
        assert peer in ROUNDED or gap < 1e-3, f"{name}, {row}: {peer} differs by {gap}"
    if DEVICE.type == "cuda":  # other kernels are chosen for what is timed
        for run in runs.values():
            result(run)
    return gaps


def side_by_side(name, wanted, rounds):
    problem = problem_of(name)
    built = {peer: PEERS[peer](problem) for peer in wanted}
    table = {}
    for row in ("training step", "guided DDPM step", "guided DDIM step", "guided DDIM-25"):
        runs = {peer: rows[row] for peer, (_, rows) in built.items() if row in rows}
        gaps = differences(name, row, runs) if row != "guided DDIM-25" else {}
        speeds = race(runs, rounds if row != "guided DDIM-25" else max(rounds // 2, 1))
        for peer, speed in speeds.items():
            counted = row == "training step" and not peer.startswith("ours, fast")
            speed |= dict(
                gflop=round(flops(runs[peer]) / 1e9, 1) if counted else None,
                parameters=parameters(built[peer][0]),
                largest_difference=gaps.get(peer),
            )
            if DEVICE.type == "cuda" and row in MEASURED and peer != "ours, fast and recorded":
                speed["megabytes"] = peak_of_gpu(runs[peer])
            ratio = f"{speed['times_as_fast']:5.2f} ({speed['least']:.2f} to {speed['most']:.2f})"
            print(
                f"{name:28} {row:17} {peer:28} {ratio} times as fast as the released code", end=""
            )
            print(f", {speed['seconds']:.4f} s", flush=True)
        table[row] = speeds
    return table


# memory: on a processor each case in a process of its own

MEASURED = "training step", "guided DDIM step"


def peak_of_gpu(run):
    "Peak of the GPU's memory in MB above what is held before and after `run`."
    settle()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    settle()
    return round((torch.cuda.max_memory_allocated() - before) / 2**20)


def peak(name, peer, row):
    "Peak of memory in MB above what the process held when all was built."

    def held(kind):
        return (
            int(
                next(line for line in open("/proc/self/status") if line.startswith(kind)).split()[1]
            )
            / 2**10
        )  # Linux

    run = PEERS[peer](Problem(*SETUPS[name]))[1][row]
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = held("VmRSS")
    run()
    return round(held("VmHWM") - before)


def memory(name, wanted, rows):
    "{row: {peer: MB}}; on a GPU the race has measured it in passing."
    if DEVICE.type == "cuda":
        return {
            row: {
                peer: peer_row["megabytes"]
                for peer, peer_row in rows[name][row].items()
                if "megabytes" in peer_row
            }
            for row in MEASURED
        }
    table = {}
    for row in MEASURED:
        table[row] = {}
        for peer in wanted:
            if peer == "ours, fast" or (
                peer == "denoising-diffusion-pytorch" and row != "training step"
            ):
                continue
            command = [sys.executable, __file__, "--peak", name, peer, row]
            table[row][peer] = int(
                subprocess.run(
                    command, check=True, capture_output=True, text=True
                ).stdout.splitlines()[-1]
            )
        print(f"{name:28} {row:17} memory above the start, MB: {table[row]}", flush=True)
    return table


# growth, and how much of the machine is used


def growth():
    """On a processor, evaluations of our UNet under no gradient: by batch, resolution and steps,
    with the share of the matmul ceiling that is used.
    """
    rows = []
    for size, batch, steps in [
        (32, 1, 1),
        (32, 2, 1),
        (32, 4, 1),
        (32, 8, 1),
        (32, 16, 1),
        (16, 8, 1),
        (64, 8, 1),
        (32, 2, 2),
        (32, 2, 4),
        (32, 2, 8),
    ]:
        torch.manual_seed(0)
        model = (
            gde.UNet(gde.UNetConfig(**dict(SMALL, image_size=size))).eval().requires_grad_(False)
        )
        schedule, x_T = (
            gde.respace(gde.linear_schedule(), max(steps, 2)),
            torch.randn(batch, 3, size, size),
        )

        run = functools.partial(
            gde.ddim_sample, model, schedule, x_T.shape, x_T=x_T, start=steps - 1
        )

        work = flops(run)
        run()
        # the ceiling right before each run
        rounds = [(matmul_rate(), seconds(run)) for _ in range(7)]
        shares, took = (
            statistics.median(values)
            for values in zip(*((utilisation(work, took, rate), took) for rate, took in rounds))
        )
        rows.append(
            dict(
                image_size=size,
                batch=batch,
                steps=steps,
                gflop=round(work / 1e9, 2),
                seconds=round(took, 4),
                share_of_ceiling=round(shares, 3),
                ceiling_gflops=round(max(rate for rate, _ in rounds) / 1e9, 1),
            )
        )
        print(f"{size} x {size}, batch {batch}, {steps} steps: {work / 1e9:.1f} GFLOP", end=" ")
        print(f"at {shares:.0%} of the ceiling", flush=True)
    return rows


KINDS = {
    "convolutions": ("fprop", "dgrad", "wgrad"),
    "other products": ("nvjet", "gemm"),
    "attention": ("sdpa", "flash", "fmha"),
    "compiled: norms, SiLU, sums": ("triton",),
    "skips joined": ("CatArray",),
}


def kernels(run):
    "{kind: milliseconds} of the kernels that `run` orders, by torch's profiler."
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        run()
        settle()
    taken = dict.fromkeys([*KINDS, "others, most of them copies"], 0.0)
    for event in profiled.key_averages():
        kind = next(
            (kind for kind, names in KINDS.items() if any(name in event.key for name in names)),
            list(taken)[-1],
        )
        taken[kind] += event.self_device_time_total / 1000
    return {kind: round(time, 2) for kind, time in taken.items()}


def filling():
    """{what: its share of the bfloat16 ceiling} of ADM-64 on a GPU, and the milliseconds of an
    evaluation's kernels by kind.
    """
    problem = problem_of("ADM-64")
    unet, network, sampling, _guidance = fast_networks(problem)
    with torch.device("meta"):
        x, t = torch.empty(FULL, 3, 64, 64), torch.empty(FULL, dtype=torch.long)
        networks = (
            gde.UNet(gde.UNetConfig(**ADM)),
            gde.Classifier(gde.ClassifierConfig(**problem.guide, num_classes=10)),
        )
        forward, opinion = (
            sum(part.flops for part in survey(network, x, t)) for network in networks
        )

    def evaluation():
        with torch.no_grad():
            return sampling(problem.x, problem.t)

    cases = {
        "evaluation, fast": (forward, evaluation),
        "training step, fast": (3 * forward, training(problem, unet, network)),
    }
    for peer, name in (
        ("released", "released"),
        ("ours, fast", "fast"),
        ("ours, fast and recorded", "fast and recorded"),
    ):
        cases[f"guided DDIM step, {name}"] = (
            STEPS * (forward + 2 * opinion),
            PEERS[peer](problem)[1]["guided DDIM step"],
        )
    rate, shares = matmul_rate(8192, torch.bfloat16, DEVICE), {}

    def note(name, work, took, steps=1):
        shares[name] = dict(
            batch=FULL,
            gflop=round(work / steps / 1e9, 1),
            seconds=round(took / steps, 6),
            ceiling_gflops=round(rate / 1e9),
            share_of_ceiling=round(utilisation(work, took, rate), 3),
        )
        print(name, shares[name], flush=True)

    for name, (work, run) in cases.items():
        run()
        run()
        note(
            name,
            work,
            statistics.median(seconds(run) for _ in range(7)),
            STEPS if name.startswith("guided") else 1,
        )
    taken = kernels(evaluation)
    note("evaluation, fast: its kernels alone", forward, sum(taken.values()) / 1000)
    return dict(filling=shares, kernels_milliseconds=taken)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    if args.peak:
        return print(peak(*args.peak))
    wanted = list(dict.fromkeys(["released", *args.peers]))
    record = dict(
        about=dict(
            provenance(),
            processor=os.cpu_count(),
            peers={
                peer: f"{package} {importlib.metadata.version(package)}"
                for peer, package in PACKAGES.items()
                if peer in wanted
            },
        )
    )
    if DEVICE.type == "cuda":
        record["about"]["batch"] = FULL
    path = (
        Path(__file__).parents[1]
        / "results"
        / f"bench-{record['about']['device'].replace(' ', '-')}.json"
    )
    partial = path.with_suffix(".partial")  # an earlier result stays whole until there is a new one

    def keep(name, values):
        record.setdefault(name, {}).update(values)
        write_text(partial, json.dumps(record, indent=1) + "\n")

    if DEVICE.type == "cpu":
        record["growth"] = growth()
    for name in SETUPS:
        keep("rows", {name: side_by_side(name, wanted, args.rounds)})
        keep("memory", {name: memory(name, wanted, record["rows"])})
    if DEVICE.type == "cuda":
        for name, values in filling().items():
            keep(name, values)
    partial.replace(path)


if __name__ == "__main__":
    main()
