"""Each labelled equation, by the name of its label, with symbols (SymPy): the algebra of its derivation, holding for all values at once.

The package's own functions take the symbols wherever they are plain arithmetic, so that the formula in the code is the formula that is proven."""

from itertools import product
from types import SimpleNamespace

import sympy as sp
from sympy import Rational, exp, log, oo, pi, sqrt
from sympy.stats import E, Normal, variance

import guided_diffusion_edu as gde
import guided_diffusion_edu.classifier_free
import guided_diffusion_edu.diagnostics
import guided_diffusion_edu.particles
from guided_diffusion_edu import diffusion, guidance, samplers
from guided_diffusion_edu.flows import (
    eps_from_flow,
    flow_time,
    guided_score,
    guided_velocity,
    reverse_drift,
    to_flow,
    velocity_from_eps,
)
from guided_diffusion_edu.lab.linear_gaussian import (
    ddim_variance,
    ddpm_variance,
    target_variance,
    third_order_shift,
)
from guided_diffusion_edu.samplers import ddim_sigma
from guided_diffusion_edu.solvers import (
    exponential_step,
    heun,
    noise_to_signal,
    stochastic_step,
    two_m,
)
from guided_diffusion_edu.tradeoff import matching_scale

alpha, ab_prev, a, c, n, r, v, w = sp.symbols("alpha alpha_bar_prev a c n r v w", positive=True)
ab, beta = alpha * ab_prev, 1 - alpha  # alpha_bar_t and beta_t from alpha_t and alpha_bar_{t-1}
x, x_0, x_t, eps, g, s, y, b_1, b_2, mu, h = sp.symbols(
    "x x_0 x_t epsilon g s y b_1 b_2 mu h", real=True
)


def same(left, right):  # the package's 0.5 as one half
    return sp.simplify(sp.nsimplify(left - right, rational=True)) == 0


def gauss(x, mean, var):
    return exp(-((x - mean) ** 2) / (2 * var)) / sqrt(2 * pi * var)


def two_points(x, level):
    "Data at b_1 (probability w) and b_2, noised to `level`: the density of x, and the probability that x came from b_1."
    parts = (
        w * gauss(x, sqrt(level) * b_1, 1 - level),
        (1 - w) * gauss(x, sqrt(level) * b_2, 1 - level),
    )
    return sum(parts), parts[0] / sum(parts)


def vanishes(expression):
    return sp.expand(sp.fraction(sp.together(expression))[0]) == 0  # for quotients of polynomials


def labelled_table(blind=True):
    "P of (x_0, y, x_t, x_{t+1}), two values each: data with labels, then noise that does not look at the label, or does."
    prior, *rest = sp.symbols("prior o_0 o_1 k_0 k_1 l_0 l_1 m_0 m_1", positive=True)
    opinion, first, then, other = (
        rest[:2],
        rest[2:4],
        rest[4:6],
        rest[6:],
    )  # q(y | x_0), q(x_t | x_0), q(x_{t+1} | x_t), and that of the label 1 if it looks
    two = lambda p: (p, 1 - p)

    def weight(x_0, y, x, later):
        return (
            two(prior)[x_0]
            * two(opinion[x_0])[y]
            * two(first[x_0])[x]
            * two((then if blind or not y else other)[x])[later]
        )

    names = ("x_0", "y", "x", "later")
    joint = [(dict(zip(names, values)), weight(*values)) for values in product((0, 1), repeat=4)]

    def P(**fixed):
        return sum(
            p for state, p in joint if all(state[name] == value for name, value in fixed.items())
        )

    return P, (prior, *opinion, *first, *then)


# ---- pictures, and the forward process


def test_eq_pixels():
    p = sp.symbols("p")
    sample = p / Rational(255, 2) - 1
    assert sp.solve(sample - x, p) == [sp.expand((x + 1) * Rational(255, 2))]
    assert (sample.subs(p, 0), sample.subs(p, 255)) == (-1, 1) and same(
        sample.subs(p, p + 1) - sample, Rational(2, 255)
    )


def test_eq_forward_step():
    assert sp.solve((1 - a) * v + a - v, v) == [1]  # variance 1 is kept, and no other is


def test_eq_alpha_bar():
    betas = sp.symbols("beta1:4", positive=True)
    factor = sp.Mul(*(sqrt(1 - b) for b in betas))  # of x_0 in x_3, by three steps
    assert same(factor**2, sp.Mul(*(1 - b for b in betas)))


def test_eq_forward_marginal():
    # the induction step: shrink N(sqrt(ab_prev) x_0, 1 - ab_prev) and add noise
    assert same(sqrt(alpha) * sqrt(ab_prev) * x_0, sqrt(ab) * x_0) and same(
        alpha * (1 - ab_prev) + beta, 1 - ab
    )


def test_eq_forward_between():
    later = sp.symbols("later", positive=True)
    needed = sp.solve(
        (later / a) * (1 - a) + v - (1 - later), v
    )  # variance that takes level a to level `later`
    assert len(needed) == 1 and same(needed[0], 1 - later / a)


def test_eq_linear_schedule():
    T, t = sp.symbols("T t", positive=True, integer=True)
    first, last = Rational(1, 10_000), Rational(2, 100)
    betas = 1000 / T * (first + (t - 1) / (T - 1) * (last - first))
    assert same(betas.subs(t, 1), 1000 * first / T) and same(betas.subs(t, T), 20 / T)
    assert same(
        sp.summation(betas, (t, 1, T)), 500 * (first + last)
    )  # the total is the same for every T


def test_eq_cosine_schedule():
    u = sp.symbols("u", nonnegative=True)
    f = lambda u: sp.cos((u + Rational(8, 1000)) / Rational(1008, 1000) * pi / 2) ** 2
    kept = [f(Rational(t, 4)) / f(Rational(t - 1, 4)) for t in (1, 2, 3)]
    assert same(sp.Mul(*kept), f(Rational(3, 4)) / f(0))  # the betas give the curve back
    assert f(1) == 0 and 1 - f(1) / f(Rational(3, 4)) == 1  # uncapped, the last beta would be 1


def test_eq_betas_from_curve():
    curve = sp.symbols("f_0:4", positive=True)
    left = sp.prod(1 - (1 - later / sooner) for sooner, later in zip(curve, curve[1:]))
    assert same(left, curve[3] / curve[0])


def test_eq_snr():
    ratio = a * 1 / (1 - a)  # variance of the signal over that of the noise
    assert same(1 / (1 + exp(-log(ratio))), a)  # log SNR is the logit of alpha_bar


def test_eq_respaced_betas():
    first, second, third = sp.symbols("first second third", positive=True)
    betas = 1 - first, 1 - second / first, 1 - third / second
    assert same(sp.Mul(*(1 - b for b in betas)), third)  # the product telescopes


# ---- the exact world


def test_eq_mixture():
    p = w * gauss(x, b_1, v) + (1 - w) * gauss(x, b_2, a)
    assert same(sp.integrate(p, (x, -oo, oo)), 1) and same(
        sp.integrate(sp.expand(x * p), (x, -oo, oo)), w * b_1 + (1 - w) * b_2
    )


def test_eq_mixture_noised():
    u = sp.symbols("u", real=True)
    z = Normal("z", 0, 1)
    law = lambda mean, var: exp(
        u * mean + u**2 * var / 2
    )  # moment generating function of a Gaussian
    assert same(E(exp(u * z)), law(0, 1))
    assert same(
        log(law(sqrt(a) * mu, a * v) * law(0, 1 - a)), log(law(sqrt(a) * mu, a * v + 1 - a))
    )  # independent sums multiply


def test_eq_mixture_score():
    parts = [w * gauss(x, b_1, v), (1 - w) * gauss(x, b_2, a)]
    pull = [-(x - b_1) / v, -(x - b_2) / a]
    assert same(
        sp.diff(log(sum(parts)), x), sum(part / sum(parts) * p for part, p in zip(parts, pull))
    )


def noised(mean):
    return gauss(
        x, n * mean, n**2 * v + c
    )  # n for the root of alpha_bar, c for 1 - alpha_bar, v for a cluster's variance


def log_odds(mean, other):
    return sp.expand_log(log(noised(mean) / noised(other)), force=True)


def test_eq_class_posterior():
    # p(y, x_t) is an integral over where x_t came from; a cluster stays one
    integral = sp.integrate(gauss(x_0, b_1, v) * gauss(x, n * x_0, c), (x_0, -oo, oo))
    assert vanishes(sp.expand_log(log(sp.simplify(integral / noised(b_1))), force=True))
    # so the odds of a class of two clusters against one at 0 are a sum of exponentials of lines, and of clusters at +-h one line
    for mean in (b_1, b_2):
        assert vanishes(
            log_odds(mean, 0) - (2 * n * mean * x - n**2 * mean**2) / (2 * (n**2 * v + c))
        )
    assert vanishes(log_odds(h, -h) - 2 * n * h * x / (n**2 * v + c))


def test_eq_guided_posterior():
    # mixture times posterior over p(y), all against the other cluster, with E = exp(log-odds) by which the posterior is logistic
    E = sp.symbols("E", positive=True)
    mixture, posterior = w * E + (1 - w), 1 / (1 + (1 - w) / (w * E))
    assert vanishes(mixture * posterior / w - E)  # the class's own cluster
    line = 2 * n * h * x / (n**2 * v + c)
    assert vanishes(sp.expand_log(log(exp(line) * noised(-h) / noised(h)), force=True))
    assert same(sp.integrate(gauss(x, n * b_1, v), (x, -oo, oo)), 1)


def test_eq_bayes_score():
    density, opinion = sp.Function("p")(x), sp.Function("q")(x)
    assert same(
        sp.diff(log(density * opinion / w), x) - sp.diff(log(density), x), sp.diff(log(opinion), x)
    )


def test_eq_exact_eps():
    p, r_1 = two_points(x, a)
    noise = lambda b: (x - sqrt(a) * b) / sqrt(1 - a)
    assert same(r_1 * noise(b_1) + (1 - r_1) * noise(b_2), -sqrt(1 - a) * sp.diff(log(p), x))


def test_eq_tweedie():
    p, r_1 = two_points(x, a)
    assert same(r_1 * b_1 + (1 - r_1) * b_2, (x + (1 - a) * sp.diff(log(p), x)) / sqrt(a))


