"""The labelled equations of "evaluation", in symbols."""

from itertools import product

import sympy as sp
from sympy import Rational, log, oo, sqrt
from sympy.stats import E, Normal

from symbols import a, c, mu, n, same

# evaluation


def scatter_of(values):
    return sum((value - sum(values) / sp.Integer(len(values))) ** 2 for value in values)


def test_eq_sample_covariance():
    f = [Normal(f"f_{i}", mu, a) for i in range(3)]
    assert same(E(sp.expand(scatter_of(f))), (len(f) - 1) * a**2)


def test_eq_chan_merge():
    left, right = sp.symbols("f1:3", real=True), sp.symbols("h1:4", real=True)
    n_a, n_b, m_a, m_b = 2, 3, sum(left) / sp.Integer(2), sum(right) / sp.Integer(3)
    whole, delta = [*left, *right], m_b - m_a
    assert same(sum(whole) / 5, m_a + Rational(n_b, 5) * delta)
    assert same(
        scatter_of(whole), scatter_of(left) + scatter_of(right) + Rational(n_a * n_b, 5) * delta**2
    )


def test_eq_frechet():
    # one dimension: E(X - Y)^2 falls with the covariance, whose most is the product of the
    # deviations
    m_a, m_b, rho = sp.symbols("m_a m_b rho", real=True)
    cost = (m_a - m_b) ** 2 + a**2 + c**2 - 2 * rho * a * c
    assert same(sp.diff(cost, rho), -2 * a * c) and same(
        cost.subs(rho, 1), (m_a - m_b) ** 2 + (a - c) ** 2
    )
    # two dimensions: for M = U diag(sigma) V^T no K of norm 1 gives more than V U^T, which gives
    # the sum of singular values
    angle, turn, sigma = (
        sp.symbols("angle turn", real=True),
        sp.symbols("u", real=True),
        sp.symbols("sigma_1 sigma_2", positive=True),
    )

    def rotation(t):
        return sp.Matrix([[sp.cos(t), -sp.sin(t)], [sp.sin(t), sp.cos(t)]])

    U, V = rotation(angle[0]), rotation(angle[1])
    M = U * sp.diag(*sigma) * V.T

    def trace(K):
        return sp.simplify((K * M).trace())

    assert same(trace(V * U.T), sum(sigma)) and same(
        trace(V * rotation(turn) * U.T), sp.cos(turn) * sum(sigma)
    )
    assert same(
        (M.T * M).trace() + 2 * sp.simplify(M.det()), sum(sigma) ** 2
    )  # the roots of the eigenvalues of M^T M


def test_eq_fid_bias():
    # one dimension: e of variance a^2 / n, and s^2 = a^2 (1 + u) with E u = 0, E u^2 = 2 / n
    u = sp.symbols("u", real=True)
    second = sp.series((a * sqrt(1 + u) - a) ** 2, u, 0, 3).removeO().coeff(u, 2)
    assert same(a**2 / n + second * 2 / n, (Rational(5, 4) * a**2 + a**4 / (2 * a**2) / 2) / n)
    # several: the second order of the root, from R R = Sigma^(1/2) (Sigma + E) Sigma^(1/2), in two
    # dimensions
    l_1, l_2, e_1, e_2, e_3, h_ = sp.symbols("l_1 l_2 e_1 e_2 e_3 h_", positive=True)
    lam, error = (l_1, l_2), sp.Matrix([[e_1, e_2], [e_2, e_3]])
    F = sp.Matrix(2, 2, lambda i, j: sqrt(lam[i] * lam[j]) * error[i, j])
    A = sp.diag(l_1**2, l_2**2) + h_ * F
    trace_root = sqrt(A.trace() + 2 * sqrt(A.det()))  # of a 2 x 2 matrix
    claimed = -Rational(1, 4) * sum(
        error[i, j] ** 2 / (lam[i] + lam[j]) for i, j in product((0, 1), repeat=2)
    )
    numbers = {
        l_1: Rational(3),
        l_2: Rational(2),
        e_1: Rational(1, 2),
        e_2: Rational(2, 3),
        e_3: Rational(1, 5),
    }
    assert same((sp.diff(trace_root, h_, 2) / 2).subs(h_, 0).subs(numbers), claimed.subs(numbers))


