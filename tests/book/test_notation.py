"""Every name on the notation page exists, and every equation that it points to."""

import importlib
import inspect
import pkgutil
import re

import pytest
import torch

import guided_diffusion_edu as gde
import ledger
from guided_diffusion_edu.diffusion import bits_per_dim, bound_term, bound_weight, posterior_mean
from guided_diffusion_edu.losses import SecondMomentSteps, target_weight
from guided_diffusion_edu.samplers import Options


def rows(root):
    for line in (
        (root / "nbs" / "reference" / "notation.md")
        .read_text()
        .split("## The conventions")[0]
        .splitlines()
    ):
        if line.startswith("| $"):
            yield [column.strip() for column in line.strip("|").split("|")]


MODULES = {
    found.name.split(".", 1)[1]: importlib.import_module(found.name)
    for found in pkgutil.walk_packages(gde.__path__, "guided_diffusion_edu.")
    if not found.name.endswith("__main__")
}
NAMES = {  # modules, and what they define
    name: value
    for module in MODULES.values()
    for name, value in vars(module).items()
    if getattr(value, "__module__", None) == module.__name__
} | MODULES


def find(name):
    """What a name of the page stands for: a module, what a module defines, `C.a` of a
    class or of its instances, `f(a)` an argument, or one of the samplers' options.
    """
    path, argument = re.fullmatch(r"([\w.]+)(?:\((\w+)\))?", name).groups()
    examples = dict(Schedule=gde.linear_schedule())
    first, *rest = path.split(".")
    found = NAMES[first]
    for part in rest:
        fields = getattr(found, "__dataclass_fields__", {})
        found = fields[part] if part in fields else getattr(examples.get(first, found), part)
    if argument is None:
        return found
    parameters = inspect.signature(found).parameters
    if "options" in parameters and argument not in parameters:
        return Options.__annotations__[argument]
    return parameters[argument]


def test_every_name_exists(root):
    names = [name for row in rows(root) for name in re.findall(r"`([^`]+)`", row[1])]
    assert len(names) > 40
    for name in names:
        find(name)
    for wrong in ("posterior_means", "Schedule.gammas", "guided_mean(scale)"):
        with pytest.raises((AttributeError, KeyError)):
            find(wrong)


def shapes():
    """Of what a name of the page stands for, or gives: B = 5 examples of D = 2 numbers, K = 4
    components, T = 20 steps.
    """
    s, world, x, t, y = (
        gde.respace(gde.linear_schedule(), 20),
        gde.four_corners(),
        torch.zeros(5, 2),
        torch.arange(5),
        torch.tensor([0, 1, 0, 1, 0]),
    )
    model, classifier = (
        world.denoiser(gde.linear_schedule()),
        world.classifier(gde.linear_schedule()),
    )

    def loud(x, t, y=None):
        return torch.cat([x, x], 1)

    _prior, terms = bits_per_dim(model, s, x)
    found = {
        f"Schedule.{name}": getattr(s, name)
        for name in ("betas", "alphas", "alpha_bars", "alpha_bars_prev", "timesteps")
    }
    found |= {
        "GaussianMixture(weights)": world.weights,
        "GaussianMixture(means)": world.means,
        "GaussianMixture.log_prob": world.log_prob(x),
        "GaussianMixture.score": world.score(x),
        "GaussianMixture.denoiser": model(x, t),
        "log_snr": gde.log_snr(s),
        "Schedule.add_noise(t)": t,
        "posterior_mean": posterior_mean(x, x, 0.5, 0.6),
        "bound_weight": bound_weight(s),
        "simple_loss": gde.simple_loss(model, s, x, t, x),
        "hybrid_loss": gde.hybrid_loss(loud, s, x, t, x),
        "bound_term": bound_term(x, s, x, x, t),
        "bits_per_dim": terms,
        "target_weight": target_weight(s, gde.eps_from_v),
        "SecondMomentSteps.probabilities": SecondMomentSteps(20).probabilities(),
        "classifier_guidance(y)": y,
        "classifier_guidance(classifier)": classifier(x, t),
        "guided_eps": gde.guided_eps(x, 0.5, x),
        "martingale_gap": gde.martingale_gap(classifier, gde.linear_schedule(), x, levels=4)[1],
    }
    return {name: tuple(value.shape) for name, value in found.items()}


def test_shapes_are_as_said(root):
    sizes = dict(B=5, D=2, K=4, T=20, classes=2, levels=4)

    def said(text):
        return [
            tuple(eval(part, {}, sizes) for part in shape.split(",") if part.strip())
            for shape in re.findall(r"\(([^()]*)\)", text.replace("...", "D"))
        ]

    measured = shapes()
    named = {name: row[2] for row in rows(root) for name in re.findall(r"`([^`]+)`", row[1])}
    assert set(measured) <= set(named)
    for name, shape in measured.items():
        assert shape in said(named[name]), (name, named[name], shape)


def test_every_symbol_is_defined_somewhere(root):
    labels = {label for label, _ in ledger.labels()}
    for row in rows(root):
        assert len(row) == 5, row
        assert set(re.findall(r"\{eq\}`([^`]+)`", row[4])) <= labels and (
            "{eq}" in row[4] or "{doc}" in row[4]
        )