# ---- the step back, and its losses


def test_eq_posterior_variance():
    precision = alpha / beta + 1 / (1 - ab_prev)
    assert same(1 / precision, gde.posterior_variance(ab, ab_prev))


def test_eq_posterior_mean():
    exponent = -((x_t - sqrt(alpha) * x) ** 2) / (2 * beta) - (x - sqrt(ab_prev) * x_0) ** 2 / (
        2 * (1 - ab_prev)
    )
    (mode,) = sp.solve(sp.diff(exponent, x), x)  # a Gaussian's mode is its mean
    assert same(gde.posterior_mean(x_0, x_t, ab, ab_prev), mode)


def test_eq_eps_to_x0():
    assert same(gde.x_0_from_eps(sqrt(a) * x_0 + sqrt(1 - a) * eps, eps, a), x_0)


def test_eq_x0_to_eps():
    assert same(gde.eps_from_x_0(sqrt(a) * x_0 + sqrt(1 - a) * eps, x_0, a), eps)


def test_eq_mean_from_eps():
    through_x_0 = gde.posterior_mean(gde.x_0_from_eps(x_t, eps, ab), x_t, ab, ab_prev)
    assert same(gde.mean_from_eps(x_t, eps, ab, ab_prev), through_x_0)


def test_eq_step_tweedie():
    p, r_1 = two_points(x_t, ab)
    by_bayes = sum(
        share * gde.posterior_mean(b, x_t, ab, ab_prev) for share, b in ((r_1, b_1), (1 - r_1, b_2))
    )
    assert same(by_bayes, (x_t + beta * sp.diff(log(p), x_t)) / sqrt(alpha))


def test_eq_step_variance():
    # of x_0 given x_t only its being b_1 with probability w matters: second moment minus squared mean
    means = [gde.posterior_mean(b, x_t, ab, ab_prev) for b in (b_1, b_2)]
    small = gde.posterior_variance(ab, ab_prev)
    second = w * (means[0] ** 2 + small) + (1 - w) * (means[1] ** 2 + small)
    of_x_0 = w * (1 - w) * (b_1 - b_2) ** 2
    exact = second - (w * means[0] + (1 - w) * means[1]) ** 2
    assert same(exact, small + ab_prev * beta**2 / (1 - ab) ** 2 * of_x_0) and same(
        exact, gde.step_variance(of_x_0, ab, ab_prev)
    )
    assert same(
        gde.step_variance(1 - ab, ab, ab_prev), beta
    )  # where the large choice begins to be too small


def test_eq_learned_variance(monkeypatch):
    # the package's line, with symbols for the two logarithms that it looks up
    large, small, out = sp.symbols("large small", positive=True) + (sp.symbols("out", real=True),)
    looked_up = lambda value: SimpleNamespace(log=lambda: log(value))
    monkeypatch.setattr(diffusion, "per_example", lambda values, t, x: values)
    monkeypatch.setattr(diffusion, "clipped_variance", lambda schedule: looked_up(small))
    logs = diffusion._learned_log(out, SimpleNamespace(betas=looked_up(large)), None)
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
    difference = lambda z: (
        log(sqrt(c) / sqrt(v)) - (z - b_1) ** 2 / (2 * v) + (z - b_2) ** 2 / (2 * c)
    )
    assert same(sp.expand_log(E(difference(z))), sp.expand_log(kl(b_1, v, b_2, c)))


def test_eq_decoder():
    p = sp.symbols("p", integer=True)
    level = lambda p: p / Rational(255, 2) - 1
    assert same(
        level(p) + Rational(1, 255), level(p + 1) - Rational(1, 255)
    )  # one interval ends where the next begins: the sum telescopes to 1


def test_eq_vlb_weight():
    guess = sp.symbols("guess", real=True)
    means = [gde.mean_from_eps(x_t, e, ab, ab_prev) for e in (eps, guess)]
    assert same(
        kl(means[0], v, means[1], v), beta**2 / (2 * v * alpha * (1 - ab)) * (eps - guess) ** 2
    )
    small = gde.posterior_variance(ab, ab_prev)
    weight = gde.bound_weight(
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
    mean = lambda e: gde.mean_from_eps(x_t, e, ab, ab_prev)
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
        "D T", positive=True
    )  # the code: means over D dimensions, and bits; over the equation's, lambda is larger by 1 / log 2
    in_code, in_equation = T / 1000 * term / (D * log(2)), Rational(1, 1000) * T * term / D
    assert same(in_code / in_equation, 1 / log(2))


def test_eq_v_to_eps():
    c_0, s_0 = sqrt(ab), sqrt(1 - ab)
    assert same(gde.eps_from_v(c_0 * x_0 + s_0 * eps, c_0 * eps - s_0 * x_0, ab), eps)


def test_eq_mean_to_eps():
    assert same(gde.eps_from_mean(x_t, gde.mean_from_eps(x_t, eps, ab, ab_prev), ab, ab_prev), eps)


def test_eq_target_weight():
    o = sp.Symbol("o", real=True)
    wanted = {
        gde.eps_from_x_0: (1 - ab) / ab,
        gde.eps_from_v: 1 / ab,
        gde.eps_from_mean: beta**2 / (alpha * (1 - ab)),
    }
    for eps_from, weight in wanted.items():
        of_output = sp.diff(eps_from(x_t, o, ab, ab_prev), o)
        assert same(1 / of_output**2, weight) and sp.diff(of_output, o) == 0
    snr = ab / (1 - ab)
    assert same(wanted[gde.eps_from_x_0], 1 / snr) and same(wanted[gde.eps_from_v], 1 + 1 / snr)


def test_eq_bound_estimate():
    terms = sp.symbols("L_0:4")
    assert same(sum(Rational(1, 4) * (4 * term) for term in terms), sum(terms))


def test_eq_importance():
    terms, p = sp.symbols("L_0:3"), sp.symbols("p_0:3", positive=True)
    assert same(sum(q * term / (3 * q) for q, term in zip(p, terms)), sum(terms) / 3)


def test_eq_second_moment():
    # the Lagrange condition of min sum M_t / p_t under sum p_t = 1, and that it is a minimum
    M, p = sp.symbols("M_0:3", positive=True), sp.symbols("p_0:3", positive=True)
    best = {q: sqrt(m) / sum(map(sqrt, M)) for q, m in zip(p, M)}
    slopes = [sp.diff(sum(m / q for m, q in zip(M, p)), q).subs(best) for q in p]
    assert same(slopes[0], slopes[1]) and same(slopes[1], slopes[2]) and same(sum(best.values()), 1)
    assert all(sp.diff(m / q, q, 2).is_positive for m, q in zip(M, p))


def test_eq_bits_per_dim():
    # a pixel, two steps, two states each: the terms add up to the bound over all paths
    u, P, *rest = sp.symbols("u P k0:2 m0:2 d0:2", positive=True)
    k, m, d = rest[:2], rest[2:4], rest[4:]
    two = lambda p: (p, 1 - p)
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


# ---- the Taylor proof


def test_eq_label_blind():
    # given x_t the next step looks at no label, though the label says something about x_0 and so about x_t
    P, (prior, _, _, k_0, k_1, l_0, l_1) = labelled_table()
    sighted, _ = labelled_table(blind=False)
    for y, x, later in product((0, 1), repeat=3):
        assert vanishes(P(y=y, x=x, later=later) / P(y=y, x=x) - P(x=x, later=later) / P(x=x))
        assert not vanishes(
            sighted(y=y, x=x, later=later) / sighted(y=y, x=x)
            - sighted(x=x, later=later) / sighted(x=x)
        )
    # without a label it is the old chain
    assert (
        vanishes(P(x_0=0, x=0, later=0) - prior * k_0 * l_0)
        and vanishes(P(x=0, later=0) / P(x=0) - l_0)
        and not vanishes(P(y=0, x=0) / P(x=0) - P(y=0))
    )


def guided_by_product(P, y, x, later):
    "Appendix H's right-hand side, Z q(x_t | x_{t+1}) q(y | x_t) with Z = 1 / q(y | x_{t+1})."
    return (
        P(later=later)
        / P(y=y, later=later)
        * P(x=x, later=later)
        / P(later=later)
        * P(y=y, x=x)
        / P(x=x)
    )


def test_eq_guided_product():
    P, _ = labelled_table()
    sighted, _ = labelled_table(blind=False)
    for y, x, later in product((0, 1), repeat=3):
        conditional = lambda P: P(y=y, x=x, later=later) / P(y=y, later=later)
        assert vanishes(conditional(P) - guided_by_product(P, y, x, later))
        assert not vanishes(
            conditional(sighted) - guided_by_product(sighted, y, x, later)
        )  # with noise that looks at the label it is false


def test_eq_model_product():
    steps, opinions = (
        sp.symbols("p_0:3", positive=True),
        sp.symbols("o_0:3", positive=True),
    )  # any step and classifier, at three places
    law = lambda opinions: [
        p * o / sum(p * o for p, o in zip(steps, opinions)) for p, o in zip(steps, opinions)
    ]
    assert vanishes(sum(law(opinions)) - 1)
    assert all(
        vanishes(scaled - p) for scaled, p in zip(law([c * o for o in opinions]), law(opinions))
    )  # what does not depend on x_t is free
    P, _ = labelled_table()
    exact = [
        P(x=x, later=0) / P(later=0) * P(y=1, x=x) / P(x=x) for x in (0, 1)
    ]  # with both models exact, Appendix H
    assert vanishes(exact[0] / sum(exact) - P(y=1, x=0, later=0) / P(y=1, later=0))


def test_eq_martingale():
    P, _ = labelled_table()
    for y, later in product((0, 1), repeat=2):
        average = sum(P(x=x, later=later) / P(later=later) * P(y=y, x=x) / P(x=x) for x in (0, 1))
        assert vanishes(average - P(y=y, later=later) / P(later=later))


