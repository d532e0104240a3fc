"""Each labelled equation, by the name of its label, with symbols (SymPy): the algebra of its derivation, holding for all values at once.

The package's own functions take the symbols wherever they are plain arithmetic, so that the formula in the code is the formula that is proven."""
from itertools import product

import sympy as sp
from sympy import Rational, exp, log, oo, pi, sqrt
from sympy.stats import E, Normal, variance

import guided_diffusion_edu as gde
from guided_diffusion_edu.laboratory import ddim_variance, ddpm_variance, target_variance, third_order_shift
from guided_diffusion_edu.samplers import ddim_sigma

alpha, ab_prev, a, c, n, r, v, w = sp.symbols('alpha alpha_bar_prev a c n r v w', positive=True)
ab, beta = alpha * ab_prev, 1 - alpha  # alpha_bar_t and beta_t from alpha_t and alpha_bar_{t-1}
x, x_0, x_t, eps, g, s, y, b_1, b_2, mu, h = sp.symbols('x x_0 x_t epsilon g s y b_1 b_2 mu h', real=True)


def same(left, right):  # the package's 0.5 as one half
    return sp.simplify(sp.nsimplify(left - right, rational=True)) == 0


def gauss(x, mean, var): return exp(-(x - mean) ** 2 / (2 * var)) / sqrt(2 * pi * var)


def two_points(x, level):
    "Data at b_1 (probability w) and b_2, noised to `level`: the density of x, and the probability that x came from b_1."
    parts = w * gauss(x, sqrt(level) * b_1, 1 - level), (1 - w) * gauss(x, sqrt(level) * b_2, 1 - level)
    return sum(parts), parts[0] / sum(parts)


def labelled_table():
    "P(y, x_t, x_{t+1}) of two labels and two states; the noise does not look at the label."
    prior, p_0, p_1, k_0, k_1 = sp.symbols('prior p_0 p_1 k_0 k_1', positive=True)
    two = lambda p: (p, 1 - p)
    joint = {key: two(prior)[key[0]] * two((p_0, p_1)[key[0]])[key[1]] * two((k_0, k_1)[key[1]])[key[2]] for key in product((0, 1), repeat=3)}
    def P(**fixed): return sum(p for (y, x, later), p in joint.items() if all(dict(y=y, x=x, later=later)[name] == value for name, value in fixed.items()))
    return P, (prior, p_0, p_1, k_0, k_1)


# ---- pictures, and the forward process


def test_eq_pixels():
    p = sp.symbols('p')
    sample = p / Rational(255, 2) - 1
    assert sp.solve(sample - x, p) == [sp.expand((x + 1) * Rational(255, 2))]
    assert (sample.subs(p, 0), sample.subs(p, 255)) == (-1, 1) and same(sample.subs(p, p + 1) - sample, Rational(2, 255))


def test_eq_forward_step():
    assert sp.solve((1 - a) * v + a - v, v) == [1]  # variance 1 is kept, and no other is


def test_eq_alpha_bar():
    betas = sp.symbols('beta1:4', positive=True)
    factor = sp.Mul(*(sqrt(1 - b) for b in betas))  # of x_0 in x_3, by three steps
    assert same(factor ** 2, sp.Mul(*(1 - b for b in betas)))


def test_eq_forward_marginal():
    # the induction step: shrink N(sqrt(ab_prev) x_0, 1 - ab_prev) and add noise
    assert same(sqrt(alpha) * sqrt(ab_prev) * x_0, sqrt(ab) * x_0) and same(alpha * (1 - ab_prev) + beta, 1 - ab)


def test_eq_forward_between():
    later = sp.symbols('later', positive=True)
    needed = sp.solve((later / a) * (1 - a) + v - (1 - later), v)  # variance that takes level a to level `later`
    assert len(needed) == 1 and same(needed[0], 1 - later / a)


def test_eq_linear_schedule():
    T, t = sp.symbols('T t', positive=True, integer=True)
    first, last = Rational(1, 10_000), Rational(2, 100)
    betas = 1000 / T * (first + (t - 1) / (T - 1) * (last - first))
    assert same(betas.subs(t, 1), 1000 * first / T) and same(betas.subs(t, T), 20 / T)
    assert same(sp.summation(betas, (t, 1, T)), 500 * (first + last))  # the total is the same for every T


def test_eq_cosine_schedule():
    u = sp.symbols('u', nonnegative=True)
    f = lambda u: sp.cos((u + Rational(8, 1000)) / Rational(1008, 1000) * pi / 2) ** 2
    kept = [f(Rational(t, 4)) / f(Rational(t - 1, 4)) for t in (1, 2, 3)]
    assert same(sp.Mul(*kept), f(Rational(3, 4)) / f(0))  # the betas give the curve back
    assert f(1) == 0 and 1 - f(1) / f(Rational(3, 4)) == 1  # uncapped, the last beta would be 1


def test_eq_betas_from_curve():
    curve = sp.symbols('f_0:4', positive=True)
    left = sp.prod(1 - (1 - later / sooner) for sooner, later in zip(curve, curve[1:]))
    assert same(left, curve[3] / curve[0])