def test_eq_fid_line():
    xs, ys, A, slope = (
        sp.symbols("x1:4", real=True),
        sp.symbols("y1:4", real=True),
        *sp.symbols("A slope"),
    )
    found = sp.solve(
        [sp.diff(sum((yy - A - slope * xx) ** 2 for xx, yy in zip(xs, ys)), v) for v in (A, slope)],
        [A, slope],
    )

    def centre(values):
        return sum(values) / 3

    best = sum((xx - centre(xs)) * (yy - centre(ys)) for xx, yy in zip(xs, ys)) / sum(
        (xx - centre(xs)) ** 2 for xx in xs
    )
    assert same(found[slope], best) and same(found[A], centre(ys) - best * centre(xs))


def test_eq_inception_score():
    p, q = sp.symbols("p q", positive=True)  # two samples, two classes
    answers = [(p, 1 - p), (q, 1 - q)]
    marginal = [(p + q) / 2, 1 - (p + q) / 2]
    divergence = (
        sum(
            part * (log(part) - log(whole))
            for answer in answers
            for part, whole in zip(answer, marginal)
        )
        / 2
    )

    def entropy(law):
        return -sum(part * log(part) for part in law)

    assert same(sp.expand(divergence - (entropy(marginal) - sum(map(entropy, answers)) / 2)), 0)


def test_eq_knn_radius():
    points = [0, 1, 3, 7]
    assert [sorted(abs(p - q) for q in points if q != p)[1] for p in points] == [
        3,
        2,
        3,
        6,
    ]  # k = 2: the point itself does not count


def test_eq_precision_recall():
    # recall of (real, fake) is precision of (fake, real), by exchanging letters
    def inside(centre, radius, point):
        return sp.Le(sp.Abs(point - centre), radius)

    real, fake, radii = (
        sp.symbols("f1:3"),
        sp.symbols("g1:4"),
        {
            **{f: sp.Symbol(f"r_{f}") for f in sp.symbols("f1:3")},
            **{g_: sp.Symbol(f"r_{g_}") for g_ in sp.symbols("g1:4")},
        },
    )

    def precision(real, fake):
        return [sp.Or(*(inside(f, radii[f], g_) for f in real)) for g_ in fake]

    def recall(real, fake):
        return [sp.Or(*(inside(g_, radii[g_], f) for g_ in fake)) for f in real]

    assert precision(fake, real) == recall(real, fake)


def test_eq_density_coverage():
    # a matrix of who is in whose ball, three real by two fake: density adds all, coverage asks each
    # row
    B = sp.Matrix([[1, 1], [0, 0], [1, 0]])
    k, M, N = 2, 2, 3
    density, coverage = Rational(sum(B), k * M), Rational(sum(max(B.row(j)) for j in range(N)), N)
    assert density == sum(Rational(sum(B.col(i)), k) for i in range(M)) / M == Rational(
        3, 4
    ) and coverage == Rational(2, 3)


def test_eq_expected_coverage():
    N, M = sp.symbols("N M", positive=True, integer=True)
    missed = sp.binomial(N - 1, 3) / sp.binomial(N - 1 + M, 3)
    as_product = sp.prod([(N - 1 - i) / (N - 1 + M - i) for i in range(3)])
    assert sp.simplify(sp.expand_func(missed) - as_product) == 0
    assert same(sp.limit(1 - as_product.subs(M, N), N, oo), 1 - Rational(1, 8)) and same(
        N * M * (3 / N) / (3 * M), 1
    )


def test_eq_bootstrap():
    values = sp.symbols("x1:4", real=True)
    means = [sum(chosen) / 3 for chosen in product(values, repeat=3)]  # all 27 redrawn sets
    centre = sum(values) / 3
    assert same(sum(means) / 27, centre)
    assert same(sum((m - centre) ** 2 for m in means) / 27, scatter_of(values) / 9)