def test_eq_martingale_gap():
    P, symbols = labelled_table()
    now, before = {}, {}
    for y, state in product((0, 1), repeat=2):
        now[y, state], before[y, state] = (
            P(y=y, **{name: state}) / P(**{name: state}) for name in ("x", "later")
        )

    def gap(
        opinion, P=P, now=now, before=before
    ):  # of a classifier that distorts the exact opinions
        return sum(
            P(x=x, later=later)
            * (opinion(now, y, x) - opinion(before, y, later))
            * opinion(before, y, later)
            for y, x, later in product((0, 1), repeat=3)
        )

    # for all values: given x_{t+1} each term has mean 0; and so it has for opinions drawn towards the class frequencies, or away from them
    stretched = lambda p, y, state: P(y=y) + c * (p[y, state] - P(y=y))
    for y, later in product((0, 1), repeat=2):
        for opinion in (lambda p, y, state: p[y, state], stretched):
            assert vanishes(
                sum(
                    P(x=x, later=later) * (opinion(now, y, x) - opinion(before, y, later))
                    for x in (0, 1)
                )
            )
    # in fractions: a classifier whose odds are squared has a negative gap
    values = dict(zip(symbols, map(Rational, ("1/3", "1/5", "3/4", "1/6", "5/7", "2/9", "7/8"))))
    squared = lambda p, y, state: p[y, state] ** 2 / (p[0, state] ** 2 + p[1, state] ** 2)
    assert gap(squared).subs(values) < 0 and gap(lambda p, y, state: p[y, state]).subs(values) == 0


def test_eq_taylor():
    w_1, w_2, m_1, m_2, h_1, h_2 = sp.symbols("w1:3 m1:3 h1:3", real=True)
    log_p = lambda x_1, x_2: (
        -log(1 + exp(-w_1 * x_1 - w_2 * x_2))
    )  # a logistic classifier in the plane
    gradient = [sp.diff(log_p(m_1, m_2), m) for m in (m_1, m_2)]
    along = log_p(m_1 + s * h_1, m_2 + s * h_2)
    assert same(
        sp.diff(along, s).subs(s, 0), h_1 * gradient[0] + h_2 * gradient[1]
    )  # an inner product
    hessian = sp.hessian(log_p(m_1, m_2), (m_1, m_2))
    assert same(
        sp.diff(along, s, 2).subs(s, 0),
        (sp.Matrix([[h_1, h_2]]) * hessian * sp.Matrix([h_1, h_2]))[0],
    )  # the first term left out


def completed_square():
    d, grad = sp.Matrix(sp.symbols("d1 d2", real=True)), sp.Matrix(sp.symbols("g1 g2", real=True))
    p_1, p_2, p_3 = sp.symbols("p1:4", positive=True)
    return d, grad, sp.Matrix([[p_1, p_2], [p_2, p_3]])


def test_eq_complete_square():
    d, grad, Sigma = completed_square()
    square = lambda u: (-u.T * Sigma.inv() * u / 2)[0]
    C_3_minus_C_2 = (grad.T * Sigma * grad / 2)[0]
    assert same(square(d) + (d.T * grad)[0], square(d - Sigma * grad) + C_3_minus_C_2)
    assert not same(
        square(d) + (d.T * grad)[0], square(d - grad) + C_3_minus_C_2
    )  # a shift by g is not it


def test_eq_mean_shift():
    log_product = -((x - mu) ** 2) / (2 * v) + (x - mu) * g
    mode = sp.solve(sp.diff(log_product, x), x)
    assert mode == [sp.expand(gde.guided_mean(mu, v, g))] and same(
        sp.diff(log_product, x, 2), -1 / v
    )


def test_eq_hessian_step():
    d, grad, P = completed_square()  # P in the place of the precision minus the Hessian
    left = -(d.T * P * d)[0] / 2 + (d.T * grad)[0]
    rest = d - P.inv() * grad
    assert same(left, -(rest.T * P * rest)[0] / 2 + (grad.T * P.inv() * grad)[0] / 2)
    H = sp.symbols("H", negative=True)
    exponent = -((x - mu) ** 2) / (2 * v) + g * (x - mu) + H * (x - mu) ** 2 / 2
    (mode,) = sp.solve(sp.diff(exponent, x), x)
    assert same(mode, mu + g / (1 / v - H)) and same(-1 / sp.diff(exponent, x, 2), 1 / (1 / v - H))


def test_eq_small_difference():
    # r takes two values: the exact total variation and divergence of the laws that differ by e^(h r), expanded in h
    values, shares = (b_1, b_2), (w, 1 - w)
    mean = lambda f: sum(share * f(value) for share, value in zip(shares, values))
    total = mean(lambda r: exp(h * r))
    centre = mean(lambda r: r)
    ratio = lambda r: exp(h * r) / total
    divergence = mean(lambda r: ratio(r) * (h * r - log(total)))
    spread = mean(lambda r: (r - centre) ** 2)
    assert (
        same(divergence.subs(h, 0), 0)
        and same(sp.diff(divergence, h).subs(h, 0), 0)
        and same(sp.diff(divergence, h, 2).subs(h, 0), spread)
    )
    for value in values:
        assert same(
            sp.diff(ratio(value), h).subs(h, 0), value - centre
        )  # so the mean of |ratio - 1| is h times that of |r - E r|
    assert same(mean(ratio), 1)


def test_eq_error_law(monkeypatch):
    z, sigma, g, H, T = sp.symbols("z sigma g H T", positive=True)
    density = exp(-(z**2) / 2) / sqrt(2 * pi)
    mean = lambda f, low=0: (
        2 * sp.integrate(sp.expand(f * density), (z, low, oo))
    )  # of an even function
    deviations = (
        mean(z),
        2 * mean(z**2 - 1, 1),
        mean(z**3),
    )  # E|z|; E|z^2 - 1|, whose two halves are equal; E|z|^3
    assert same(mean(z**2 - 1), 0) and same(deviations[1], 4 * density.subs(z, 1))
    spreads = mean(z**2), mean(z**4) - mean(z**2) ** 2, mean(z**6)
    sizes = sigma * g, sigma**2 * H / 2, sigma**3 * T / 6
    monkeypatch.setattr(guidance, "math", SimpleNamespace(pi=pi, e=sp.E, sqrt=sqrt))
    for size, deviation, spread, (tv, divergence) in zip(
        sizes, deviations, spreads, gde.error_law(sigma**2, g, H, T)
    ):
        assert same(size * deviation / 2, tv) and same(size**2 * spread / 2, divergence)


def test_eq_scaled_shift():
    opinion = sp.Function("p", positive=True)(x)
    assert same(
        sp.diff(log(opinion**s / w), x), s * sp.diff(log(opinion), x)
    )  # a power, over a constant
    log_product = -((x - mu) ** 2) / (2 * v) + s * (x - mu) * g
    assert same(sp.solve(sp.diff(log_product, x), x)[0], gde.guided_mean(mu, v, s * g))


# ---- the score identity and DDIM


def test_eq_score_eps():
    log_density = sp.expand_log(log(gauss(x, sqrt(a) * x_0, 1 - a)), force=True)
    assert same(
        sp.diff(log_density, x).subs(x, sqrt(a) * x_0 + sqrt(1 - a) * eps),
        gde.score_from_eps(eps, a),
    )


def test_eq_eps_hat():
    score = gde.score_from_eps(eps, a) + s * g
    assert same(gde.guided_eps(eps, a, s * g), -sqrt(1 - a) * score)


def test_eq_exact_shift():
    p, r_1 = two_points(x_t, ab)  # each point a class of its own
    class_model, of_other = (gde.posterior_mean(b, x_t, ab, ab_prev) for b in (b_1, b_2))
    assert same(
        class_model - (r_1 * class_model + (1 - r_1) * of_other),
        beta / sqrt(alpha) * sp.diff(log(r_1), x_t),
    )
    moved = gde.mean_from_eps(x_t, gde.guided_eps(eps, ab, g), ab, ab_prev) - gde.mean_from_eps(
        x_t, eps, ab, ab_prev
    )
    assert same(moved, beta / sqrt(alpha) * g)


def test_eq_shift_ratio():
    ratio = gde.posterior_variance(ab, ab_prev) / (beta / sqrt(alpha))
    assert same(ratio, sqrt(alpha) * (1 - ab_prev) / (1 - ab))


def ddim_step(monkeypatch, e, sigma=0, gradient=None, z=sp.Symbol("z", real=True)):
    "A step of `ddim_sample` from x_t, by its own lines: symbols stand for what it looks up, draws and asks for."
    parts = dict(
        _begin=lambda *_: (x_t, 0),
        _walk=lambda step, x, *_: step(x, 0),
        _alpha_bars=lambda *_: (ab, ab_prev),
        _timestep=lambda *_: None,
        _predict=lambda *_: (gde.x_0_from_eps(x_t, e, ab), None),
        _gradient=lambda *_: gradient,
        ddim_sigma=lambda *_: sigma,
        noise_like=lambda *_: z,
    )
    for name, part in parts.items():
        monkeypatch.setattr(samplers, name, part)
    return sp.nsimplify(
        gde.ddim_sample(None, None, (1,), guidance=gradient is not None), rational=True
    )


def test_eq_ddim_family(monkeypatch):
    sigma, z = sp.symbols("sigma", positive=True), sp.symbols("z", real=True)
    step = sp.expand(
        ddim_step(monkeypatch, gde.eps_from_x_0(x_t, x_0, ab), sigma).subs(
            x_t, sqrt(ab) * x_0 + sqrt(1 - ab) * eps
        )
    )
    kept, fresh = sp.diff(step, eps), sp.diff(step, z)
    assert same(step.subs({eps: 0, z: 0}), sqrt(ab_prev) * x_0)  # the mean of the marginal
    assert same(kept**2 + fresh**2, 1 - ab_prev) and same(
        fresh, sigma
    )  # and its variance, for every sigma
    assert same(sp.diff(step, eps, 2), 0) and same(sp.diff(step, z, 2), 0)


def test_eq_ddim_step(monkeypatch):
    exact = gde.eps_from_x_0(x_t, x_0, ab)
    family = sqrt(ab_prev) * x_0 + sqrt(1 - ab_prev) * exact
    assert same(ddim_step(monkeypatch, exact), family)


