"""The labelled equation of "checkpoints and processes", in symbols."""

import sympy as sp
from sympy import Rational

from symbols import same


def test_eq_shares():
    theta, losses = (
        sp.symbols("theta"),
        [sp.Function(f"loss_{i}")(sp.symbols("theta")) for i in range(6)],
    )
    B, K = 6, 3
    whole = sp.diff(sum(losses) / B, theta)
    parts = [sp.diff(Rational(K, B) * sum(losses[k::K]), theta) for k in range(K)]
    assert same(whole, sum(parts) / K)
    unequal = (sp.diff(losses[0], theta) + sp.diff(sum(losses[1:]) / 5, theta)) / 2
    assert not same(whole, unequal)
