"""The labelled equations of "adagn", in symbols."""

import sympy as sp
from sympy import exp, sqrt
from sympy.stats import Normal, variance

from symbols import c, mu, n, same, x

# ---- networks and training


def test_eq_timestep_embedding():
    omega, t, k = sp.symbols("omega t k", real=True)
    turn = sp.Matrix(
        [[sp.cos(omega * k), -sp.sin(omega * k)], [sp.sin(omega * k), sp.cos(omega * k)]]
    )

    def wave(t):
        return sp.Matrix([sp.cos(omega * t), sp.sin(omega * t)])

    assert sp.simplify(turn * wave(t) - wave(t + k)) == sp.zeros(
        2, 1
    )  # k steps later is a rotation that does not depend on t


def normalised(values, epsilon=0):
    mean = sum(values) / len(values)
    var = sum((value - mean) ** 2 for value in values) / len(values)
    return [(value - mean) / sqrt(var + epsilon) for value in values]


def test_eq_group_norm():
    values = sp.symbols("h1:4", real=True)
    epsilon = sp.symbols("varepsilon", positive=True)
    assert all(
        same(before, after)
        for before, after in zip(
            normalised(values, epsilon), normalised([value + mu for value in values], epsilon)
        )
    )
    assert all(
        same(before, after)
        for before, after in zip(normalised(values), normalised([c * value for value in values]))
    )


def test_eq_added_norm():
    h, e, epsilon = (
        sp.symbols("h1:4", real=True),
        sp.symbols("e1:4", real=True),
        sp.symbols("varepsilon", positive=True),
    )

    def mean(values):
        return sum(values) / len(values)

    centred = [[value - mean(values) for value in values] for values in (h, e)]

    def cov(a, b):
        return mean([x * z for x, z in zip(a, b)])

    v = cov(centred[0], centred[0]) + 2 * cov(*centred) + cov(centred[1], centred[1])
    added = [sum(pair) for pair in zip(h, e)]
    for i, value in enumerate(normalised(added, epsilon)):
        assert same(value**2, ((centred[0][i] + centred[1][i]) / sqrt(v + epsilon)) ** 2)
    assert same(
        mean([value**2 for value in normalised(added, epsilon)]), v / (v + epsilon)
    )  # no gain, whatever e
    assert same(mean(normalised(added, epsilon)), 0)


def test_eq_res_block():
    w_1, w_2, target = sp.symbols("w_1 w_2 target", real=True)
    block = x + w_2 * sp.tanh(w_1 * x)  # one channel, one pixel; any smooth function in the middle
    loss = (block - target) ** 2
    fresh = {w_2: 0}
    assert block.subs(fresh) == x and sp.diff(block, x).subs(fresh) == 1
    assert sp.diff(loss, w_1).subs(fresh) == 0 and same(
        sp.diff(loss, w_2).subs(fresh), 2 * (x - target) * sp.tanh(w_1 * x)
    )
    two_zeros = {w_1: 0, w_2: 0}
    assert sp.diff(loss, w_1).subs(two_zeros) == 0 == sp.diff(loss, w_2).subs(two_zeros)


def test_eq_head_order():
    H, d = 2, 3

    def place(j, n, i):
        return (j * H + n) * d + i  # with the queries first

    source = {
        place(j, n, i): (3 * n + j) * d + i for j in range(3) for n in range(H) for i in range(d)
    }
    P = sp.Matrix(3 * H * d, 3 * H * d, lambda row, column: int(source[row] == column))
    assert P * P.T == sp.eye(3 * H * d)  # no row lost, none doubled
    rows = sp.Matrix(sp.symbols(f"r:{3 * H * d}"))
    q, k = (P * rows)[: H * d], (P * rows)[H * d : 2 * H * d]
    by_head = [rows[n * 3 * d : (n + 1) * 3 * d] for n in range(H)]
    for n in range(H):
        assert sum(a * b for a, b in zip(q[n * d : (n + 1) * d], k[n * d : (n + 1) * d])) == sum(
            a * b for a, b in zip(by_head[n][:d], by_head[n][d : 2 * d])
        )


def test_eq_adagn():
    scale, shift, gain, bias, normal = sp.symbols("scale shift gamma b normal", real=True)
    assert same(
        (1 + scale) * (gain * normal + bias) + shift,
        gain * (1 + scale) * normal + (bias * (1 + scale) + shift),
    )


def test_eq_attention():
    logits, values = sp.symbols("l1:4", real=True), sp.symbols("v1:4", real=True)

    def attend(logits):
        return sum(exp(l) * value for l, value in zip(logits, values)) / sum(exp(l) for l in logits)

    assert same(attend([l + mu for l in logits]), attend(logits)) and same(
        sum(sp.diff(attend(logits), value) for value in values), 1
    )
    q, k = Normal("q", 0, 1), Normal("k", 0, 1)
    assert same(
        n * variance(q * k) / sqrt(n) ** 2, 1
    )  # a sum of n products, over sqrt(n), has variance 1