def test_eq_ddim_sigma():
    assert same(ddim_sigma(ab, ab_prev, 1) ** 2, gde.posterior_variance(ab, ab_prev))
    assert same(
        (1 - ab_prev - gde.posterior_variance(ab, ab_prev)), alpha * (1 - ab_prev) ** 2 / (1 - ab)
    )  # so the root is sqrt(alpha) (1 - ab_prev) / sqrt(1 - ab)
    root = sqrt(alpha) * (1 - ab_prev) / sqrt(1 - ab)
    assert same(
        sqrt(ab_prev) * x_0 + root * gde.eps_from_x_0(x_t, x_0, ab),
        gde.posterior_mean(x_0, x_t, ab, ab_prev),
    )  # eta = 1 is DDPM


def test_eq_ddim_shift(monkeypatch):
    sigma = sp.symbols("sigma", positive=True)
    moved = ddim_step(monkeypatch, eps, sigma, g) - ddim_step(monkeypatch, eps, sigma)
    assert same(
        moved,
        ddim_step(monkeypatch, gde.guided_eps(eps, ab, g), sigma)
        - ddim_step(monkeypatch, eps, sigma),
    )
    assert same(moved, sqrt(1 - ab) * (sqrt((1 - ab) / alpha) - sqrt(1 - ab_prev - sigma**2)) * g)
    short = sqrt(v) * (
        sqrt(v / (1 - h)) - sqrt(1 - (1 - v) / (1 - h))
    )  # of level 1 - v, by beta = h
    assert same(sp.limit(sp.diff(short, h), h, 0), Rational(1, 2))


def test_eq_flow(monkeypatch):
    relative = lambda level: sqrt(1 - level) / sqrt(level)
    assert same(
        ddim_step(monkeypatch, eps) / sqrt(ab_prev),
        x_t / sqrt(ab) + (relative(ab_prev) - relative(ab)) * eps,
    )


def test_eq_ddim_inversion(monkeypatch):
    down = sp.Eq(ddim_step(monkeypatch, eps), x)
    (up,) = sp.solve(down, x_t)  # the same eps: the way back undoes the step
    relative = lambda level: sqrt(1 - level) / sqrt(level)
    assert same(up / sqrt(ab), x / sqrt(ab_prev) + (relative(ab) - relative(ab_prev)) * eps)


# ---- the whole chain, and the scale


def test_eq_chain_law():
    P, _ = labelled_table()
    for y, x in product(
        (0, 1), repeat=2
    ):  # the kernel of Appendix H, as a product, carries q(x_{t+1} | y) to q(x_t | y)
        carried = sum(
            guided_by_product(P, y, x, later) * P(y=y, later=later) / P(y=y) for later in (0, 1)
        )
        assert vanishes(carried - P(y=y, x=x) / P(y=y))


def test_eq_total_variation():
    # four points: p above q by some sizes at the points of A, below it at the others, and the two totals equal
    sizes = sp.symbols("d1:5", positive=True)
    for above in filter(lambda above: 0 < sum(above) < 4, product((0, 1), repeat=4)):
        surplus = sum(d for d, up in zip(sizes, above) if up)
        deficit = sum(sizes) - surplus
        for event in product((0, 1), repeat=4):
            gain = sum(
                d if up else -d for d, up, chosen in zip(sizes, above, event) if chosen
            )  # p(event) - q(event)
            short = sp.expand(
                sum(sizes) / 2 - gain - (deficit - surplus) / 2
            )  # of half the sum; the last bracket is 0
            assert short.is_nonnegative and (short == 0) == (
                event == above
            )  # no event gains more, and A alone as much


def test_eq_tilted_kernel():
    normaliser = sp.integrate(gauss(x, 0, v) * exp(g * x), (x, -oo, oo))
    tilted = gauss(x, 0, v) * exp(g * x) / normaliser
    assert same(normaliser, exp(v * g**2 / 2)) and same(sp.simplify(tilted / gauss(x, v * g, v)), 1)


def test_eq_tilted_target():
    c_1, c_2 = sp.symbols(
        "c_1 c_2", positive=True
    )  # p(y | x_0) at two places, of probabilities w and 1 - w given x_t
    noised_power, power_of_noised = w * c_1**2 + (1 - w) * c_2**2, (w * c_1 + (1 - w) * c_2) ** 2
    assert same(
        noised_power - power_of_noised, w * (1 - w) * (c_1 - c_2) ** 2
    )  # at s = 2 they differ by a variance
    density, opinion = sp.Function("p", positive=True)(x), sp.Function("q", positive=True)(x)
    assert same(
        sp.diff(log(density * opinion**s / w), x),
        sp.diff(log(density), x) + s * sp.diff(log(opinion), x),
    )


def lab_g(x, level):
    return sqrt(level) * (y - sqrt(level) * x) / (1 - level + r**2)


def test_eq_lab_gradient():
    # (x_0, x_t) is Gaussian with variances 1 and covariance sqrt(a): x_0 given x_t has mean sqrt(a) x_t and variance 1 - a; the measurement adds r^2
    mean, var = sqrt(a) * x, 1 - sqrt(a) ** 2 + r**2
    log_density = -((y - mean) ** 2) / (2 * var)
    assert same(sp.diff(log_density, x), lab_g(x, a))


def test_eq_lab_recursion():
    k_1, k_2, k_3 = sp.symbols("k1:4", real=True)
    X, Z = Normal("X", mu, sqrt(v)), Normal("Z", 0, 1)
    step = k_1 * X + k_2 + k_3 * Z
    assert same(E(step), k_1 * mu + k_2) and same(sp.simplify(variance(step)), k_1**2 * v + k_3**2)


def log_derivatives(level):
    """First and second derivative in x_t of log p and of log r_1 for `two_points`, with the two parts of p as plain symbols A and B.

    SymPy differentiates with unknown functions; what is put in for their derivatives is checked on the Gaussian itself."""
    A, B, size_a, size_b = (
        sp.Function("A")(x_t),
        sp.Function("B")(x_t),
        *sp.symbols("size_a size_b", positive=True),
    )
    slopes = {
        part: -(x_t - sqrt(level) * place) / (1 - level) for part, place in ((A, b_1), (B, b_2))
    }
    for part, place in ((A, b_1), (B, b_2)):
        assert same(sp.diff(log(gauss(x_t, sqrt(level) * place, 1 - level)), x_t), slopes[part])
    found = []
    for of in (log(A + B), log(A / (A + B))):
        for order in (1, 2):
            value = sp.diff(of, x_t, order)
            for part, slope in slopes.items():
                value = value.subs(
                    sp.diff(part, x_t, 2), part * (slope**2 + sp.diff(slope, x_t))
                ).subs(sp.diff(part, x_t), part * slope)
            found.append(value.subs({A: size_a, B: size_b}))
    return found, size_a / (size_a + size_b)


def test_eq_matched_variance():
    # two points noised: the step's variance is the mean of the variances plus the variance of the means
    (slope, bend, slope_1, _), r_1 = log_derivatives(ab)
    m_1, m_2 = (gde.posterior_mean(b, x_t, ab, ab_prev) for b in (b_1, b_2))
    by_parts = gde.posterior_variance(ab, ab_prev) + r_1 * (1 - r_1) * (m_1 - m_2) ** 2
    assert same(by_parts, beta / alpha * (1 + beta * bend))
    mean_slope = (
        r_1 * sp.diff(m_1, x_t) + (1 - r_1) * sp.diff(m_2, x_t) + r_1 * slope_1 * (m_1 - m_2)
    )
    assert same(by_parts, beta / sqrt(alpha) * mean_slope)


def test_eq_guided_variance():
    # the class is the first point: given it, the step's variance is that of the posterior
    (_, bend, _, bend_1), _ = log_derivatives(ab)
    free = beta / alpha * (1 + beta * bend)
    assert same(gde.posterior_variance(ab, ab_prev) - free, beta**2 / alpha * bend_1)
    assert not same(gde.posterior_variance(ab, ab_prev) - free, beta / alpha * bend_1)


def test_eq_third_order_shift():
    # moments of e^l to the fourth order in sigma, l = g d + H d^2 / 2 + T d^3 / 6, d = sigma z
    g_, H, T, sigma, z = sp.symbols("g H T sigma z")
    d = sigma * z
    tilt = sp.series(exp(g_ * d + H * d**2 / 2 + T * d**3 / 6), sigma, 0, 5).removeO()
    normal = {1: 0, 2: 1, 3: 0, 4: 3, 5: 0, 6: 15, 8: 105}

    def mean(poly):
        return sum(
            c * (1 if k == 0 else normal.get(k, 0))
            for (k,), c in sp.Poly(sp.expand(poly), z).terms()
        )

    ratio = sp.series(mean(d * tilt) / mean(tilt), sigma, 0, 5).removeO()
    assert same(ratio, third_order_shift(sigma**2, g_, H, T))


def test_eq_law_target():
    exponent = -(x**2) / 2 - s * (y - x) ** 2 / (2 * r**2)
    assert same(-1 / sp.diff(exponent, x, 2), target_variance(r, s)) and same(
        sp.solve(sp.diff(exponent, x), x)[0], s * y / (r**2 + s)
    )


def test_eq_law_ddpm():
    u, level = sp.symbols("u level", positive=True)
    for scale in map(Rational, ("1", "2", "1/4", "3")):
        antiderivative = (1 + r**2 - level) ** (1 - 2 * scale) / (2 * scale - 1)
        V = (antiderivative - antiderivative.subs(level, 0)) / (
            level * (1 + r**2 - level) ** (-2 * scale)
        )
        assert same(
            sp.diff(V, level), (1 - V) / level - 2 * scale * V / (1 + r**2 - level)
        )  # the equation of the limit
        assert same(sp.limit(V, level, 0), 1) and same(V.subs(level, 1), ddpm_variance(r, scale))
    assert (
        abs(
            ddpm_variance(1, 0.5)
            - float(sp.limit((1 - 2 ** (1 - 2 * s)) / (2 * s - 1), s, Rational(1, 2)))
        )
        < 1e-12
    )  # the one scale without a power


def test_eq_law_ddim():
    level = sp.symbols("level", positive=True)
    V = ((1 + r**2 - level) / (1 + r**2)) ** s
    assert (
        same(sp.diff(V, level), -s * V / (1 + r**2 - level))
        and V.subs(level, 0) == 1
        and same(V.subs(level, 1), ddim_variance(r, s))
    )