def test_eq_snr():
    ratio = a * 1 / (1 - a)  # variance of the signal over that of the noise
    assert same(1 / (1 + exp(-log(ratio))), a)  # log SNR is the logit of alpha_bar


def test_eq_respaced_betas():
    first, second, third = sp.symbols('first second third', positive=True)
    betas = 1 - first, 1 - second / first, 1 - third / second
    assert same(sp.Mul(*(1 - b for b in betas)), third)  # the product telescopes


# ---- the exact world


def test_eq_mixture():
    p = w * gauss(x, b_1, v) + (1 - w) * gauss(x, b_2, a)
    assert same(sp.integrate(p, (x, -oo, oo)), 1) and same(sp.integrate(sp.expand(x * p), (x, -oo, oo)), w * b_1 + (1 - w) * b_2)


def test_eq_mixture_noised():
    u = sp.symbols('u', real=True)
    z = Normal('z', 0, 1)
    law = lambda mean, var: exp(u * mean + u ** 2 * var / 2)  # moment generating function of a Gaussian
    assert same(E(exp(u * z)), law(0, 1))
    assert same(log(law(sqrt(a) * mu, a * v) * law(0, 1 - a)), log(law(sqrt(a) * mu, a * v + 1 - a)))  # independent sums multiply


def test_eq_mixture_score():
    parts = [w * gauss(x, b_1, v), (1 - w) * gauss(x, b_2, a)]
    pull = [-(x - b_1) / v, -(x - b_2) / a]
    assert same(sp.diff(log(sum(parts)), x), sum(part / sum(parts) * p for part, p in zip(parts, pull)))


def test_eq_class_posterior():
    w_1, w_2, w_3, n_1, n_2, n_3 = sp.symbols('w1:4 n1:4', positive=True)
    joint = {0: w_1 * n_1 + w_2 * n_2, 1: w_3 * n_3}  # p(x, y)
    responsibility = lambda part: part / (w_1 * n_1 + w_2 * n_2 + w_3 * n_3)
    assert same(joint[0] / sum(joint.values()), responsibility(w_1 * n_1) + responsibility(w_2 * n_2))


def test_eq_guided_posterior():
    p, r_1 = two_points(x, a)
    assert same(p * r_1 / w, gauss(x, sqrt(a) * b_1, 1 - a))  # Bayes leaves the components of the class
    assert same(sp.integrate(gauss(x, b_1, v), (x, -oo, oo)), 1)


def test_eq_bayes_score():
    density, opinion = sp.Function('p')(x), sp.Function('q')(x)
    assert same(sp.diff(log(density * opinion / w), x) - sp.diff(log(density), x), sp.diff(log(opinion), x))


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
    exponent = -(x_t - sqrt(alpha) * x) ** 2 / (2 * beta) - (x - sqrt(ab_prev) * x_0) ** 2 / (2 * (1 - ab_prev))
    mode, = sp.solve(sp.diff(exponent, x), x)  # a Gaussian's mode is its mean
    assert same(gde.posterior_mean(x_0, x_t, ab, ab_prev), mode)


def test_eq_eps_to_x0(): assert same(gde.x0_from_eps(sqrt(a) * x_0 + sqrt(1 - a) * eps, eps, a), x_0)


def test_eq_x0_to_eps(): assert same(gde.eps_from_x0(sqrt(a) * x_0 + sqrt(1 - a) * eps, x_0, a), eps)


def test_eq_mean_from_eps():
    through_x_0 = gde.posterior_mean(gde.x0_from_eps(x_t, eps, ab), x_t, ab, ab_prev)
    assert same(gde.mean_from_eps(x_t, eps, ab, ab_prev), through_x_0)


def test_eq_step_tweedie():
    p, r_1 = two_points(x_t, ab)
    by_bayes = sum(share * gde.posterior_mean(b, x_t, ab, ab_prev) for share, b in ((r_1, b_1), (1 - r_1, b_2)))
    assert same(by_bayes, (x_t + beta * sp.diff(log(p), x_t)) / sqrt(alpha))


def test_eq_step_variance():
    # of x_0 given x_t only its being b_1 with probability w matters: second moment minus squared mean
    means = [gde.posterior_mean(b, x_t, ab, ab_prev) for b in (b_1, b_2)]
    small = gde.posterior_variance(ab, ab_prev)
    second = w * (means[0] ** 2 + small) + (1 - w) * (means[1] ** 2 + small)
    of_x_0 = w * (1 - w) * (b_1 - b_2) ** 2
    assert same(second - (w * means[0] + (1 - w) * means[1]) ** 2, small + ab_prev * beta ** 2 / (1 - ab) ** 2 * of_x_0)


def test_eq_learned_variance():
    large, small, out = sp.symbols('large small', positive=True) + (sp.symbols('out', real=True),)
    logs = (out + 1) / 2 * log(large) + (1 - out) / 2 * log(small)
    assert same(logs.subs(out, 1), log(large)) and same(logs.subs(out, -1), log(small)) and sp.diff(logs, out, 2) == 0


