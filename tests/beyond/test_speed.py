"""What makes networks fast changes no number."""

from copy import deepcopy
from pathlib import Path

import nbformat
import pytest
import torch

import guided_diffusion_edu as gde
from guided_diffusion_edu.performance import CudaGraph
from guided_diffusion_edu.unet import Stage, recompute_stages
from helpers import randomise

SMALL = dict(
    image_size=16,
    channels=32,
    channel_mult=(1, 2),
    res_blocks=1,
    attention_resolutions=(8,),
    head_channels=16,
)


def test_recomputing_changes_no_number():
    """The same gradients, dropout included, for less memory; and a copy recomputes with its own
    weights.
    """
    model = randomise(gde.UNet(gde.UNetConfig(**SMALL, dropout=0.3))).train()
    copy = deepcopy(recompute_stages(deepcopy(model)))
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


@pytest.mark.parametrize("network", ["model", "classifier"])
def test_fast_changes_no_number(network, monkeypatch):
    """Compiled stage by stage (here traced whole, without a compiler), channels last: the same
    answers and gradients. In bfloat16 nearly the same.
    """
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
    """What the measurement of 16 bits computes: forward what PyTorch has on a processor, slowly;
    and each way back, which PyTorch adds up in 16 bits there, is float32's rounded.
    """
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
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
        CudaGraph(model)(torch.ones(2, 1), torch.tensor([3, 4]), None),
        torch.tensor([[4.0], [5.0]]),
    ) and calls == [None]


def test_what_is_recorded_carries_config_and_device():
    digits = gde.load_pretrained("digits")
    recorded = CudaGraph(digits.model)
    assert recorded.config is digits.model.config and recorded.device == torch.device("cpu")
    plain = CudaGraph(lambda x, t: x)  # such as a guidance
    assert plain.config is None and plain.device is None
    shape = (2, 1, 8, 8)
    assert gde.ddim_sample(recorded, gde.respace(digits.schedule, 2), shape).shape == shape


def test_the_pages_total_variation_is_an_integral_of_densities(root):
    "The page compares masses between points; here the density of where they end is integrated."
    page = nbformat.read(root / "nbs/beyond/speed.ipynb", 4)
    (source,) = (c.source for c in page.cells if "def off_target" in c.source)
    names = dict(torch=torch)
    short = source.partition("\ncut = ")[0].replace("schedule, 192)", "schedule, 24)")
    exec(short, names)
    line, schedule = gde.three_modes(), gde.linear_schedule()
    steps, a = gde.respace(schedule, 24), schedule.alpha_bars[-1].item()
    start = torch.distributions.Normal(0.2 * a**0.5, (a * 0.15**2 + 1 - a) ** 0.5)
    x_T = start.mean + start.stddev * torch.linspace(-6, 6, 2001, dtype=torch.float64)
    guidance = gde.exact_guidance(line, schedule, torch.ones(len(x_T)).long())
    options = dict(guidance=guidance, x_T=x_T[:, None], clip=False)
    x_0 = gde.ddim_sample(line.denoiser(schedule), steps, (len(x_T), 1), **options)[:, 0]
    density = start.log_prob(x_T).exp() / torch.gradient(x_0, spacing=(x_T,))[0]
    target = torch.distributions.Normal(0.2, 0.15).log_prob(x_0).exp()
    wanted = 0.5 * torch.trapezoid((density - target).abs(), x_0).item()
    assert wanted > 0.05 and names["off_target"](0, 999) == pytest.approx(wanted, rel=0.01)


@pytest.mark.gpu
def test_what_is_recorded_is_what_is_computed():
    """In two sizes of batch, again with other numbers and other weights, and a whole guided walk;
    and what it gave is not written over.
    """
    digits = gde.load_pretrained("digits")
    model, classifier, y = (
        digits.model.cuda(),
        digits.classifier.cuda(),
        torch.arange(8, device="cuda"),
    )
    again = CudaGraph(model)
    assert again.config is model.config
    for batch in (8, 3, 8):
        guidance = gde.classifier_guidance(classifier, y[:batch], 2.0)
        steered = CudaGraph(guidance)
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


def test_compiled_networks_are_one_graph():
    "The look at the numbers in `y` does not break the graph; outside of a trace it is there."
    model, y = randomise(gde.UNet(gde.UNetConfig(**SMALL, num_classes=3))), torch.tensor([0, 2])
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(X + 1, T, y), model(X + 1, T, y), atol=1e-5)


X, T = torch.zeros(2, 3, 16, 16), torch.tensor([0, 999])