def test_eq_place_error():
    curvature = ab_prev / (1 - ab_prev + r**2)
    exact = beta / sqrt(alpha) * lab_g(x_t, ab)
    tilted = beta / (1 + beta * curvature) * lab_g(sqrt(alpha) * x_t, ab_prev)
    assert same(exact, tilted)  # two theorems, one shift
    assert same(beta * lab_g(sqrt(alpha) * x_t, ab_prev) / exact, 1 + beta * curvature) and same(
        beta * lab_g(x_t, ab) / exact, sqrt(alpha)
    )


# ---- networks and training


def test_eq_timestep_embedding():
    omega, t, k = sp.symbols("omega t k", real=True)
    turn = sp.Matrix(
        [[sp.cos(omega * k), -sp.sin(omega * k)], [sp.sin(omega * k), sp.cos(omega * k)]]
    )
    wave = lambda t: sp.Matrix([sp.cos(omega * t), sp.sin(omega * t)])
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
    mean = lambda values: sum(values) / len(values)
    centred = [[value - mean(values) for value in values] for values in (h, e)]
    cov = lambda a, b: mean([x * z for x, z in zip(a, b)])
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
    place = lambda j, n, i: (j * H + n) * d + i  # with the queries first
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


def test_eq_adagn():
    scale, shift, gain, bias, normal = sp.symbols("scale shift gamma b normal", real=True)
    assert same(
        (1 + scale) * (gain * normal + bias) + shift,
        gain * (1 + scale) * normal + (bias * (1 + scale) + shift),
    )


def test_eq_attention():
    logits, values = sp.symbols("l1:4", real=True), sp.symbols("v1:4", real=True)
    attend = lambda logits: (
        sum(exp(l) * value for l, value in zip(logits, values)) / sum(exp(l) for l in logits)
    )
    assert same(attend([l + mu for l in logits]), attend(logits)) and same(
        sum(sp.diff(attend(logits), value) for value in values), 1
    )
    q, k = Normal("q", 0, 1), Normal("k", 0, 1)
    assert same(
        n * variance(q * k) / sqrt(n) ** 2, 1
    )  # a sum of n products, over sqrt(n), has variance 1


def test_eq_noisy_cross_entropy():
    answer = sp.symbols("answer", positive=True)
    loss = -w * log(answer) - (1 - w) * log(1 - answer)  # w is the true probability
    assert sp.solve(sp.diff(loss, answer), answer) == [w] and same(
        sp.diff(loss, answer, 2).subs(answer, w), 1 / (w * (1 - w))
    )


def test_eq_ema():
    theta = sp.symbols("theta0:4")
    value = theta[0]
    for new in theta[1:]:
        value = a * value + (1 - a) * new
    assert same(value, a**3 * theta[0] + (1 - a) * sum(a ** (3 - i) * theta[i] for i in (1, 2, 3)))


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


def test_eq_clip():
    p, q = sp.symbols("p q", real=True)
    length = sqrt(p**2 + q**2)
    cut = [e * sp.Min(1, c / length) for e in (p, q)]

    def at(e, *numbers):
        return e.subs(dict(zip((p, q, c), numbers)))

    assert [at(e, 3, 4, 1) for e in cut] == [Rational(3, 5), Rational(4, 5)] and [
        at(e, 3, 4, 9) for e in cut
    ] == [3, 4]
    assert same(cut[0] * q - cut[1] * p, 0)  # its direction stays
    assert same(
        sqrt((p * c / length) ** 2 + (q * c / length) ** 2), c
    )  # and its length is c where it is cut


def test_eq_share_error():
    of_one = (w * 1**2 + (1 - w) * 0) - w**2  # a right-or-wrong
    assert same(sqrt(n * of_one / n**2), sqrt(w * (1 - w) / n))


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
    # one dimension: E(X - Y)^2 falls with the covariance, whose most is the product of the deviations
    m_a, m_b, rho = sp.symbols("m_a m_b rho", real=True)
    cost = (m_a - m_b) ** 2 + a**2 + c**2 - 2 * rho * a * c
    assert same(sp.diff(cost, rho), -2 * a * c) and same(
        cost.subs(rho, 1), (m_a - m_b) ** 2 + (a - c) ** 2
    )
    # two dimensions: for M = U diag(sigma) V^T no K of norm 1 gives more than V U^T, which gives the sum of singular values
    angle, turn, sigma = (
        sp.symbols("angle turn", real=True),
        sp.symbols("u", real=True),
        sp.symbols("sigma_1 sigma_2", positive=True),
    )
    rotation = lambda t: sp.Matrix([[sp.cos(t), -sp.sin(t)], [sp.sin(t), sp.cos(t)]])
    U, V = rotation(angle[0]), rotation(angle[1])
    M = U * sp.diag(*sigma) * V.T
    trace = lambda K: sp.simplify((K * M).trace())
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
    # several: the second order of the root, from R R = Sigma^(1/2) (Sigma + E) Sigma^(1/2), in two dimensions
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
    centre = lambda values: sum(values) / 3
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
    entropy = lambda law: -sum(part * log(part) for part in law)
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
    inside = lambda centre, radius, point: sp.Le(sp.Abs(point - centre), radius)
    real, fake, radii = (
        sp.symbols("f1:3"),
        sp.symbols("g1:4"),
        {
            **{f: sp.Symbol(f"r_{f}") for f in sp.symbols("f1:3")},
            **{g_: sp.Symbol(f"r_{g_}") for g_ in sp.symbols("g1:4")},
        },
    )
    precision = lambda real, fake: [sp.Or(*(inside(f, radii[f], g_) for f in real)) for g_ in fake]
    recall = lambda real, fake: [sp.Or(*(inside(g_, radii[g_], f) for g_ in fake)) for f in real]
    assert precision(fake, real) == recall(real, fake)


def test_eq_density_coverage():
    # a matrix of who is in whose ball, three real by two fake: density adds all, coverage asks each row
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


def test_eq_told_ahead():
    p_x, p_y_x, p_y, s = sp.symbols("p_x p_y_x p_y s", positive=True)
    p_x_y = p_x * p_y_x / p_y  # Bayes' rule
    ratio = sp.simplify(p_x_y * p_y_x**s / (p_x * p_y_x ** (s + 1)))
    assert same(ratio, 1 / p_y) and not ratio.has(p_x, p_y_x)  # the same in every x


def test_eq_matching_scale():
    b = sp.symbols("b", positive=True)
    (found,) = sp.solve(1 / b**2 + s / r**2 - (1 + 1 / r**2), s)
    assert same(found, matching_scale(r, b)) and same(matching_scale(r, 1), 1)
    tilted_mean = lambda scale: scale * y / r**2 / (1 / b**2 + scale / r**2)
    assert same(
        tilted_mean(found) / (y / r**2 / (1 + 1 / r**2)), found
    )  # the mean is off by the scale itself


# ---- beyond the paper: two models in the place of a classifier


def test_eq_free_loss():
    a_y, a_0, w_y, w_0, p = sp.symbols("a_y a_0 w_y w_0 p", real=True)
    noise = sp.Matrix(
        sp.symbols("n1:4", real=True)
    )  # three equally likely noises seen with a class, and hidden
    mean = lambda guess: sum((n_k - guess) ** 2 for n_k in noise) / 3
    loss = (1 - p) * mean(a_y) + p * mean(a_0)
    best = sp.solve([sp.diff(loss, a_y), sp.diff(loss, a_0)], [a_y, a_0], dict=True)[0]
    assert same(best[a_y], sum(noise) / 3) and same(best[a_0], sum(noise) / 3)  # whatever p


def test_eq_implicit_classifier():
    density, opinion = sp.Function("p", positive=True)(x_t), sp.Function("q", positive=True)(x_t)
    eps_of = lambda p: -sqrt(1 - a) * sp.diff(log(p), x_t)
    class_model = density * opinion / w  # Bayes' rule, w the share of the class
    assert same(-(eps_of(class_model) - eps_of(density)) / sqrt(1 - a), sp.diff(log(opinion), x_t))


def test_eq_free_eps():
    eps_y, eps_0, w = sp.symbols("epsilon_y epsilon_0 w", real=True)
    implied = -(eps_y - eps_0) / sqrt(1 - a)
    assert same(gde.guided_eps(eps_0, a, s * implied), eps_0 + s * (eps_y - eps_0))
    assert same((eps_0 + s * (eps_y - eps_0)).subs(s, 1 + w), (1 + w) * eps_y - w * eps_0)


def test_eq_autoguidance():
    p, weak = sp.Function("p", positive=True)(x), sp.Function("q", positive=True)(x)
    score = lambda f: sp.diff(log(f), x)
    assert same(score(weak) + s * (score(p) - score(weak)), score(p**s / weak ** (s - 1)))


def test_eq_tilt_gap():
    # data at two points with class probabilities p_1, p_2: noise the tilted law, and compare with the power
    p_1, p_2 = sp.symbols("p_1 p_2", positive=True)
    near, far = w * gauss(x, sqrt(a) * b_1, 1 - a), (1 - w) * gauss(x, sqrt(a) * b_2, 1 - a)
    density, opinion = near + far, (near * p_1 + far * p_2) / (near + far)
    tilted, worth = near * p_1**3 + far * p_2**3, (near * p_1**3 + far * p_2**3) / (near + far)
    left = sp.diff(log(tilted) - (log(density) + 3 * log(opinion)), x)
    assert same(left, sp.diff(log(worth / opinion**3), x))


def test_eq_flow_quantiles():
    k, u = sp.symbols("k u", positive=True)
    drawn = gauss(x, 0, k**2)  # what x -> k x makes of N(0, 1)
    assert same(sp.integrate(drawn, (x, -oo, k * u)), sp.integrate(gauss(x, 0, 1), (x, -oo, u)))


tau, broad = sp.symbols("tau u", positive=True)
pull = s / (v + tau) - (s - 1) / (broad + tau)  # minus the guided score over x


def test_eq_pair_target():
    power = s * log(gauss(x, 0, v)) - (s - 1) * log(gauss(x, 0, broad))
    assert same(
        -1 / sp.diff(sp.expand_log(power, force=True), x, 2),
        gde.free.pair_target_variance(v, broad, s),
    )


