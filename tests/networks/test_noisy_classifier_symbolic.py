"""The labelled equations of "noisy classifier", in symbols."""

import sympy as sp
from sympy import exp, log

from symbols import same, w


def test_eq_attention_pool():
    h, p, logit = (
        sp.symbols("h1:4", real=True),
        sp.symbols("p0:4", real=True),
        sp.symbols("l", real=True),
    )
    tokens = [sum(h) / 3 + p[0], *(a + b for a, b in zip(h, p[1:]))]
    weights = [exp(logit) / (4 * exp(logit))] * 4  # keys all alike
    assert same(
        sum(weight * token for weight, token in zip(weights, tokens)), sum(h) / 3 + sum(p) / 4
    )  # the average, and that of the positions


def test_eq_noisy_cross_entropy():
    answer = sp.symbols("answer", positive=True)
    loss = -w * log(answer) - (1 - w) * log(1 - answer)  # w is the true probability
    assert sp.solve(sp.diff(loss, answer), answer) == [w] and same(
        sp.diff(loss, answer, 2).subs(answer, w), 1 / (w * (1 - w))
    )
