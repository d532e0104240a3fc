"""Side by side with the released ADM code (PyPI's guided-diffusion-sdk), in one process, on the same weights and inputs.

Results are checked to be equal first; then both are timed in turns, and medians and their ratio are reported.
    make bench          writes results/bench-<device>.json
"""
import json, statistics, time, warnings
from pathlib import Path

import torch

import guided_diffusion_edu as gde

warnings.filterwarnings('ignore', category=FutureWarning)
from guided_diffusion.gaussian_diffusion import GaussianDiffusion, LossType, ModelMeanType, ModelVarType, get_named_beta_schedule
from guided_diffusion.respace import SpacedDiffusion, space_timesteps
from guided_diffusion.unet import UNetModel

DEVICE = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
SIZE, BATCH, STEPS, ROUNDS = 32, 8, 5, 7


def in_released_order(state):
    "Our tensors in the order of the released layout: the same modules, but an AdaGN's projection before its norm."
    for name, value in state.items():
        if '.adagn.norm.' in name: continue
        yield value
        if name.endswith('.adagn.project.bias'):
            for part in ('weight', 'bias'): yield state[name.replace('project.bias', f'norm.{part}')]


def build():
    "Our UNet and the released one, at about 8 M parameters, with the same weights."
    torch.manual_seed(0)
    ours = gde.UNet(gde.UNetConfig(image_size=SIZE, channels=64, channel_mult=(1, 2, 2), res_blocks=2, attention_resolutions=(16, 8)))
    for p in ours.parameters():
        if p.abs().max() == 0: torch.nn.init.normal_(p, std=0.02)  # the zeroed layers would hide everything behind them
    theirs = UNetModel(SIZE, 3, 64, 6, 2, attention_resolutions=(2, 4), channel_mult=(1, 2, 2), num_head_channels=64,
                       use_scale_shift_norm=True, resblock_updown=True, use_new_attention_order=True)
    names, tensors = list(theirs.state_dict()), list(in_released_order(ours.state_dict()))
    assert len(names) == len(tensors)
    theirs.load_state_dict(dict(zip(names, tensors)))
    return ours.to(DEVICE), theirs.to(DEVICE)


def released_process():
    return SpacedDiffusion(space_timesteps(1000, f'{STEPS}'), betas=get_named_beta_schedule('linear', 1000), model_mean_type=ModelMeanType.EPSILON,
                           model_var_type=ModelVarType.LEARNED_RANGE, loss_type=LossType.MSE)


def cases(ours, theirs):
    "name -> (our run, their run, whether to compare results)."
    x, t = torch.randn(BATCH, 3, SIZE, SIZE, device=DEVICE), torch.full((BATCH,), 500, device=DEVICE)
    schedule, process = gde.respace(gde.linear_schedule(), STEPS), released_process()
    toward = lambda x, t, **_: -0.1 * x  # a guidance that costs nothing: what is timed is the sampler and the UNet

    def step(model):
        def run():
            model.zero_grad()
            model(x, t).square().mean().backward()
            return next(model.parameters()).grad
        return run

    def forward(model): return torch.no_grad()(lambda: model(x, t))

    ddpm = lambda: gde.ddpm_sample(ours, schedule, x.shape, guidance=toward, x_T=x)
    ddim = lambda: gde.ddim_sample(ours, schedule, x.shape, guidance=toward, x_T=x)
    return {'forward': (forward(ours), forward(theirs)), 'training step': (step(ours), step(theirs)),
            f'guided DDPM-{STEPS}': (ddpm, lambda: process.p_sample_loop(theirs, x.shape, noise=x, cond_fn=toward, model_kwargs={})),
            f'guided DDIM-{STEPS}': (ddim, lambda: process.ddim_sample_loop(theirs, x.shape, noise=x, cond_fn=toward, model_kwargs={}))}


def seconds(run):
    torch.manual_seed(1)
    if DEVICE.type == 'cuda': torch.cuda.synchronize()
    began = time.perf_counter()
    run()
    if DEVICE.type == 'cuda': torch.cuda.synchronize()
    return time.perf_counter() - began


def difference(ours, theirs):
    torch.manual_seed(1); a = ours()
    torch.manual_seed(1); b = theirs()
    return (a - b).abs().max().item()


def main():
    rows = {}
    for name, (ours, theirs) in cases(*build()).items():
        gap = difference(ours, theirs)
        assert gap < 1e-3, f'{name}: results differ by {gap}'
        pairs = [(seconds(ours), seconds(theirs)) for _ in range(ROUNDS)]  # in turns
        ratios = [b / a for a, b in pairs]
        rows[name] = dict(largest_difference=gap, times_as_fast=round(statistics.median(ratios), 3), least=round(min(ratios), 3), most=round(max(ratios), 3))
        print(f'{name:16} {rows[name]["times_as_fast"]:5.2f} times as fast as the released code ({min(ratios):.2f} to {max(ratios):.2f}), results equal to {gap:.0e}', flush=True)
    device = torch.cuda.get_device_name() if DEVICE.type == 'cuda' else 'cpu'
    record = dict(device=device, threads=torch.get_num_threads(), torch=torch.__version__, peer='guided-diffusion-sdk 1.0.0', date=time.strftime('%Y-%m-%d'), batch=BATCH, size=SIZE, rows=rows)
    out = Path(__file__).parents[1] / 'results' / f'bench-{device.replace(" ", "-")}.json'
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(record, indent=1) + '\n')


if __name__ == '__main__': main()