def test_eq_pair_ddim():
    path = s * log(v + tau) - (s - 1) * log(broad + tau)  # log of the variance along the flow
    assert same(sp.diff(path, tau), pull) and sp.limit((path - log(tau)).subs(s, 3), tau, oo) == 0
    assert same(exp(path).subs(tau, 0), gde.free.pair_ddim_variance(v, broad, s))
    assert same(gde.free.pair_ddim_variance(r**2 / (1 + r**2), 1, s), ddim_variance(r, s))


def test_eq_pair_ddpm():
    gap = sp.symbols("gap", positive=True)  # u = v + gap
    for power in (1, 2, 3):
        factor = (v + gap + tau) ** (2 * power - 2) / (v + tau) ** (2 * power)
        assert same(sp.diff(log(factor), tau), -2 * pull.subs({s: power, broad: v + gap}))
        whole = sp.integrate(sp.apart(factor, tau), (tau, 0, oo)) / factor.subs(tau, 0)
        assert same(whole, gde.free.pair_ddpm_variance(v, v + gap, power))
    assert same(gde.free.pair_ddpm_variance(r**2 / (1 + r**2), 1, 3), ddpm_variance(r, 3))
    assert same(
        gde.free.pair_ddpm_variance(1, 2, s), (2 - 2 ** (2 - 2 * s)) / (2 * s - 1)
    )  # Bradley and Nakkiran's example


def test_eq_interval_law():
    low, high, level = sp.symbols("low high level", positive=True)
    rate = lambda f: -f * log(1 + r**2 - level)  # primitive of f / (1 + r^2 - a)
    part = lambda f, start, end: rate(f).subs(level, end) - rate(f).subs(level, start)
    total = part(1, 0, low) + part(s, low, high) + part(1, high, 1)
    claimed = log(gde.free.interval_variance(r, s, low, high))
    assert same(sp.diff(sp.expand_log(claimed, force=True) + total, s), 0) and same(
        (claimed + total).subs(s, 1), 0
    )


def test_eq_rescaled():
    pixels, factor = sp.Matrix(sp.symbols("p1:4", real=True)), sp.symbols("factor", positive=True)
    spread = lambda values: sum((value - sum(values) / 3) ** 2 for value in values)
    wanted = sp.symbols("wanted", positive=True)
    assert same(spread(factor * pixels), factor**2 * spread(pixels))
    assert same(
        spread(sqrt(wanted / spread(pixels)) * pixels), wanted
    )  # the whole way: the variance asked for


def test_eq_projected():
    own, change = sp.Matrix(sp.symbols("o1:4", real=True)), sp.Matrix(sp.symbols("d1:4", real=True))
    along = (change.T * own)[0] / (own.T * own)[0] * own
    across = change - along
    guided = own + (s - 1) * across
    assert same((across.T * own)[0], 0)
    assert same((guided.T * guided)[0], (own.T * own)[0] + (s - 1) ** 2 * (across.T * across)[0])


def test_eq_gradient_field():
    x_1, x_2, c_1, c_2 = sp.symbols("x_1 x_2 c_1 c_2", real=True)
    potential = sp.Function("f")(x_1, x_2)
    field = [sp.diff(potential, x_1), sp.diff(potential, x_2)]
    assert same(sp.diff(field[0], x_2), sp.diff(field[1], x_1))
    scaled = [
        factor * component for factor in [1 + x_1**2] for component in (c_1 * x_1, c_2 * x_2)
    ]  # a gradient times a function
    assert not same(sp.diff(scaled[0], x_2), sp.diff(scaled[1], x_1))
    f_1, f_2 = c_1 * x_1 + c_2 * x_2, c_2 * x_1 + x_2  # symmetric: it has a potential
    found = sp.integrate(f_1, x_1) + sp.integrate(f_2 - sp.diff(sp.integrate(f_1, x_1), x_2), x_2)
    assert same(sp.diff(found, x_1), f_1) and same(sp.diff(found, x_2), f_2)


# ---- exact guidance by particles


def two_steps():
    "Two states a level: P(x_2), P(x_1 | x_2), P(x_0 | x_1) and positive twists h_0, h_1, h_2, all free."
    start, first, second = (
        sp.symbols("p_2 p_10 p_11", positive=True),
        sp.symbols("f_0 f_1", positive=True),
        sp.symbols("g_0 g_1", positive=True),
    )
    two = lambda p: (p, 1 - p)
    twists = [sp.symbols(f"h_{level}0 h_{level}1", positive=True) for level in range(3)]
    return two(start[0]), [two(p) for p in first], [two(p) for p in second], twists


def test_eq_smc_target():
    # the last target's marginal does not depend on the twists on the way
    start, first, second, (h_0, h_1, h_2) = two_steps()
    gamma = {
        (i, j, k): start[i] * first[i][j] * second[j][k] * h_0[k]
        for i, j, k in product((0, 1), repeat=3)
    }
    for k in (0, 1):
        marginal = sum(gamma[i, j, k] for i, j in product((0, 1), repeat=2))
        chain = sum(start[i] * first[i][j] * second[j][k] for i, j in product((0, 1), repeat=2))
        assert same(marginal, chain * h_0[k]) and not marginal.free_symbols & {*h_1, *h_2}


def test_eq_smc_weight():
    start, first, second, (h_0, h_1, h_2) = two_steps()
    r = sp.symbols("r_0:4", positive=True)  # any proposals
    for i, j, k in product((0, 1), repeat=3):
        weights = (
            h_2[i],
            first[i][j] * h_1[j] / (r[i] * h_2[i]),
            second[j][k] * h_0[k] / (r[2 + j] * h_1[j]),
        )
        assert same(
            start[i] * r[i] * r[2 + j] * sp.prod(weights),
            start[i] * first[i][j] * second[j][k] * h_0[k],
        )


def test_eq_gaussian_weight():
    d, after, before = sp.symbols("d h_after h_before", real=True)
    step = sp.expand_log(log(gauss(d, 0, v)) - log(gauss(d, v * g, v)), force=True)
    assert same(step, -v * g * (d - v * g / 2) / v)
    claimed = after - g * d + v * g**2 / 2 - before
    assert same(step + after - before, claimed)
    linear = claimed.subs(after, s + g * d).subs(
        before, s + v * g**2 / 2
    )  # a linear twist that is a martingale
    assert same(linear, 0)


def test_eq_smc_evidence():
    # one particle and one step, any proposal: the mean of the product of weights is the evidence; with resampling by counting for two
    start, first, _, (h_0, h_1, _) = two_steps()
    r = sp.symbols("r_0 r_1", positive=True)
    proposal = [(p, 1 - p) for p in r]
    mean = sum(
        start[i] * proposal[i][j] * h_1[i] * first[i][j] * h_0[j] / (proposal[i][j] * h_1[i])
        for i, j in product((0, 1), repeat=2)
    )
    assert same(mean, sum(start[i] * first[i][j] * h_0[j] for i, j in product((0, 1), repeat=2)))
    w_1, w_2, f_1, f_2 = sp.symbols("w_1 w_2 f_1 f_2", positive=True)
    share = w_1 / (w_1 + w_2)
    resampled = (
        share * f_1 + (1 - share) * f_2
    )  # mean of f over the copies, each in proportion to its weight
    assert same((w_1 + w_2) / 2 * resampled, (w_1 * f_1 + w_2 * f_2) / 2)


def test_eq_ess():
    M, N, W = sp.symbols("M N W", positive=True)
    assert same((M * W) ** 2 / (M * W**2), M)  # M equal weights count M
    heavy = 1 / (w**2 + (1 - w) ** 2 / (N - 1))
    assert same(heavy.subs(w, 1 / N), N) and sp.limit(heavy, N, oo) == 1 / w**2


def test_eq_systematic():
    u = sp.symbols("u", real=True)
    for low, high, N in (
        (Rational(1, 7), Rational(5, 9), 4),
        (0, Rational(1, 11), 5),
        (Rational(2, 3), 1, 3),
    ):
        inside = sum(
            sp.Piecewise((1, sp.And((k + u) / N >= low, (k + u) / N < high)), (0, True))
            for k in range(N)
        )
        assert sp.integrate(inside, (u, 0, 1)) == N * (high - low)  # the expected number of teeth


def test_eq_twist_bounds():
    t = sp.symbols("t", positive=True)
    power = lambda z: z**3
    p_1, p_2 = Rational(1, 5), Rational(9, 10)
    mean = lambda f: w * f(p_1) + (1 - w) * f(p_2)
    below, above = (
        sp.factor(mean(power) - power(mean(lambda z: z))),
        sp.factor(mean(lambda z: z) - mean(power)),
    )
    for share in (Rational(k, 10) for k in range(1, 10)):
        assert below.subs(w, share) > 0 and above.subs(w, share) > 0
    assert sp.diff(t**s, t, 2).equals(
        s * (s - 1) * t ** (s - 2)
    )  # convex for s > 1, which is Jensen's condition


def test_eq_annealed_twist():
    level, least = sp.symbols("level least", positive=True)
    k = 1 + (s - 1) * level / least
    assert same(k.subs(level, least), s) and same(k.subs(level, 0), 1) and same(k.subs(s, 1), 1)
    assert same(sp.diff(k, level), (s - 1) / least)  # and a straight line between


# ---- where guidance goes wrong


def test_eq_transfer_gap():
    right_guide, right_judge, f, K = sp.symbols("a b f K", positive=True)
    guide, judge = (1 - f) * right_guide + f, (1 - f) * right_judge + f / K
    assert same(guide - judge, (1 - f) * (right_guide - right_judge) + f * (1 - 1 / K))
    assert same(
        (guide - judge).subs(f, 0), right_guide - right_judge
    )  # honest samples: a difference of error rates


def test_eq_contrast():
    X, noise, fresh = Normal("X", 0, 1), Normal("noise", 0, 1), Normal("fresh", 0, sqrt(v))
    pixel = a * (X + r * noise) + fresh
    assert same(variance(pixel), gde.failures.contrast(a, v, r) ** 2)
    data = gde.failures.contrast(1 / (1 + r**2), r**2 / (1 + r**2), r)
    assert same(data, 1)  # the posterior's pictures are as loud as the data