def test_eq_vlb():
    marginal, back, model = (sp.symbols(f'{name}1:4', positive=True) for name in ('q', 'r', 'p'))  # q(x_t | x_0), q(x_{t-1} | x_t, x_0), p(x_{t-1} | x_t)
    prior = sp.symbols('prior', positive=True)
    forward = marginal[0] * (back[1] * marginal[1] / marginal[0]) * (back[2] * marginal[2] / marginal[1])  # Bayes' rule in each factor but the first
    total = -log(prior * sp.Mul(*model) / forward)
    terms = log(marginal[2] / prior) + log(back[2] / model[2]) + log(back[1] / model[1]) - log(model[0])
    assert same(sp.expand_log(total), sp.expand_log(terms))


def kl(mean_1, var_1, mean_2, var_2): return (log(var_2 / var_1) - 1 + (var_1 + (mean_1 - mean_2) ** 2) / var_2) / 2


def test_eq_gaussian_kl():
    z = Normal('z', b_1, sqrt(v))
    difference = lambda z: log(sqrt(c) / sqrt(v)) - (z - b_1) ** 2 / (2 * v) + (z - b_2) ** 2 / (2 * c)
    assert same(sp.expand_log(E(difference(z))), sp.expand_log(kl(b_1, v, b_2, c)))


def test_eq_decoder():
    p = sp.symbols('p', integer=True)
    level = lambda p: p / Rational(255, 2) - 1
    assert same(level(p) + Rational(1, 255), level(p + 1) - Rational(1, 255))  # one interval ends where the next begins: the sum telescopes to 1


def test_eq_vlb_weight():
    guess = sp.symbols('guess', real=True)
    means = [gde.mean_from_eps(x_t, e, ab, ab_prev) for e in (eps, guess)]
    assert same(kl(means[0], v, means[1], v), beta ** 2 / (2 * v * alpha * (1 - ab)) * (eps - guess) ** 2)


def test_eq_simple_loss():
    answer = sp.symbols('answer', real=True)
    loss = w * (b_1 - answer) ** 2 + (1 - w) * (b_2 - answer) ** 2  # two noises that could have led here
    best, = sp.solve(sp.diff(loss, answer), answer)
    assert same(best, w * b_1 + (1 - w) * b_2) and same(loss - loss.subs(answer, best), (answer - best) ** 2)


def test_eq_hybrid_loss():
    guess, frozen, out, weight = sp.symbols('guess frozen out lambda', real=True)
    sigma = exp((out + 1) / 2 * log(c) + (1 - out) / 2 * log(a))
    simple, bound = (eps - guess) ** 2, kl(0, a, frozen, sigma)  # the mean in the bound is frozen
    assert same(sp.diff(simple + weight * bound, guess), sp.diff(simple, guess)) and same(sp.diff(simple + weight * bound, out), weight * sp.diff(bound, out))
    assert same(sp.diff(kl(0, a, frozen, v), v).subs(v, a + frozen ** 2), 0)  # the best variance: the posterior's and the error of the mean


def test_eq_v_to_eps():
    c_0, s_0 = sqrt(ab), sqrt(1 - ab)
    assert same(gde.eps_from_v(c_0 * x_0 + s_0 * eps, c_0 * eps - s_0 * x_0, ab), eps)


def test_eq_mean_to_eps():
    assert same(gde.eps_from_mean(x_t, gde.mean_from_eps(x_t, eps, ab, ab_prev), ab, ab_prev), eps)


def test_eq_target_weight():
    o = sp.Symbol('o', real=True)
    wanted = {gde.eps_from_x0: (1 - ab) / ab, gde.eps_from_v: 1 / ab, gde.eps_from_mean: beta ** 2 / (alpha * (1 - ab))}
    for eps_from, weight in wanted.items():
        of_output = sp.diff(eps_from(x_t, o, ab, ab_prev), o)
        assert same(1 / of_output ** 2, weight) and sp.diff(of_output, o) == 0
    snr = ab / (1 - ab)
    assert same(wanted[gde.eps_from_x0], 1 / snr) and same(wanted[gde.eps_from_v], 1 + 1 / snr)


def test_eq_bound_estimate():
    terms = sp.symbols('L_0:4')
    assert same(sum(Rational(1, 4) * (4 * term) for term in terms), sum(terms))


def test_eq_importance():
    terms, p = sp.symbols('L_0:3'), sp.symbols('p_0:3', positive=True)
    assert same(sum(q * term / (3 * q) for q, term in zip(p, terms)), sum(terms) / 3)


def test_eq_second_moment():
    # the Lagrange condition of min sum M_t / p_t under sum p_t = 1, and that it is a minimum
    M, p = sp.symbols('M_0:3', positive=True), sp.symbols('p_0:3', positive=True)
    best = {q: sqrt(m) / sum(map(sqrt, M)) for q, m in zip(p, M)}
    slopes = [sp.diff(sum(m / q for m, q in zip(M, p)), q).subs(best) for q in p]
    assert same(slopes[0], slopes[1]) and same(slopes[1], slopes[2]) and same(sum(best.values()), 1)
    assert all(sp.diff(m / q, q, 2).is_positive for m, q in zip(M, p))


