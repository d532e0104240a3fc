"""The binding of the key equations' terms to lines of code, and the colour roles in formulas."""

import inspect
import re

import nbformat
import pytest

from guided_diffusion_edu import guidance, samplers
from reading import TERMS, coloured


def formulas(root, key):
    "The TeX that `key`, the id of an equation or an algorithm, stands for on its page."
    cells = [
        c.source
        for name in ("taylor_proof", "score_identity")
        for c in nbformat.read(root / "nbs" / "guidance" / f"{name}.ipynb", 4).cells
        if c.cell_type == "markdown"
    ]
    label = key.removeprefix("equation-")
    pattern = (
        rf"\$\$\n([^$]*)\n\$\$ \({label}\)"
        if label != key
        else rf"(:::\{{prf:algorithm\}}[^\n]*\n:label: {label}\n.*?\n:::)"
    )
    return next(found[1] for text in cells if (found := re.search(pattern, text, re.S)))


@pytest.mark.parametrize("key", TERMS)
def test_each_term_is_in_its_equation_and_its_line_in_the_code(root, key):
    text = coloured(formulas(root, key))
    for term, function, line, token in TERMS[key]:
        places = (guidance, samplers, samplers.Denoiser)
        owner = next(place for place in places if function in vars(place))
        source = inspect.getsource(vars(owner)[function])
        lines = [found.strip() for found in source.splitlines()]
        assert any(found.startswith(line) for found in lines), f"{function} has no line {line!r}"
        assert re.search(rf"(?<!\w){re.escape(token)}(?!\w)", line), f"{token!r} is not in {line!r}"
        assert f" term-{term}}}" in text, f"{term} is not in {key}"


@pytest.mark.parametrize(
    "tex, wanted",
    [
        (r"\hat\mu+s\,\Sigma g", "guided-mean scale variance gradient"),
        (r"\log g_t", "gradient"),
        (r"\text{gap of sigmas}\begin{aligned}x\end{aligned}", ""),
        (r"\nabla_{x_t}\log p_\phi(y\mid x_t)", "gradient"),
        (r"\sigma_t^2+\hat\epsilon-\epsilon_\theta", "variance guided-noise noise"),
        (r"x_s+\sin\lesssim", ""),
    ],
)
def test_roles(tex, wanted):
    text = coloured(tex)
    assert re.findall(r"term-([\w-]+)\}", text) == wanted.split()
    assert (
        re.sub(r"\{\\class\{[^}]*\}\{(.*?)\}\}(?!\})", r"\1", text).replace(" ", "")
        == tex.replace(" ", "")
        or "{x_t}" in tex
    )
