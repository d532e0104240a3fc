"""The labelled equations of "reverse process", in symbols."""

from itertools import product
from types import SimpleNamespace

import sympy as sp
from sympy import Rational, log, sqrt
from sympy.stats import E, Normal

import guided_diffusion_edu as gde
import guided_diffusion_edu.classifier_free
import guided_diffusion_edu.diagnostics
import guided_diffusion_edu.particles
from guided_diffusion_edu import diffusion
from guided_diffusion_edu.diffusion import (
    bound_weight,
    mean_from_eps,
    posterior_mean,
    posterior_variance,
    step_variance,
)
from symbols import (
    a,
    ab,
    ab_prev,
    alpha,
    b_1,
    b_2,
    beta,
    c,
    eps,
    same,
    two_points,
    v,
    w,
    x,
    x_0,
    x_t,
)

# ---- the step back, and its losses


def test_eq_posterior_variance():
    precision = alpha / beta + 1 / (1 - ab_prev)
    assert same(1 / precision, posterior_variance(ab, ab_prev))


def test_eq_posterior_mean():
    exponent = -((x_t - sqrt(alpha) * x) ** 2) / (2 * beta) - (x - sqrt(ab_prev) * x_0) ** 2 / (
        2 * (1 - ab_prev)
    )
    (mode,) = sp.solve(sp.diff(exponent, x), x)  # a Gaussian's mode is its mean
    assert same(posterior_mean(x_0, x_t, ab, ab_prev), mode)


def test_eq_eps_to_x0():
    assert same(gde.x_0_from_eps(sqrt(a) * x_0 + sqrt(1 - a) * eps, eps, a), x_0)


def test_eq_x0_to_eps():
    assert same(gde.eps_from_x_0(sqrt(a) * x_0 + sqrt(1 - a) * eps, x_0, a), eps)


def test_eq_mean_from_eps():
    through_x_0 = posterior_mean(gde.x_0_from_eps(x_t, eps, ab), x_t, ab, ab_prev)
    assert same(mean_from_eps(x_t, eps, ab, ab_prev), through_x_0)


def test_eq_step_tweedie():
    p, r_1 = two_points(x_t, ab)
    by_bayes = sum(
        share * posterior_mean(b, x_t, ab, ab_prev) for share, b in ((r_1, b_1), (1 - r_1, b_2))
    )
    assert same(by_bayes, (x_t + beta * sp.diff(log(p), x_t)) / sqrt(alpha))


def test_eq_step_variance():
    # of x_0 given x_t only its being b_1 with probability w matters: second moment minus squared
    # mean
    means = [posterior_mean(b, x_t, ab, ab_prev) for b in (b_1, b_2)]
    small = posterior_variance(ab, ab_prev)
    second = w * (means[0] ** 2 + small) + (1 - w) * (means[1] ** 2 + small)
    of_x_0 = w * (1 - w) * (b_1 - b_2) ** 2
    exact = second - (w * means[0] + (1 - w) * means[1]) ** 2
    assert same(exact, small + ab_prev * beta**2 / (1 - ab) ** 2 * of_x_0) and same(
        exact, step_variance(of_x_0, ab, ab_prev)
    )
    assert same(
        step_variance(1 - ab, ab, ab_prev), beta
    )  # where the large choice begins to be too small


def test_eq_learned_variance(monkeypatch):
    # the package's line, with symbols for the two logarithms that it looks up
    large, small, out = (*sp.symbols("large small", positive=True), sp.symbols("out", real=True))

    def looked_up(value):
        return SimpleNamespace(log=lambda: log(value))

    monkeypatch.setattr(diffusion, "per_example", lambda values, t, x: values)
    monkeypatch.setattr(diffusion, "clipped_variance", lambda schedule: looked_up(small))
    logs = diffusion.learned_log_variance(out, SimpleNamespace(betas=looked_up(large)), None)
    assert (
        same(logs.subs(out, 1), log(large))
        and same(logs.subs(out, -1), log(small))
        and same(sp.diff(logs, out, 2), 0)
    )
    assert same(logs.subs(out, 0), log(sqrt(large * small))) and same(
        sp.diff(logs, out), log(large / small) / 2
    )  # rises with v, as large > small


def test_eq_vlb():
    marginal, back, model = (
        sp.symbols(f"{name}1:4", positive=True) for name in ("q", "r", "p")
    )  # q(x_t | x_0), q(x_{t-1} | x_t, x_0), p(x_{t-1} | x_t)
    prior = sp.symbols("prior", positive=True)
    forward = (
        marginal[0] * (back[1] * marginal[1] / marginal[0]) * (back[2] * marginal[2] / marginal[1])
    )  # Bayes' rule in each factor but the first
    total = -log(prior * sp.Mul(*model) / forward)
    terms = (
        log(marginal[2] / prior) + log(back[2] / model[2]) + log(back[1] / model[1]) - log(model[0])
    )
    assert same(sp.expand_log(total), sp.expand_log(terms))