def test_eq_bits_per_dim():
    D = sp.symbols('D', positive=True, integer=True)
    assert same(D * log(256) / (D * log(2)), 8)  # whole numbers without a model


# ---- the Taylor proof


def test_eq_label_blind():
    P, _ = labelled_table()
    for y, x, later in product((0, 1), repeat=3):
        assert same(P(y=y, x=x, later=later) / P(y=y, x=x), P(x=x, later=later) / P(x=x))


def test_eq_guided_product():
    P, _ = labelled_table()
    for y, x, later in product((0, 1), repeat=3):
        conditional = P(y=y, x=x, later=later) / P(y=y, later=later)
        Z = P(later=later) / P(y=y, later=later)
        assert same(conditional, Z * P(x=x, later=later) / P(later=later) * P(y=y, x=x) / P(x=x))


def test_eq_martingale():
    P, _ = labelled_table()
    for y, later in product((0, 1), repeat=2):
        average = sum(P(x=x, later=later) / P(later=later) * P(y=y, x=x) / P(x=x) for x in (0, 1))
        assert same(average, P(y=y, later=later) / P(later=later))


def test_eq_martingale_gap():
    P, symbols = labelled_table()
    values = dict(zip(symbols, map(Rational, ('1/3', '1/5', '3/4', '1/6', '5/7'))))
    now, before = {}, {}
    for y, state in product((0, 1), repeat=2):
        now[y, state], before[y, state] = ((P(y=y, **{name: state}) / P(**{name: state})).subs(values) for name in ('x', 'later'))
    def gap(opinion):  # of a classifier that distorts the exact opinions
        return sum(P(x=x, later=later).subs(values) * (opinion(now, y, x) - opinion(before, y, later)) * opinion(before, y, later) for y, x, later in product((0, 1), repeat=3))
    squared = lambda p, y, state: p[y, state] ** 2 / (p[0, state] ** 2 + p[1, state] ** 2)
    assert gap(lambda p, y, state: p[y, state]) == 0 and gap(squared) < 0  # exact and overconfident, in fractions


def test_eq_taylor():
    w_1, w_2, m_1, m_2, h_1, h_2 = sp.symbols('w1:3 m1:3 h1:3', real=True)
    log_p = lambda x_1, x_2: -log(1 + exp(-w_1 * x_1 - w_2 * x_2))  # a logistic classifier in the plane
    gradient = [sp.diff(log_p(m_1, m_2), m) for m in (m_1, m_2)]
    along = log_p(m_1 + s * h_1, m_2 + s * h_2)
    assert same(sp.diff(along, s).subs(s, 0), h_1 * gradient[0] + h_2 * gradient[1])  # an inner product
    hessian = sp.hessian(log_p(m_1, m_2), (m_1, m_2))
    assert same(sp.diff(along, s, 2).subs(s, 0), (sp.Matrix([[h_1, h_2]]) * hessian * sp.Matrix([h_1, h_2]))[0])  # the first term left out


def completed_square():
    d, grad = sp.Matrix(sp.symbols('d1 d2', real=True)), sp.Matrix(sp.symbols('g1 g2', real=True))
    p_1, p_2, p_3 = sp.symbols('p1:4', positive=True)
    return d, grad, sp.Matrix([[p_1, p_2], [p_2, p_3]])


def test_eq_complete_square():
    d, grad, Sigma = completed_square()
    square = lambda u: (-u.T * Sigma.inv() * u / 2)[0]
    C_3_minus_C_2 = (grad.T * Sigma * grad / 2)[0]
    assert same(square(d) + (d.T * grad)[0], square(d - Sigma * grad) + C_3_minus_C_2)
    assert not same(square(d) + (d.T * grad)[0], square(d - grad) + C_3_minus_C_2)  # a shift by g is not it


def test_eq_mean_shift():
    log_product = -(x - mu) ** 2 / (2 * v) + (x - mu) * g
    mode = sp.solve(sp.diff(log_product, x), x)
    assert mode == [sp.expand(gde.guided_mean(mu, v, g))] and same(sp.diff(log_product, x, 2), -1 / v)


def test_eq_hessian_step():
    d, grad, P = completed_square()  # P in the place of the precision minus the Hessian
    left = -(d.T * P * d)[0] / 2 + (d.T * grad)[0]
    rest = d - P.inv() * grad
    assert same(left, -(rest.T * P * rest)[0] / 2 + (grad.T * P.inv() * grad)[0] / 2)
    H = sp.symbols('H', negative=True)
    exponent = -(x - mu) ** 2 / (2 * v) + g * (x - mu) + H * (x - mu) ** 2 / 2
    mode, = sp.solve(sp.diff(exponent, x), x)
    assert same(mode, mu + g / (1 / v - H)) and same(-1 / sp.diff(exponent, x, 2), 1 / (1 / v - H))