def test_eq_contrast_target():
    law = gde.failures.contrast(s / (r**2 + s), target_variance(r, s), r) ** 2
    assert same(law, gde.failures.target_contrast(r, s) ** 2)
    assert same(law, (s**2 * (1 + r**2) + r**2 * (r**2 + s)) / (r**2 + s) ** 2)
    assert sp.limit(law, s, oo) == 1 + r**2 and same(law.subs(s, 1), 1)
    slope = sp.numer(sp.together(sp.diff(law, s)))
    assert sp.simplify(slope / ((2 * r**2 + 1) * s - r**2)).free_symbols <= {r, s} and same(
        sp.diff(law, s), r**2 * ((2 * r**2 + 1) * s - r**2) / (r**2 + s) ** 3
    )


def test_eq_dynamic_threshold():
    value, top = sp.symbols("value top", real=True)
    edited = sp.Min(sp.Max(value, -top), top) / top
    for number in (-3, Rational(-1, 2), 0, 1, 5):
        assert edited.subs({value: number, top: 1}) == sp.Min(
            sp.Max(number, -1), 1
        )  # nothing above 1: plain clipping
        assert abs(edited.subs({value: number, top: 2})) <= 1
    assert (
        edited.subs({value: 1, top: 2}) == Rational(1, 2) and edited.subs({value: 3, top: 2}) == 1
    )


def test_eq_mode_shares():
    density, r_1 = two_points(x, a)
    assert same(
        sp.simplify(r_1 * density - w * gauss(x, sqrt(a) * b_1, 1 - a)), 0
    )  # so the integral of r_1 over the law is w
    assert same(sp.integrate(w * gauss(x, sqrt(a) * b_1, v), (x, -oo, oo)), w)


def test_eq_kept_modes():
    # three places: two modes of the class, the second shared with another class
    w_1, w_2, w_3 = sp.symbols("w_1:4", positive=True)
    masses = [w_1, w_2 + w_3]  # density at the two places; the class owns w_1 and w_2
    opinions = [1, w_2 / (w_2 + w_3)]
    tilted = [m * p**s for m, p in zip(masses, opinions)]
    owned = tilted[0], tilted[1] * opinions[1]  # the part of the class's own components
    assert same(owned[0], w_1 * opinions[0] ** s) and same(
        owned[1], w_2 * opinions[1] ** s
    )  # w_k E_k[p^s]
    assert same((owned[0] / sum(owned)).subs(w_3, 0), w_1 / (w_1 + w_2))  # apart: the shares stay


def test_eq_gradient_of_means():
    of_y, of_all = sp.symbols("m_y m", real=True)
    score = lambda mean: (sqrt(a) * mean - x_t) / (1 - a)  # eq-tweedie, solved for the score
    assert same(sp.solve(sp.Eq(mu, (x_t + (1 - a) * g) / sqrt(a)), g)[0], score(mu))
    assert same(score(of_y) - score(of_all), sqrt(a) / (1 - a) * (of_y - of_all))


def test_eq_early_push():
    # data at b_1 and b_2, each a class of its own; h is the root of alpha_bar
    odds = (-((x_t - h * b_1) ** 2) + (x_t - h * b_2) ** 2) / (2 * (1 - h**2))
    slope = sp.diff(-log(1 + (1 - w) / w * exp(-sp.expand(odds))), x_t)
    assert same(sp.simplify(slope / h).subs(h, 0), b_1 - (w * b_1 + (1 - w) * b_2))


lam, step_h, before_h = sp.symbols("lambda h_step h_before", positive=True)


def level(place):
    return 1 / (1 + exp(-2 * place))  # alpha_bar where half the log-SNR is `place`


def test_eq_flow_log_snr():
    # d x_bar = eps d sigma, with sigma = e^-lambda and eps = (x_bar - x_0) / sigma
    sigma = exp(-lam)
    assert same((x - x_0) / sigma * sp.diff(sigma, lam), x_0 - x)
    assert sp.simplify(noise_to_signal(level(lam)) - sigma) == 0


def test_eq_variation_of_constants():
    u, f = sp.symbols("u", positive=True), sp.Function("f")
    path = exp(-lam) * (x + sp.Integral(exp(u) * f(u), (u, 0, lam)))  # from lambda = 0
    assert sp.simplify(sp.diff(path, lam) - (f(lam) - path)) == 0


def test_eq_guided_x0():
    assert same(
        gde.guided_x_0(gde.x_0_from_eps(x_t, eps, a), a, g),
        gde.x_0_from_eps(x_t, gde.guided_eps(eps, a, g), a),
    )


def test_eq_exponential_step():
    noise = gde.eps_from_x_0(x_t, x_0, ab)
    assert same(
        exponential_step(x_t, x_0, ab, ab_prev), sqrt(ab_prev) * x_0 + sqrt(1 - ab_prev) * noise
    )  # DDIM
    u = sp.symbols("u", positive=True)
    by_integral = exp(-step_h) * x + sp.integrate(exp(u - step_h), (u, 0, step_h)) * x_0
    assert same(by_integral, exp(-step_h) * x + (1 - exp(-step_h)) * x_0)


def test_eq_two_m():
    line = sp.interpolate([(-before_h, y), (0, x_0)], x)
    assert same(two_m(x_0, y, step_h, before_h), line.subs(x, step_h / 2))


def test_eq_two_m_error():
    f, f1, f2, u = sp.symbols("f f1 f2 u", real=True)
    curve = lambda u: f + f1 * u + f2 * u**2 / 2
    exact = sp.integrate(exp(u - step_h) * curve(u), (u, 0, step_h))
    error = exact - (1 - exp(-step_h)) * two_m(curve(0), curve(-step_h), step_h, step_h)
    leading = sp.series(sp.nsimplify(error, rational=True).expand(), step_h, 0, 4).removeO()
    assert same(leading, step_h**3 / 12 * (f1 + 5 * f2))


def test_eq_stochastic_flow():
    # Fokker-Planck: the added drift and the added noise cancel for any density
    p, sigma = sp.Function("p")(x), sp.symbols("sigma", positive=True)
    added = (
        -sp.diff(p * sigma**2 * sp.diff(sp.log(p), x), x) + sp.diff(p, x, 2) * (2 * sigma**2) / 2
    )
    assert sp.simplify(added) == 0


def test_eq_stochastic_step():
    u = sp.symbols("u", positive=True)
    variance = sp.integrate(exp(-4 * (step_h - u)) * 2 * exp(-2 * (lam + u)), (u, 0, step_h))
    assert sp.simplify(variance - exp(-2 * (lam + step_h)) * (1 - exp(-2 * step_h))) == 0
    assert same(
        stochastic_step(x_t, x_0, 0, ab, ab_prev), gde.posterior_mean(x_0, x_t, ab, ab_prev)
    )
    assert same(stochastic_step(0, 0, 1, ab, ab_prev) ** 2, gde.posterior_variance(ab, ab_prev))


def test_eq_heun():
    # to second order: for the slope k x + l sigma, one step against the Taylor expansion of the solution
    k, l, sigma, width = sp.symbols("k l sigma width", real=True)
    field = lambda x, sigma: k * x + l * sigma
    ended = heun(x, field(x, sigma), field(x + width * field(x, sigma), sigma + width), width)
    taylor = x + width * field(x, sigma) + width**2 / 2 * (k * field(x, sigma) + l)
    assert same(ended, taylor)


def test_eq_heun_in_x0():
    noise, below, later = sp.symbols("noise below later", positive=True)
    euler = x_0 + below / noise * (x - x_0)
    assert same(
        heun(x, (x - x_0) / noise, (euler - later) / below, below - noise),
        euler + (noise - below) / (2 * below) * (later - x_0),
    )


