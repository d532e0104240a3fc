/* The book's mathematics for the pages under "Play": no drawing here. Names are the chapters'; arrays of points are flat,
   (x, y) after (x, y). tests/site/test_play.py holds every function to the package. */
"use strict";
var gde = {packed: {}};

/* ---- chance ---- */

gde.random = function (seed) {  // mulberry32, and Box and Muller's normals
  let state = seed >>> 0, spare = null;
  function uniform() {
    state = (state + 0x6D2B79F5) >>> 0;
    let z = Math.imul(state ^ (state >>> 15), state | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return ((z ^ (z >>> 14)) >>> 0) / 4294967296;
  }
  function normal() {
    if (spare !== null) { const z = spare; spare = null; return z; }
    const radius = Math.sqrt(-2 * Math.log(1 - uniform())), angle = 2 * Math.PI * uniform();
    spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  }
  return {uniform, normal};
};

/* ---- the schedule: chapter 1 ---- */

gde.linearSchedule = function (T = 1000) {  // eq-linear-schedule
  const alphaBars = new Float64Array(T);
  let product = 1;
  for (let t = 0; t < T; t++) {
    const beta = (1e-4 + (0.02 - 1e-4) * t / (T - 1)) * 1000 / T;
    alphaBars[t] = product *= 1 - beta;
  }
  return {alphaBars, timesteps: Array.from(alphaBars.keys())};
};

gde.respace = function (schedule, count) {  // eq-respaced-betas: `count` steps, both ends kept
  const stride = (schedule.alphaBars.length - 1) / (count - 1), kept = [];
  for (let i = 0, place = 0; i < count; i++, place += stride) {
    const below = Math.floor(place), half = place - below === 0.5;  // halves go to the even neighbour
    kept.push(half ? below + below % 2 : Math.round(place));
  }
  return {alphaBars: Float64Array.from(kept, t => schedule.alphaBars[t]), timesteps: kept.map(t => schedule.timesteps[t])};
};

/* ---- the exact world: chapter 2 ---- */

gde.fourCorners = function () {
  const component = (x, y, label) => ({mean: [x, y], axis: [1, 0], variances: [0.0484, 0.0484], weight: 0.25, label});
  return [component(0.7, 0.7, 0), component(-0.7, -0.7, 0), component(0.7, -0.7, 1), component(-0.7, 0.7, 1)];
};

gde.twoTrees = function (depth = 5) {
  function branches(x, y, angle, length, depth) {
    const end = [x + length * Math.cos(angle), y + length * Math.sin(angle)];
    const twigs = depth ? [0.55, -0.42].flatMap(turn => branches(...end, angle + turn, 0.74 * length, depth - 1)) : [];
    return [{mean: [(x + end[0]) / 2, (y + end[1]) / 2], axis: [Math.cos(angle), Math.sin(angle)], length}, ...twigs];
  }
  const tree = branches(0.62, -1, 1.72, 0.62, depth), total = 2 * tree.reduce((sum, b) => sum + b.length, 0);
  return [1, -1].flatMap(sign => tree.map(b => ({
    mean: [sign * b.mean[0], sign * b.mean[1]], axis: [sign * b.axis[0], sign * b.axis[1]],
    variances: [b.length ** 2 / 12, (0.05 * b.length) ** 2], weight: b.length / total, label: sign > 0 ? 0 : 1})));
};

/* At each of the points `x`: the score of p_t, the gradient of log p(y | x_t), and p(y | x_t).
   eq-mixture-noised, eq-mixture-score, eq-bayes-score, eq-class-posterior. */
gde.exact = function (world, alphaBar, x, y) {
  const n = x.length / 2, K = world.length, root = Math.sqrt(alphaBar);
  const score = new Float64Array(2 * n), gradient = new Float64Array(2 * n), posterior = new Float64Array(n);
  const logs = new Float64Array(K), pullX = new Float64Array(K), pullY = new Float64Array(K);
  const parts = world.map(({mean, axis, variances, weight, label}) => {
    const [along, across] = variances.map(v => alphaBar * v + 1 - alphaBar);
    return {mx: root * mean[0], my: root * mean[1], ux: axis[0], uy: axis[1], along: 1 / along, across: 1 / across,
            log: Math.log(weight) - 0.5 * Math.log(4 * Math.PI ** 2 * along * across), wanted: label === y};
  });
  for (let i = 0; i < n; i++) {
    let most = -Infinity, mostWanted = -Infinity;
    for (let k = 0; k < K; k++) {
      const p = parts[k], dx = x[2 * i] - p.mx, dy = x[2 * i + 1] - p.my;
      const a = p.ux * dx + p.uy * dy, b = p.ux * dy - p.uy * dx, pa = -a * p.along, pb = -b * p.across;
      pullX[k] = p.ux * pa - p.uy * pb;
      pullY[k] = p.uy * pa + p.ux * pb;
      const log = logs[k] = p.log + 0.5 * (a * pa + b * pb);
      if (log > most) most = log;
      if (p.wanted && log > mostWanted) mostWanted = log;
    }
    let all = 0, allX = 0, allY = 0, some = 0, someX = 0, someY = 0;
    for (let k = 0; k < K; k++) {
      const w = Math.exp(logs[k] - most);
      all += w, allX += w * pullX[k], allY += w * pullY[k];
      if (parts[k].wanted) {
        const v = Math.exp(logs[k] - mostWanted);
        some += v, someX += v * pullX[k], someY += v * pullY[k];
      }
    }
    score[2 * i] = allX / all, score[2 * i + 1] = allY / all;
    gradient[2 * i] = someX / some - score[2 * i], gradient[2 * i + 1] = someY / some - score[2 * i + 1];
    posterior[i] = Math.exp(mostWanted - most) * some / all;
  }
  return {score, gradient, posterior};
};

/* The density of each class, p(x, y), at the centres of a `side` x `side` grid over [-reach, reach]^2, rows from low y. */
gde.classDensities = function (world, side, reach) {
  const cell = 2 * reach / side, densities = [new Float64Array(side * side), new Float64Array(side * side)];
  const index = place => Math.floor((place + reach) / cell);
  for (const {mean, axis: [ux, uy], variances: [along, across], weight, label} of world) {
    const span = 8 * Math.sqrt(Math.max(along, across)), height = weight / (2 * Math.PI * Math.sqrt(along * across));
    const [left, right] = [-1, 1].map(s => Math.min(side, Math.max(0, index(mean[0] + s * span) + (s > 0))));
    const [low, high] = [-1, 1].map(s => Math.min(side, Math.max(0, index(mean[1] + s * span) + (s > 0))));
    for (let row = low; row < high; row++) for (let column = left; column < right; column++) {
      const dx = (column + 0.5) * cell - reach - mean[0], dy = (row + 0.5) * cell - reach - mean[1];
      const a = ux * dx + uy * dy, b = ux * dy - uy * dx, square = a * a / along + b * b / across;
      if (square < 80) densities[label][row * side + column] += height * Math.exp(-square / 2);
    }
  }
  return densities;
};

/* p(x) p(y | x)^s, made to sum to 1 over the grid; and how much of it lies where y is the likelier class. */
gde.tiltedTarget = function (densities, y, s) {
  const wanted = densities[y], other = densities[1 - y], target = new Float64Array(wanted.length);
  let total = 0, right = 0;
  for (let i = 0; i < target.length; i++) {
    const p = wanted[i] + other[i];
    if (p === 0 || (wanted[i] === 0 && s > 0)) continue;
    target[i] = p * Math.pow(wanted[i] / p, s);
    total += target[i];
    if (wanted[i] > other[i]) right += target[i];
  }
  for (let i = 0; i < target.length; i++) target[i] /= total;
  return {target, right: right / total};
};

/* The same, summed to `cells` x `cells` larger cells. */
gde.coarser = function (target, cells) {
  const side = Math.sqrt(target.length), block = side / cells, sums = new Float64Array(cells * cells);
  for (let i = 0; i < target.length; i++)
    sums[Math.floor(Math.floor(i / side) / block) * cells + Math.floor((i % side) / block)] += target[i];
  return sums;
};

/* Total variation between the points' histogram and `cells`; what is off the grid counts as a cell of its own. */
gde.totalVariation = function (x, cells, reach) {
  const side = Math.sqrt(cells.length), n = x.length / 2, share = new Float64Array(cells.length);
  let sum = 0;
  for (let i = 0; i < n; i++) {
    const column = Math.floor((x[2 * i] + reach) * side / (2 * reach)), row = Math.floor((x[2 * i + 1] + reach) * side / (2 * reach));
    if (column >= 0 && column < side && row >= 0 && row < side) share[row * side + column] += 1 / n;
    else sum += 1 / n;
  }
  for (let i = 0; i < cells.length; i++) sum += Math.abs(share[i] - cells[i]);
  return sum / 2;
};

/* What `totalVariation` would be on average for n exact samples: the mean of `times` draws. */
gde.noiseFloor = function (cells, n, random, times = 8) {
  const upTo = new Float64Array(cells.length);
  cells.forEach((p, i) => { upTo[i] = p + (i ? upTo[i - 1] : 0); });
  let total = 0;
  for (let time = 0; time < times; time++) {
    const share = new Float64Array(cells.length);
    for (let i = 0; i < n; i++) {
      const u = random.uniform() * upTo[cells.length - 1];
      let low = 0, high = cells.length - 1;
      while (low < high) { const middle = (low + high) >> 1; if (upTo[middle] > u) high = middle; else low = middle + 1; }
      share[low] += 1 / n;
    }
    for (let i = 0; i < cells.length; i++) total += Math.abs(share[i] - cells[i]) / 2;
  }
  return total / times;
};

/* ---- the samplers: chapter 5 ----
   One step each, from index i of `steps` to the level below, as a generator: it yields questions {x, i} and wants to be sent
   {eps, gradient}, the gradient with its scale; it returns the next x and the model's own estimate of x_0. Who answers, the
   exact world at once or a network later, is not its affair. */

function levels(steps, i) { return [steps.alphaBars[i], i > 0 ? steps.alphaBars[i - 1] : 1]; }

function estimate(x, eps, alphaBar, clip) {
  return x.map((value, j) => {
    const x0 = (value - Math.sqrt(1 - alphaBar) * eps[j]) / Math.sqrt(alphaBar);
    return clip ? Math.min(1, Math.max(-1, x0)) : x0;
  });
}

function ddpm(atMean) {
  return function* (x, i, {steps, normal, clip = false}) {
    const [alphaBar, below] = levels(steps, i), beta = 1 - alphaBar / below;
    let {eps, gradient} = yield {x, i};
    const x0 = estimate(x, eps, alphaBar, clip), variance = beta * (1 - below) / (1 - alphaBar);
    const fromX0 = Math.sqrt(below) * beta / (1 - alphaBar), fromX = Math.sqrt(1 - beta) * (1 - below) / (1 - alphaBar);
    const mean = x.map((value, j) => fromX0 * x0[j] + fromX * value);  // eq-posterior-mean
    if (atMean && i > 0) ({gradient} = yield {x: mean, i: i - 1});
    if (i === 0) return {x: mean, x0};  // the small variance is 0 there: no shift and no noise
    return {x: mean.map((m, j) => m + variance * gradient[j] + Math.sqrt(variance) * normal()), x0};  // eq-scaled-shift
  };
}

gde.samplers = {
  ddpm: ddpm(false),
  ddpmMean: ddpm(true),
  *ddim(x, i, {steps, normal, eta = 0, clip = false}) {
    const [alphaBar, below] = levels(steps, i), beta = 1 - alphaBar / below;
    const {eps, gradient} = yield {x, i};
    const plain = estimate(x, eps, alphaBar, clip), root = Math.sqrt(1 - alphaBar);
    const epsHat = x.map((value, j) => (value - Math.sqrt(alphaBar) * plain[j]) / root - root * gradient[j]);  // eq-eps-hat
    const x0 = plain.map((value, j) => value + (1 - alphaBar) / Math.sqrt(alphaBar) * gradient[j]);
    const sigma = eta * Math.sqrt((1 - below) / (1 - alphaBar) * beta), reused = Math.sqrt(Math.max(0, 1 - below - sigma ** 2));
    return {x: x0.map((value, j) => Math.sqrt(below) * value + reused * epsHat[j] + (sigma ? sigma * normal() : 0)), x0: plain};
  },
};

gde.answer = function (step, predict) {
  let turn = step.next();
  while (!turn.done) turn = step.next(predict(turn.value));
  return turn.value;
};

gde.answerLater = async function (step, predict) {
  let turn = step.next();
  while (!turn.done) turn = step.next(await predict(turn.value));
  return turn.value;
};

gde.exactPrediction = function (world, steps, y, scale) {  // eq-exact-eps
  return ({x, i}) => {
    const alphaBar = steps.alphaBars[i], {score, gradient} = gde.exact(world, alphaBar, x, y);
    return {eps: score.map(v => -Math.sqrt(1 - alphaBar) * v), gradient: gradient.map(v => scale * v)};
  };
};

/* ---- the Taylor proof: chapter 4, in one dimension ----
   The classifier is log p(y | x) = -log(1 + exp(-k x)): two classes whose log-odds are the straight line k x. */

gde.logClassifier = function (k, x) { return k * x > 0 ? -Math.log1p(Math.exp(-k * x)) : k * x - Math.log1p(Math.exp(k * x)); };

gde.derivatives = function ({mu, k, s = 1}) {  // of s log p(y | x) at mu: g, H and T
  const p = 1 / (1 + Math.exp(-k * mu)), q = 1 / (1 + Math.exp(k * mu));
  return [s * k * q, -s * k * k * p * q, -s * k ** 3 * p * q * (q - p)];
};

gde.logNormal = function (x, mean, variance) { return -0.5 * ((x - mean) ** 2 / variance + Math.log(2 * Math.PI * variance)); };

/* The three Gaussians that stand for the step: no shift, first order, second order, as [mean, variance].
   eq-mean-shift, eq-hessian-step. */
gde.steps = function ({mu, sigma, k, s}) {
  const [g, H] = gde.derivatives({mu, k, s}), variance = sigma ** 2, narrowed = 1 / (1 / variance - H);
  return [[mu, variance], [mu + variance * g, variance], [mu + narrowed * g, narrowed]];
};

/* Log-density of the true step on a grid that holds all that matters. eq-model-product. */
gde.trueStep = function (state, least = 1601) {
  const {mu, sigma, k, s} = state, laws = gde.steps(state), left = mu - 9 * sigma, right = Math.max(...laws.map(([mean]) => mean)) + 9 * sigma;
  const finest = Math.min(Math.sqrt(laws[2][1]), 1 / k) / 4, points = Math.max(least, Math.ceil((right - left) / finest)), width = (right - left) / (points - 1);
  const x = Float64Array.from({length: points}, (_, i) => left + i * width);
  const log = x.map(at => gde.logNormal(at, mu, sigma ** 2) + s * gde.logClassifier(k, at)), most = log.reduce((a, b) => Math.max(a, b));
  const Z = width * log.reduce((sum, value) => sum + Math.exp(value - most), 0);
  return {x, width, log: log.map(value => value - most - Math.log(Z))};
};

/* [total variation, KL divergence] of the true step from each of the three Gaussians. */
gde.distances = function (state) {
  const {x, width, log} = gde.trueStep(state);
  return gde.steps(state).map(([mean, variance]) => {
    let variation = 0, divergence = 0;
    for (let i = 0; i < x.length; i++) {
      const p = Math.exp(log[i]), approximate = gde.logNormal(x[i], mean, variance);
      variation += Math.abs(p - Math.exp(approximate)) * width / 2;
      if (p > 0) divergence += p * (log[i] - approximate) * width;
    }
    return [variation, divergence];
  });
};

/* What the law of the error predicts for them. eq-error-law. */
gde.errorLaw = function (state) {
  const [g, H, T] = gde.derivatives(state), v = state.sigma ** 2, root = Math.sqrt(2 * Math.PI);
  return [[state.sigma * Math.abs(g) / root, v * g * g / 2],
          [v * Math.abs(H) / Math.sqrt(2 * Math.PI * Math.E), v * v * H * H / 4],
          [v * state.sigma * Math.abs(T) / (3 * root), 5 * v ** 3 * T * T / 24]];
};