def test_eq_error_law():
    z, sigma, H, T = sp.symbols('z sigma H T', positive=True)
    density = exp(-z ** 2 / 2) / sqrt(2 * pi)
    mean = lambda f, low=0: 2 * sp.integrate(sp.expand(f * density), (z, low, oo))  # of an even function
    deviations = mean(z), 2 * mean(z ** 2 - 1, 1), mean(z ** 3)  # E|z|; E|z^2 - 1|, whose two halves are equal; E|z|^3
    assert same(mean(z ** 2 - 1), 0)
    spreads = mean(z ** 2), mean(z ** 4) - mean(z ** 2) ** 2, mean(z ** 6)
    sizes = sigma * g, sigma ** 2 * H / 2, sigma ** 3 * T / 6
    tv = sigma * g / sqrt(2 * pi), sigma ** 2 * H / sqrt(2 * pi * sp.E), sigma ** 3 * T / (3 * sqrt(2 * pi))
    divergence = sigma ** 2 * g ** 2 / 2, sigma ** 4 * H ** 2 / 4, 5 * sigma ** 6 * T ** 2 / 24
    assert all(same(size * deviation / 2, wanted) for size, deviation, wanted in zip(sizes, deviations, tv))
    assert all(same(size ** 2 * spread / 2, wanted) for size, spread, wanted in zip(sizes, spreads, divergence))


def test_eq_scaled_shift():
    opinion = sp.Function('p', positive=True)(x)
    assert same(sp.diff(log(opinion ** s / w), x), s * sp.diff(log(opinion), x))  # a power, over a constant
    log_product = -(x - mu) ** 2 / (2 * v) + s * (x - mu) * g
    assert same(sp.solve(sp.diff(log_product, x), x)[0], gde.guided_mean(mu, v, s * g))


# ---- the score identity and DDIM


def test_eq_score_eps():
    log_density = sp.expand_log(log(gauss(x, sqrt(a) * x_0, 1 - a)), force=True)
    assert same(sp.diff(log_density, x).subs(x, sqrt(a) * x_0 + sqrt(1 - a) * eps), gde.score_from_eps(eps, a))


def test_eq_eps_hat():
    score = gde.score_from_eps(eps, a) + s * g
    assert same(gde.guided_eps(eps, a, s * g), -sqrt(1 - a) * score)


def test_eq_exact_shift():
    p, r_1 = two_points(x_t, ab)  # each point a class of its own
    of_class, of_other = (gde.posterior_mean(b, x_t, ab, ab_prev) for b in (b_1, b_2))
    assert same(of_class - (r_1 * of_class + (1 - r_1) * of_other), beta / sqrt(alpha) * sp.diff(log(r_1), x_t))
    moved = gde.mean_from_eps(x_t, gde.guided_eps(eps, ab, g), ab, ab_prev) - gde.mean_from_eps(x_t, eps, ab, ab_prev)
    assert same(moved, beta / sqrt(alpha) * g)


def test_eq_shift_ratio():
    ratio = gde.posterior_variance(ab, ab_prev) / (beta / sqrt(alpha))
    assert same(ratio, sqrt(alpha) * (1 - ab_prev) / (1 - ab))


def ddim_step(e, sigma=0, z=0):
    return sqrt(ab_prev) * gde.x0_from_eps(x_t, e, ab) + sqrt(1 - ab_prev - sigma ** 2) * e + sigma * z


def test_eq_ddim_family():
    sigma = sp.symbols('sigma', positive=True)
    noise = gde.eps_from_x0(sqrt(ab) * x_0 + sqrt(1 - ab) * eps, x_0, ab)
    assert same(noise, eps)  # the fraction is the noise in x_t
    kept = sp.diff(sqrt(1 - ab_prev - sigma ** 2) * noise, eps)
    assert same(kept ** 2 + sigma ** 2, 1 - ab_prev)  # and its share with the fresh noise makes up the marginal


def test_eq_ddim_step():
    exact = gde.eps_from_x0(x_t, x_0, ab)
    family = sqrt(ab_prev) * x_0 + sqrt(1 - ab_prev) * exact
    assert same(ddim_step(exact), family)


def test_eq_ddim_sigma():
    assert same(ddim_sigma(ab, ab_prev, 1) ** 2, gde.posterior_variance(ab, ab_prev))
    assert same((1 - ab_prev - gde.posterior_variance(ab, ab_prev)), alpha * (1 - ab_prev) ** 2 / (1 - ab))  # so the root is sqrt(alpha) (1 - ab_prev) / sqrt(1 - ab)
    root = sqrt(alpha) * (1 - ab_prev) / sqrt(1 - ab)
    assert same(sqrt(ab_prev) * x_0 + root * gde.eps_from_x0(x_t, x_0, ab), gde.posterior_mean(x_0, x_t, ab, ab_prev))  # eta = 1 is DDPM