def test_eq_edm_levels():
    low, high, i, rho = sp.symbols("low high i rho", positive=True)
    levels = (high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    assert same(levels.subs(i, 0), high) and same(levels.subs(i, n - 1), low)
    small = sp.symbols("small", positive=True)  # 1 / rho
    assert (
        sp.simplify(
            sp.limit(sp.log(1 + i / (n - 1) * (exp(small * a) - 1)) / small, small, 0)
            - i / (n - 1) * a
        )
        == 0
    )  # even in the logarithm


def test_eq_quantile_flow():
    # conservation of mass along the flow: dF/dt + velocity * p = 0, so F(x(t), t) does not change
    t, velocity = sp.symbols("t"), sp.Function("v")
    F = sp.Function("F")(x, t)
    flux = -velocity(x, t) * sp.diff(F, x)  # dF/dt, the continuity equation integrated once
    assert sp.simplify(flux + sp.diff(F, x) * velocity(x, t)) == 0
    sigma = sp.symbols("sigma", positive=True)
    x_bar = a * sqrt(
        sigma**2 + r**2
    )  # one Gaussian: x over the standard deviation is kept, and the flow's equation holds
    assert sp.simplify(sp.diff(x_bar, sigma) - sigma * x_bar / (sigma**2 + r**2)) == 0


def test_eq_measurement():
    seen = sp.symbols("seen", real=True)
    assert same(
        sp.expand_log(log(gauss(y, seen, r**2)), force=True)
        - sp.expand_log(log(gauss(0, 0, r**2)), force=True),
        -((seen - y) ** 2) / (2 * r**2),
    )


def test_eq_measured():
    # two pictures, a measurement with two outcomes that looks at x_0 alone: P(y | x_t) is the mean of P(y | x_0) given x_t
    prior, seen_0, seen_1, noisy_0, noisy_1 = sp.symbols(
        "prior seen0 seen1 noisy0 noisy1", positive=True
    )
    joint = [
        prior * noisy_0 * seen_0,
        (1 - prior) * noisy_1 * seen_1,
    ]  # of x_0 = 0, 1 with x_t and y as observed
    marginal = prior * noisy_0 + (1 - prior) * noisy_1
    assert same(
        sum(joint) / marginal,
        prior * noisy_0 / marginal * seen_0 + (1 - prior) * noisy_1 / marginal * seen_1,
    )


def test_eq_x0_guidance():
    loss, estimate = sp.Function("L"), sp.Function("estimate")
    assert (
        sp.simplify(
            sp.diff(-s * loss(estimate(x)), x)
            + s * sp.diff(loss(x_0), x_0).subs(x_0, estimate(x)) * sp.diff(estimate(x), x)
        ).doit()
        == 0
    )


def test_eq_jensen_gap():
    V, d = sp.symbols("V d", positive=True)
    exact = log(r**2 / (r**2 + V)) / 2 + d**2 / 2 * (
        1 / r**2 - 1 / (r**2 + V)
    )  # a Gaussian posterior
    assert same(sp.series(exact, V, 0, 2).removeO(), V / 2 * (d**2 / r**4 - 1 / r**2))
    f = exp(-((x - y) ** 2) / (2 * r**2))
    assert same(sp.diff(f, x, 2) / f, (y - x) ** 2 / r**4 - 1 / r**2)


def test_eq_dps_ratio():
    m, sigma = sp.symbols("m sigma", positive=True)
    estimate = m + sqrt(a) * sigma**2 / (a * sigma**2 + 1 - a) * (x_t - sqrt(a) * m)
    V = (1 - a) * sigma**2 / (a * sigma**2 + 1 - a)
    true, dps = (sp.diff(-((y - estimate) ** 2) / (2 * spread), x_t) for spread in (r**2 + V, r**2))
    assert same(true / dps, r**2 / (r**2 + V))


def test_eq_jacobian_is_variance():
    density, first = two_points(x_t, a)
    mean, square = first * b_1 + (1 - first) * b_2, first * b_1**2 + (1 - first) * b_2**2
    claim = (1 - a) / sqrt(a) * sp.diff(mean, x_t) - (square - mean**2)
    for values in (
        {a: Rational(1, 3), w: Rational(1, 4), b_1: 1, b_2: -2, x_t: Rational(1, 2)},
        {a: Rational(4, 5), w: Rational(1, 2), b_1: 0, b_2: 1, x_t: 2},
    ):
        assert abs(claim.subs(values).evalf(30)) < 1e-20


def test_eq_all_of():
    p, q = sp.symbols("p q", positive=True)
    assert same(exp(-(-log(p) - log(q))), p * q)


def test_eq_any_of():
    p, q = sp.symbols("p q", positive=True)
    assert same(exp(-(-log(exp(log(p)) + exp(log(q))))), p + q)


def test_eq_recurrence():
    k = sp.symbols("k", real=True)
    of = lambda mean, var, k: exp(
        sp.I * k * mean - var * k**2 / 2
    )  # characteristic function of a Gaussian; of a sum, the product
    back = of(sqrt(ab_prev) * b_1, 1 - ab_prev, sqrt(alpha) * k) * of(0, 1, sqrt(1 - alpha) * k)
    assert sp.simplify(back / of(sqrt(ab) * b_1, 1 - ab, k)) == 1


def test_eq_vp_sde():
    # mean factor and variance after a time u with constant rate; and a step of the chain to first order
    rate, u, small = sp.symbols("rate u small", positive=True)
    mean, var = exp(-rate * u / 2), 1 - exp(-rate * u)
    assert (
        same(sp.diff(mean, u), -rate / 2 * mean)
        and same(sp.diff(var, u), -rate * var + rate)
        and same(mean**2, 1 - var)
    )
    assert same(sp.series(sqrt(exp(-rate * small)), small, 0, 2).removeO(), 1 - rate * small / 2)


def test_eq_fokker_planck():
    # the noised Gaussian solves it, the way up (drift -x / 2, rate 1)
    u, var_0 = sp.symbols("u var_0", positive=True)
    p = gauss(x, exp(-u / 2) * mu, exp(-u) * var_0 + 1 - exp(-u))
    residue = sp.diff(p, u) - (sp.diff(x / 2 * p, x) + sp.diff(p, x, 2) / 2)
    assert sp.simplify(residue / p) == 0


def test_eq_reverse_family():
    # any density: the drift of any kappa gives the reversed change
    p, kappa, rate = (
        sp.Function("p")(x),
        sp.symbols("kappa", positive=True),
        sp.symbols("rate", positive=True),
    )
    up = sp.diff(rate * x / 2 * p, x) + rate / 2 * sp.diff(p, x, 2)
    back = -sp.diff(
        reverse_drift(x, sp.diff(log(p), x), rate, kappa) * p, x
    ) + kappa * rate / 2 * sp.diff(p, x, 2)
    assert sp.simplify(up + back) == 0


def test_eq_guided_score():
    assert same(guided_score(eps, a, s * g), gde.score_from_eps(eps, a) + s * g)


def test_eq_linear_path():
    tau = flow_time(a)
    assert same(to_flow(sqrt(a) * x_0 + sqrt(1 - a) * eps, a), (1 - tau) * x_0 + tau * eps)


def test_eq_velocity():
    tau = sp.symbols("tau", positive=True)
    x_tau = (1 - tau) * x_0 + tau * eps
    assert same(velocity_from_eps(x_tau, eps, tau), eps - x_0) and same(
        x_tau - tau * (eps - x_0), x_0
    )


def test_eq_path_change():
    tau = flow_time(a)
    assert (
        same((tau / (1 - tau)) ** 2, (1 - a) / a)
        and same((1 - tau) ** 2 / ((1 - tau) ** 2 + tau**2), a)
        and same(to_flow(x_t, a), x_t * (1 - tau) / sqrt(a))
    )


def test_eq_flow_to_eps():
    velocity = velocity_from_eps(to_flow(x_t, a), eps, flow_time(a))
    assert same(eps_from_flow(x_t, velocity, a), eps)
    assert same(sp.diff(eps_from_flow(x_t, v, a), v), 1 - flow_time(a))


def test_eq_guided_velocity():
    tau, x_tau = sp.symbols("tau x_tau", positive=True)
    assert same(
        guided_velocity(velocity_from_eps(x_tau, eps, tau), tau, s * g),
        velocity_from_eps(x_tau, eps - tau * s * g, tau),
    )
    # and through the diffusion's eps_hat, the gradient in x_t being that in x_tau times the scale
    assert same(
        guided_velocity(
            velocity_from_eps(to_flow(x_t, a), eps, flow_time(a)),
            flow_time(a),
            g * (sqrt(a) + sqrt(1 - a)),
        ),
        velocity_from_eps(to_flow(x_t, a), gde.guided_eps(eps, a, g), flow_time(a)),
    )


def test_eq_euler_is_ddim():
    tau, below, x_tau = sp.symbols("tau below x_tau", positive=True)
    estimate, moved = x_tau - tau * v, x_tau + (below - tau) * v
    assert same(moved, (1 - below) * estimate + below * (estimate + v))
    noise = (x_t - sqrt(ab) * x_0) / sqrt(1 - ab)
    level = flow_time(ab_prev)
    assert same(
        ((1 - level) * x_0 + level * noise) / to_flow(1, ab_prev),
        sqrt(ab_prev) * x_0 + sqrt(1 - ab_prev) * noise,
    )


def test_eq_pushed_law():
    # a cell [z, z + d] under a linear map holds its mass evenly: the share of an interval within its image
    d, slope, low, high = sp.symbols("d slope low high", positive=True)
    density = 1 / d / slope  # of the image, for a start even over the cell
    assert same(sp.integrate(density, (x, low, high)), (high - low) / (slope * d))


def test_eq_map_variation():
    # x = F(z) in the integral of |pushed density - q|, for an increasing F: p(z) / F'(z) is the pushed density
    F, p_T, q = sp.Function("F"), sp.Function("p"), sp.Function("q")
    z = sp.symbols("z", real=True)
    slope = sp.diff(F(z), z)
    assert sp.simplify((p_T(z) / slope - q(F(z))) * slope - (p_T(z) - q(F(z)) * slope)) == 0


def test_eq_sampling_floor():
    sigma = sp.symbols("sigma", positive=True)
    mean_size = 2 * sp.integrate(x * gauss(x, 0, sigma**2), (x, 0, oo))
    assert same(mean_size, sigma * sqrt(2 / pi))
    assert same((mean_size.subs(sigma, sqrt(w * (1 - w) / n))) ** 2, 2 * w * (1 - w) / (pi * n))


def test_eq_tilted_bins():
    low, high, m, var = sp.symbols("low high m var", positive=True)
    Phi = lambda z: (1 + sp.erf(z / sqrt(2))) / 2
    by_integral = sp.integrate(gauss(x, m, var), (x, low, high))
    assert (
        sp.simplify(by_integral - (Phi((high - m) / sqrt(var)) - Phi((low - m) / sqrt(var)))) == 0
    )


def test_eq_utilisation():
    F, R, tau, u = sp.symbols("F R tau u", positive=True)
    ideal = sp.solve(R * tau - F, tau)[0]  # the time in which a machine of rate R has done F
    assert same(ideal / tau, F / (tau * R))
    assert same(
        sp.solve(sp.Eq(u, F / (tau * R)), tau)[0] / ideal, 1 / u
    )  # what is left to be gained


def test_eq_amdahl():
    f, k, tau = sp.symbols("f k tau", positive=True)
    part, rest = f * tau, (1 - f) * tau
    S = tau / (rest + part / k)
    assert same(S, 1 / ((1 - f) + f / k))
    assert (
        same(sp.limit(S, k, oo), 1 / (1 - f))
        and sp.simplify(sp.diff(S, k) - f / (k * (1 - f) + f) ** 2) == 0
    )  # it rises to its bound


def test_eq_guided_cost():
    F_u, F_c, q, N = sp.symbols("F_u F_c q N", positive=True)
    guided, plain = q * N * (F_u + 2 * F_c), (1 - q) * N * F_u
    assert same((guided + plain) / (N * F_u), 1 + q * 2 * F_c / F_u)
    m, n, k = (
        2,
        3,
        2,
    )  # a layer's way back to its input is a product of the same size as its way there
    W, h = sp.Matrix(m, n, sp.symbols(f"w:{m * n}")), sp.Matrix(n, k, sp.symbols(f"h:{n * k}"))
    d = sp.Matrix(m, k, sp.symbols(f"d:{m * k}"))
    loss = sum((W * h)[i] * d[i] for i in range(m * k))
    assert sp.Matrix(n, k, [sp.diff(loss, value) for value in h]) == W.T * d