def kl(mean_1, var_1, mean_2, var_2):
    return (log(var_2 / var_1) - 1 + (var_1 + (mean_1 - mean_2) ** 2) / var_2) / 2


def test_eq_gaussian_kl():
    z = Normal("z", b_1, sqrt(v))

    def difference(z):
        return log(sqrt(c) / sqrt(v)) - (z - b_1) ** 2 / (2 * v) + (z - b_2) ** 2 / (2 * c)

    assert same(sp.expand_log(E(difference(z))), sp.expand_log(kl(b_1, v, b_2, c)))


def test_eq_decoder():
    p = sp.symbols("p", integer=True)

    def level(p):
        return p / Rational(255, 2) - 1

    assert same(
        level(p) + Rational(1, 255), level(p + 1) - Rational(1, 255)
    )  # one interval ends where the next begins: the sum telescopes to 1


def test_eq_vlb_weight():
    guess = sp.symbols("guess", real=True)
    means = [mean_from_eps(x_t, e, ab, ab_prev) for e in (eps, guess)]
    assert same(
        kl(means[0], v, means[1], v), beta**2 / (2 * v * alpha * (1 - ab)) * (eps - guess) ** 2
    )
    small = posterior_variance(ab, ab_prev)
    weight = bound_weight(
        SimpleNamespace(betas=beta, alphas=alpha, alpha_bars=ab, alpha_bars_prev=ab_prev)
    )
    assert same(kl(means[0], small, means[1], small), weight * (eps - guess) ** 2)
    assert same(
        kl(means[0], small, means[1], v) - kl(means[0], v, means[1], v), kl(0, small, 0, v)
    )  # another fixed variance adds what has nothing to learn


def test_eq_simple_loss():
    answer = sp.symbols("answer", real=True)
    loss = (
        w * (b_1 - answer) ** 2 + (1 - w) * (b_2 - answer) ** 2
    )  # two noises that could have led here
    (best,) = sp.solve(sp.diff(loss, answer), answer)
    assert same(best, w * b_1 + (1 - w) * b_2) and same(
        loss - loss.subs(answer, best), (answer - best) ** 2
    )


def test_eq_hybrid_loss():
    guess, weight = sp.symbols("guess", real=True), sp.symbols("lambda", positive=True)

    def mean(e):
        return mean_from_eps(x_t, e, ab, ab_prev)

    term = kl(
        mean(eps), c, mean(guess), v
    )  # c in the place of the posterior's variance, v in that of the model's
    # were the mean not held fixed, the error of the noise would get the weight of the bound on top
    c_t = beta**2 / (2 * v * alpha * (1 - ab))
    assert same(
        sp.diff((eps - guess) ** 2 + weight * term, guess),
        (1 + weight * c_t) * sp.diff((eps - guess) ** 2, guess),
    )
    assert same(
        sp.diff(term, v).subs(v, c + (mean(eps) - mean(guess)) ** 2), 0
    )  # the variance that is taught: the posterior's and the error of the mean
    terms = sp.symbols("L_0:4")  # a random one of T terms, times T: the mean is the sum
    assert same(sum(4 * weight * one for one in terms) / 4, weight * sum(terms))
    D, T = sp.symbols(
        "D T",
        positive=True,
        # the code: means over D dimensions, and bits; its lambda is larger by 1 / log 2
    )
    in_code, in_equation = T / 1000 * term / (D * log(2)), Rational(1, 1000) * T * term / D
    assert same(in_code / in_equation, 1 / log(2))


def test_eq_bits_per_dim():
    # a pixel, two steps, two states each: the terms add up to the bound over all paths
    u, P, *rest = sp.symbols("u P k0:2 m0:2 d0:2", positive=True)
    k, m, d = rest[:2], rest[2:4], rest[4:]

    def two(p):
        return (p, 1 - p)

    path = {
        (x_1, x_2): two(u)[x_1] * two(k[x_1])[x_2] for x_1, x_2 in product((0, 1), repeat=2)
    }  # q(x_1, x_2 | x_0)
    last = [path[0, x_2] + path[1, x_2] for x_2 in (0, 1)]
    bound = sum(
        q * log(q / (two(P)[x_2] * two(m[x_2])[x_1] * d[x_1])) for (x_1, x_2), q in path.items()
    )
    L_T = sum(last[x_2] * log(last[x_2] / two(P)[x_2]) for x_2 in (0, 1))
    L_1 = sum(q * log(q / last[x_2] / two(m[x_2])[x_1]) for (x_1, x_2), q in path.items())
    L_0 = -sum(two(u)[x_1] * log(d[x_1]) for x_1 in (0, 1))
    assert sp.simplify(sp.expand(sp.expand_log(bound - (L_T + L_1 + L_0), force=True))) == 0
    assert (
        sp.simplify(sp.expand(sp.expand_log(bound - (L_1 + L_0), force=True))) != 0
    )  # the prior's term counts
    D = sp.symbols("D", positive=True, integer=True)
    assert same(D * log(256) / (D * log(2)), 8)  # whole numbers without a model