def test_eq_ddim_shift():
    sigma = sp.symbols('sigma', positive=True)
    moved = ddim_step(gde.guided_eps(eps, ab, g), sigma) - ddim_step(eps, sigma)
    assert same(moved, sqrt(1 - ab) * (sqrt((1 - ab) / alpha) - sqrt(1 - ab_prev - sigma ** 2)) * g)
    short = sqrt(v) * (sqrt(v / (1 - h)) - sqrt(1 - (1 - v) / (1 - h)))  # of level 1 - v, by beta = h
    assert same(sp.limit(sp.diff(short, h), h, 0), Rational(1, 2))


def test_eq_flow():
    relative = lambda level: sqrt(1 - level) / sqrt(level)
    assert same(ddim_step(eps) / sqrt(ab_prev), x_t / sqrt(ab) + (relative(ab_prev) - relative(ab)) * eps)


def test_eq_ddim_inversion():
    down = sp.Eq(ddim_step(eps), x)
    up, = sp.solve(down, x_t)  # the same eps: the way back undoes the step
    relative = lambda level: sqrt(1 - level) / sqrt(level)
    assert same(up / sqrt(ab), x / sqrt(ab_prev) + (relative(ab) - relative(ab_prev)) * eps)


# ---- the whole chain, and the scale


def test_eq_chain_law():
    P, _ = labelled_table()
    for y, x in product((0, 1), repeat=2):  # the exact guided kernel carries q(x_{t+1} | y) to q(x_t | y)
        carried = sum(P(y=y, x=x, later=later) / P(y=y, later=later) * P(y=y, later=later) / P(y=y) for later in (0, 1))
        assert same(carried, P(y=y, x=x) / P(y=y))


def test_eq_total_variation():
    p, q = ([Rational(k, 20) for k in law] for law in ((3, 10, 2, 5), (6, 1, 9, 4)))
    best = max(abs(sum(chosen * (u - t) for chosen, u, t in zip(event, p, q))) for event in product((0, 1), repeat=4))
    assert best == sum(abs(u - t) for u, t in zip(p, q)) / 2


def test_eq_tilted_kernel():
    normaliser = sp.integrate(gauss(x, 0, v) * exp(g * x), (x, -oo, oo))
    tilted = gauss(x, 0, v) * exp(g * x) / normaliser
    assert same(normaliser, exp(v * g ** 2 / 2)) and same(sp.simplify(tilted / gauss(x, v * g, v)), 1)


def test_eq_tilted_target():
    c_1, c_2 = sp.symbols('c_1 c_2', positive=True)  # p(y | x_0) at two places, of probabilities w and 1 - w given x_t
    noised_power, power_of_noised = w * c_1 ** 2 + (1 - w) * c_2 ** 2, (w * c_1 + (1 - w) * c_2) ** 2
    assert same(noised_power - power_of_noised, w * (1 - w) * (c_1 - c_2) ** 2)  # at s = 2 they differ by a variance
    density, opinion = sp.Function('p', positive=True)(x), sp.Function('q', positive=True)(x)
    assert same(sp.diff(log(density * opinion ** s / w), x), sp.diff(log(density), x) + s * sp.diff(log(opinion), x))


def lab_g(x, level): return sqrt(level) * (y - sqrt(level) * x) / (1 - level + r ** 2)


def test_eq_lab_gradient():
    # (x_0, x_t) is Gaussian with variances 1 and covariance sqrt(a): x_0 given x_t has mean sqrt(a) x_t and variance 1 - a; the measurement adds r^2
    mean, var = sqrt(a) * x, 1 - sqrt(a) ** 2 + r ** 2
    log_density = -(y - mean) ** 2 / (2 * var)
    assert same(sp.diff(log_density, x), lab_g(x, a))


def test_eq_lab_recursion():
    k_1, k_2, k_3 = sp.symbols('k1:4', real=True)
    X, Z = Normal('X', mu, sqrt(v)), Normal('Z', 0, 1)
    step = k_1 * X + k_2 + k_3 * Z
    assert same(E(step), k_1 * mu + k_2) and same(sp.simplify(variance(step)), k_1 ** 2 * v + k_3 ** 2)


def test_eq_matched_variance():
    # two points noised: the step's variance is the mean of the variances plus the variance of the means
    p, r_1 = two_points(x_t, ab)
    m_1, m_2 = (gde.posterior_mean(b, x_t, ab, ab_prev) for b in (b_1, b_2))
    by_parts = gde.posterior_variance(ab, ab_prev) + r_1 * (1 - r_1) * (m_1 - m_2) ** 2
    assert same(by_parts, beta / alpha * (1 + beta * sp.diff(log(p), x_t, 2)))
    mean = r_1 * m_1 + (1 - r_1) * m_2
    assert same(by_parts, beta / sqrt(alpha) * sp.diff(mean, x_t))


def test_eq_guided_variance():
    # the class is the first point: given it, the step's variance is that of the posterior
    p, r_1 = two_points(x_t, ab)
    free = beta / alpha * (1 + beta * sp.diff(log(p), x_t, 2))
    assert same(gde.posterior_variance(ab, ab_prev) - free, beta ** 2 / alpha * sp.diff(log(r_1), x_t, 2))


def test_eq_third_order_shift():
    # moments of e^l to the fourth order in sigma, l = g d + H d^2 / 2 + T d^3 / 6, d = sigma z
    g_, H, T, sigma, z = sp.symbols('g H T sigma z')
    d = sigma * z
    tilt = sp.series(exp(g_ * d + H * d ** 2 / 2 + T * d ** 3 / 6), sigma, 0, 5).removeO()
    normal = {1: 0, 2: 1, 3: 0, 4: 3, 5: 0, 6: 15, 8: 105}
    def mean(poly): return sum(c * (1 if k == 0 else normal.get(k, 0)) for (k,), c in sp.Poly(sp.expand(poly), z).terms())
    ratio = sp.series(mean(d * tilt) / mean(tilt), sigma, 0, 5).removeO()
    assert same(ratio, third_order_shift(sigma ** 2, g_, H, T))


def test_eq_law_target():
    exponent = -x ** 2 / 2 - s * (y - x) ** 2 / (2 * r ** 2)
    assert same(-1 / sp.diff(exponent, x, 2), target_variance(r, s)) and same(sp.solve(sp.diff(exponent, x), x)[0], s * y / (r ** 2 + s))


def test_eq_law_ddpm():
    u, level = sp.symbols('u level', positive=True)
    for scale in map(Rational, ('1', '2', '1/4', '3')):
        antiderivative = (1 + r ** 2 - level) ** (1 - 2 * scale) / (2 * scale - 1)
        V = (antiderivative - antiderivative.subs(level, 0)) / (level * (1 + r ** 2 - level) ** (-2 * scale))
        assert same(sp.diff(V, level), (1 - V) / level - 2 * scale * V / (1 + r ** 2 - level))  # the equation of the limit
        assert same(sp.limit(V, level, 0), 1) and same(V.subs(level, 1), ddpm_variance(r, scale))
    assert abs(ddpm_variance(1, 0.5) - float(sp.limit((1 - 2 ** (1 - 2 * s)) / (2 * s - 1), s, Rational(1, 2)))) < 1e-12  # the one scale without a power


def test_eq_law_ddim():
    level = sp.symbols('level', positive=True)
    V = ((1 + r ** 2 - level) / (1 + r ** 2)) ** s
    assert same(sp.diff(V, level), -s * V / (1 + r ** 2 - level)) and V.subs(level, 0) == 1 and same(V.subs(level, 1), ddim_variance(r, s))


def test_eq_place_error():
    curvature = ab_prev / (1 - ab_prev + r ** 2)
    exact = beta / sqrt(alpha) * lab_g(x_t, ab)
    tilted = beta / (1 + beta * curvature) * lab_g(sqrt(alpha) * x_t, ab_prev)
    assert same(exact, tilted)  # two theorems, one shift
    assert same(beta * lab_g(sqrt(alpha) * x_t, ab_prev) / exact, 1 + beta * curvature) and same(beta * lab_g(x_t, ab) / exact, sqrt(alpha))


# ---- networks and training


def test_eq_timestep_embedding():
    omega, t, k = sp.symbols('omega t k', real=True)
    turn = sp.Matrix([[sp.cos(omega * k), -sp.sin(omega * k)], [sp.sin(omega * k), sp.cos(omega * k)]])
    wave = lambda t: sp.Matrix([sp.cos(omega * t), sp.sin(omega * t)])
    assert sp.simplify(turn * wave(t) - wave(t + k)) == sp.zeros(2, 1)  # k steps later is a rotation that does not depend on t


def normalised(values, epsilon=0):
    mean = sum(values) / len(values)
    var = sum((value - mean) ** 2 for value in values) / len(values)
    return [(value - mean) / sqrt(var + epsilon) for value in values]


def test_eq_group_norm():
    values = sp.symbols('h1:4', real=True)
    epsilon = sp.symbols('varepsilon', positive=True)
    assert all(same(before, after) for before, after in zip(normalised(values, epsilon), normalised([value + mu for value in values], epsilon)))
    assert all(same(before, after) for before, after in zip(normalised(values), normalised([c * value for value in values])))


def test_eq_added_norm():
    h, e, epsilon = sp.symbols('h1:4', real=True), sp.symbols('e1:4', real=True), sp.symbols('varepsilon', positive=True)
    mean = lambda values: sum(values) / len(values)
    centred = [[value - mean(values) for value in values] for values in (h, e)]
    cov = lambda a, b: mean([x * z for x, z in zip(a, b)])
    v = cov(centred[0], centred[0]) + 2 * cov(*centred) + cov(centred[1], centred[1])
    added = [sum(pair) for pair in zip(h, e)]
    for i, value in enumerate(normalised(added, epsilon)): assert same(value ** 2, ((centred[0][i] + centred[1][i]) / sqrt(v + epsilon)) ** 2)
    assert same(mean([value ** 2 for value in normalised(added, epsilon)]), v / (v + epsilon))  # no gain, whatever e
    assert same(mean(normalised(added, epsilon)), 0)


def test_eq_res_block():
    w_1, w_2, target = sp.symbols('w_1 w_2 target', real=True)
    block = x + w_2 * sp.tanh(w_1 * x)  # one channel, one pixel; any smooth function in the middle
    loss = (block - target) ** 2
    fresh = {w_2: 0}
    assert block.subs(fresh) == x and sp.diff(block, x).subs(fresh) == 1
    assert sp.diff(loss, w_1).subs(fresh) == 0 and same(sp.diff(loss, w_2).subs(fresh), 2 * (x - target) * sp.tanh(w_1 * x))
    two_zeros = {w_1: 0, w_2: 0}
    assert sp.diff(loss, w_1).subs(two_zeros) == 0 == sp.diff(loss, w_2).subs(two_zeros)


def test_eq_head_order():
    H, d = 2, 3
    place = lambda j, n, i: (j * H + n) * d + i  # with the queries first
    source = {place(j, n, i): (3 * n + j) * d + i for j in range(3) for n in range(H) for i in range(d)}
    P = sp.Matrix(3 * H * d, 3 * H * d, lambda row, column: int(source[row] == column))
    assert P * P.T == sp.eye(3 * H * d)  # no row lost, none doubled
    rows = sp.Matrix(sp.symbols(f'r:{3 * H * d}'))
    q, k = (P * rows)[:H * d], (P * rows)[H * d:2 * H * d]
    by_head = [rows[n * 3 * d:(n + 1) * 3 * d] for n in range(H)]
    for n in range(H): assert sum(a * b for a, b in zip(q[n * d:(n + 1) * d], k[n * d:(n + 1) * d])) == sum(a * b for a, b in zip(by_head[n][:d], by_head[n][d:2 * d]))


def test_eq_attention_pool():
    h, p, logit = sp.symbols('h1:4', real=True), sp.symbols('p0:4', real=True), sp.symbols('l', real=True)
    tokens = [sum(h) / 3 + p[0], *(a + b for a, b in zip(h, p[1:]))]
    weights = [exp(logit) / (4 * exp(logit))] * 4  # keys all alike
    assert same(sum(weight * token for weight, token in zip(weights, tokens)), sum(h) / 3 + sum(p) / 4)  # the average, and that of the positions


def test_eq_adagn():
    scale, shift, gain, bias, normal = sp.symbols('scale shift gamma b normal', real=True)
    assert same((1 + scale) * (gain * normal + bias) + shift, gain * (1 + scale) * normal + (bias * (1 + scale) + shift))


def test_eq_attention():
    logits, values = sp.symbols('l1:4', real=True), sp.symbols('v1:4', real=True)
    attend = lambda logits: sum(exp(l) * value for l, value in zip(logits, values)) / sum(exp(l) for l in logits)
    assert same(attend([l + mu for l in logits]), attend(logits)) and same(sum(sp.diff(attend(logits), value) for value in values), 1)
    q, k = Normal('q', 0, 1), Normal('k', 0, 1)
    assert same(n * variance(q * k) / sqrt(n) ** 2, 1)  # a sum of n products, over sqrt(n), has variance 1


def test_eq_noisy_cross_entropy():
    answer = sp.symbols('answer', positive=True)
    loss = -w * log(answer) - (1 - w) * log(1 - answer)  # w is the true probability
    assert sp.solve(sp.diff(loss, answer), answer) == [w] and same(sp.diff(loss, answer, 2).subs(answer, w), 1 / (w * (1 - w)))


def test_eq_ema():
    theta = sp.symbols('theta0:4')
    value = theta[0]
    for new in theta[1:]: value = a * value + (1 - a) * new
    assert same(value, a ** 3 * theta[0] + (1 - a) * sum(a ** (3 - i) * theta[i] for i in (1, 2, 3)))


def test_eq_shares():
    theta, losses = sp.symbols('theta'), [sp.Function(f'loss_{i}')(sp.symbols('theta')) for i in range(6)]
    B, K = 6, 3
    whole = sp.diff(sum(losses) / B, theta)
    parts = [sp.diff(Rational(K, B) * sum(losses[k::K]), theta) for k in range(K)]
    assert same(whole, sum(parts) / K)
    unequal = (sp.diff(losses[0], theta) + sp.diff(sum(losses[1:]) / 5, theta)) / 2
    assert not same(whole, unequal)


def test_eq_clip():
    p, q = sp.symbols('p q', real=True)
    length = sqrt(p ** 2 + q ** 2)
    cut = [e * sp.Min(1, c / length) for e in (p, q)]
    def at(e, *numbers): return e.subs(dict(zip((p, q, c), numbers)))
    assert [at(e, 3, 4, 1) for e in cut] == [Rational(3, 5), Rational(4, 5)] and [at(e, 3, 4, 9) for e in cut] == [3, 4]
    assert same(cut[0] * q - cut[1] * p, 0)  # its direction stays
    assert same(sqrt((p * c / length) ** 2 + (q * c / length) ** 2), c)  # and its length is c where it is cut


def test_eq_share_error():
    of_one = (w * 1 ** 2 + (1 - w) * 0) - w ** 2  # a right-or-wrong
    assert same(sqrt(n * of_one / n ** 2), sqrt(w * (1 - w) / n))
