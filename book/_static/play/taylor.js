/* The Taylor proof, to be dragged: nbs/play/taylor.md. */
"use strict";
(function () {
  const $ = gde.element, state = {mu: 0.2, sigma: 0.5, k: 8, s: 1};
  const LIMITS = {mu: [-1, 1, 0.02], sigma: [0.02, 0.8, 0.01], k: [1, 24, 0.5], s: [0, 8, 0.1]};
  const LAWS = [["no shift", "noise", "2 4", "o"], ["first order: μ + Σg", "mean", "", "s"], ["second order", "variance", "8 4", "^"]];
  const LEFT = -2, RIGHT = 2.6, WIDTH = 640, FLOOR = 262, LOGS = {top: 318, height: 150, low: -7, high: 0.6};
  const X = x => (x - LEFT) / (RIGHT - LEFT) * WIDTH, inverseX = at => LEFT + at / WIDTH * (RIGHT - LEFT);
  const logY = v => LOGS.top + (LOGS.high - v) / (LOGS.high - LOGS.low) * LOGS.height;
  const within = (part, v) => { const [low, high, step] = LIMITS[part]; return Math.min(high, Math.max(low, +(Math.round(v / step) * step).toFixed(4))); };
  const line = points => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${Math.max(-999, Math.min(999, y)).toFixed(1)}`).join("");
  const grid = Array.from({length: 921}, (_, i) => LEFT + i * (RIGHT - LEFT) / 920);
  const number = v => v === 0 ? "0" : v < 0.001 ? v.toExponential(1).replace("e-", "·10⁻").replace(/⁻\d+$/, e => "⁻" + [...e.slice(1)].map(d => "⁰¹²³⁴⁵⁶⁷⁸⁹"[d]).join("")) : v.toFixed(4);

  /* ---- the two panels over one axis: the step, and the logarithm that it is multiplied by ---- */

  function drawStep() {
    const {mu, sigma, k, s} = state, laws = gde.steps(state), truth = gde.trueStep(state, 801);
    const density = laws.map(([mean, variance]) => grid.map(x => Math.exp(gde.logNormal(x, mean, variance))));
    const most = Math.max(Math.exp(truth.log.reduce((a, b) => Math.max(a, b))), ...density.map(values => Math.max(...values)));
    const Y = p => FLOOR - p / most * (FLOOR - 22);
    const product = Array.from(truth.x, (x, i) => [X(x), Y(Math.exp(truth.log[i]))]);
    truePath.setAttribute("d", `${line(product)}L${product.at(-1)[0].toFixed(1)} ${FLOOR}L${product[0][0].toFixed(1)} ${FLOOR}Z`);
    LAWS.forEach((_, j) => stepPaths[j].setAttribute("d", line(grid.map((x, i) => [X(x), Y(density[j][i])]))));
    const [g, H] = gde.derivatives({mu, k}), at = gde.logClassifier(k, mu);
    logPath.setAttribute("d", line(grid.map(x => [X(x), logY(gde.logClassifier(k, x))])));
    tangent.setAttribute("d", line([LEFT, RIGHT].map(x => [X(x), logY(at + g * (x - mu))])));
    parabola.setAttribute("d", line(grid.map(x => [X(x), logY(at + g * (x - mu) + H / 2 * (x - mu) ** 2)])));
    reach.setAttribute("x", X(mu - 2 * sigma)), reach.setAttribute("width", X(mu + 2 * sigma) - X(mu - 2 * sigma));
    touching.setAttribute("cx", X(mu)), touching.setAttribute("cy", logY(at));
    const shifted = laws[1][0], seen = Math.min(RIGHT - 0.1, shifted);
    place("mu", X(mu), FLOOR);
    place("sigma", X(mu - sigma), Y(Math.exp(gde.logNormal(mu - sigma, mu, sigma ** 2))));
    place("s", X(seen), seen < shifted ? 40 : Y(Math.exp(gde.logNormal(shifted, shifted, sigma ** 2))));
    place("k", X(-Math.log(9) / k), logY(-Math.log(10)));
    outside.textContent = seen < shifted ? `mean ${shifted.toFixed(1)} →` : "";
  }

  function place(part, x, y) {
    handles[part].setAttribute("cx", x), handles[part].setAttribute("cy", y);
    names[part].setAttribute("x", x), names[part].setAttribute("y", y);
  }

  function drag(part, x) {
    const {mu, sigma, k} = state, [g] = gde.derivatives({mu, k});
    const wanted = {mu: x, sigma: Math.abs(mu - x), k: x < -0.01 ? -Math.log(9) / x : LIMITS.k[1], s: (x - mu) / (sigma ** 2 * g)}[part];
    change(part, within(part, wanted));
  }

  function handle(part, role) {
    const down = {pointerdown(event) { event.preventDefault(); event.target.setPointerCapture(event.pointerId); },
      pointermove(event) {
        if (!event.target.hasPointerCapture(event.pointerId)) return;
        drag(part, inverseX(new DOMPoint(event.clientX, event.clientY).matrixTransform(board.getScreenCTM().inverse()).x));
      }};
    return $("svg:circle", {r: 11, fill: gde.COLOR[role], class: "gde-handle", ...down});
  }

  /* ---- the error against the variance ---- */

  const EX = v => 44 + (Math.log10(v) + 4) / 4 * 226, EY = tv => 14 + (-Math.log10(Math.max(tv, 1e-9))) / 5 * 176;
  const marks = {o: (x, y) => `M${x - 5} ${y}a5 5 0 1 0 10 0a5 5 0 1 0-10 0`, s: (x, y) => `M${x - 5} ${y - 5}h10v10h-10Z`, "^": (x, y) => `M${x} ${y - 6}l6 11h-12Z`};
  let drawnFor = "";

  function drawErrors(found) {
    const key = [state.mu, state.k, state.s].join();
    if (key !== drawnFor) {
      const sigmas = Array.from({length: 21}, (_, i) => 10 ** (-2 + i / 10));
      const curves = sigmas.map(sigma => gde.distances({...state, sigma})), laws = sigmas.map(sigma => gde.errorLaw({...state, sigma}));
      LAWS.forEach((_, j) => {
        errorPaths[j].setAttribute("d", line(sigmas.map((sigma, i) => [EX(sigma ** 2), EY(curves[i][j][0])])));
        lawPaths[j].setAttribute("d", line(sigmas.map((sigma, i) => [EX(sigma ** 2), EY(laws[i][j][0])])));
      });
      drawnFor = key;
    }
    LAWS.forEach(([, , , shape], j) => dots[j].setAttribute("d", marks[shape](EX(state.sigma ** 2), Math.min(196, EY(found[j][0])))));
  }

  /* ---- all of it ---- */

  function show() {
    const found = gde.distances(state), predicted = gde.errorLaw(state), [, H] = gde.derivatives(state), product = Math.abs(H) * state.sigma ** 2;
    drawStep();
    drawErrors(found);
    LAWS.forEach((_, j) => [found[j][0], predicted[j][0], found[j][1], predicted[j][1]].forEach((value, c) => { cells[j][c].textContent = number(Math.max(0, value)); }));
    curvature.show(product.toFixed(3), product < 0.1 ? "small: the law holds" : product < 1 ? "the law begins to fail" : "large: the expansion fails");
    shift.show((gde.steps(state)[1][0] - state.mu).toFixed(3), `gradient s g = ${gde.derivatives(state)[0].toFixed(2)}`);
    board.setAttribute("aria-label", `The unguided step at ${state.mu} with standard deviation ${state.sigma}, the true product with the classifier, and the Gaussians of first and second order. Below, the classifier's logarithm with its tangent and parabola.`);
    voice.say(`Total variation: no shift ${number(found[0][0])}, first order ${number(found[1][0])}, second order ${number(found[2][0])}. KL of first order ${number(found[1][1])}.`);
  }

  function change(part, value) { state[part] = value; sliders[part].set(value); show(); }

  const voice = gde.voice(), stroke = ([, role, dashes], width = 2.5) => ({fill: "none", stroke: gde.COLOR[role], "stroke-width": width, "stroke-dasharray": dashes});
  const truePath = $("svg:path", {fill: gde.COLOR.gradient, "fill-opacity": 0.28, stroke: gde.COLOR.gradient, "stroke-width": 1.5});
  const stepPaths = LAWS.map(law => $("svg:path", stroke(law))), logPath = $("svg:path", {fill: "none", stroke: gde.COLOR.gradient, "stroke-width": 3});
  const tangent = $("svg:path", stroke(LAWS[1], 2)), parabola = $("svg:path", stroke(LAWS[2], 2));
  const reach = $("svg:rect", {y: LOGS.top, height: LOGS.height, fill: gde.COLOR.noise, "fill-opacity": 0.14}), touching = $("svg:circle", {r: 4, fill: gde.COLOR.mean});
  const roles = {mu: "mean", sigma: "variance", s: "scale", k: "gradient"}, letters = {mu: "μ", sigma: "σ", s: "s", k: "k"};
  const handles = Object.fromEntries(Object.entries(roles).map(([part, role]) => [part, handle(part, role)]));
  const names = Object.fromEntries(Object.keys(roles).map(part => [part, $("svg:text", {class: "gde-letter", "text-anchor": "middle", dy: "0.34em", fill: part === "mu" ? "#fff" : "#000", "aria-hidden": "true"}, letters[part])]));
  const outside = $("svg:text", {x: WIDTH - 8, y: 20, "text-anchor": "end"});
  const board = $("svg:svg", {viewBox: `0 0 ${WIDTH} 482`, class: "gde-plot", role: "img"},
    $("svg:clipPath", {id: "gde-logs"}, $("svg:rect", {x: 0, y: LOGS.top, width: WIDTH, height: LOGS.height})),
    $("svg:path", {d: `M0 ${FLOOR}H${WIDTH}M0 ${LOGS.top}H${WIDTH}M0 ${logY(0)}H${WIDTH}`, class: "gde-axis"}),
    truePath, ...stepPaths, outside,
    $("svg:g", {"clip-path": "url(#gde-logs)"}, reach, logPath, parabola, tangent, touching),
    $("svg:text", {x: 10, y: 22}, "the step"), $("svg:text", {x: 10, y: LOGS.top - 8}, "log p(y | x); grey: two σ about μ"),
    ...[-1, 0, 1, 2].map(x => $("svg:text", {x: X(x), y: FLOOR + 18, "text-anchor": "middle"}, String(x).replace("-", "−"))),
    ...[0, -2, -4, -6].map(v => $("svg:text", {x: WIDTH - 6, y: logY(v) + 4, "text-anchor": "end"}, String(v).replace("-", "−"))),
    ...Object.keys(roles).flatMap(part => [handles[part], names[part]]));
  const errorPaths = LAWS.map(law => $("svg:path", {...stroke(law, 2), "stroke-dasharray": ""})), lawPaths = LAWS.map(law => $("svg:path", {...stroke(law, 1), "stroke-dasharray": "3 3"}));
  const dots = LAWS.map(([, role]) => $("svg:path", {fill: gde.COLOR[role], stroke: "var(--pst-color-background)", "stroke-width": 1.5}));
  const errors = $("svg:svg", {viewBox: "0 0 280 222", class: "gde-plot", "aria-hidden": "true"},
    $("svg:clipPath", {id: "gde-errors"}, $("svg:rect", {x: 44, y: 8, width: 234, height: 184})),
    $("svg:path", {d: "M44 10V192H274", class: "gde-axis"}),
    $("svg:g", {"clip-path": "url(#gde-errors)"}, ...lawPaths, ...errorPaths), ...dots,
    ...[["1", 0], ["10⁻²", 2], ["10⁻⁴", 4]].map(([words, at]) => $("svg:text", {x: 38, y: EY(10 ** -at) + 4, "text-anchor": "end"}, words)),
    ...[["10⁻⁴", -4], ["10⁻²", -2], ["1", 0]].map(([words, at]) => $("svg:text", {x: EX(10 ** at), y: 207, "text-anchor": "middle"}, words)),
    $("svg:text", {x: 160, y: 220, "text-anchor": "middle"}, "Σ = σ²"), $("svg:text", {x: 52, y: 18}, "total variation; dashed: the law"));
  const cells = LAWS.map(() => Array.from({length: 4}, () => $("td")));
  const swatch = ([, role, , shape]) => $("svg:svg", {width: 14, height: 14, viewBox: "0 0 14 14", "aria-hidden": "true", style: "vertical-align: -2px; margin-right: .35rem"}, $("svg:path", {d: marks[shape](7, 7), fill: gde.COLOR[role]}));
  const table = $("table", {}, $("caption", {}, "Distance of the true step from each"),
    $("thead", {}, $("tr", {}, $("th", {scope: "col"}, "step"), ...["TV", "law", "KL", "law"].map(words => $("th", {scope: "col"}, words)))),
    $("tbody", {}, ...LAWS.map((law, j) => $("tr", {}, $("th", {scope: "row"}, swatch(law), law[0].split(":")[0]), ...cells[j]))));
  const curvature = gde.readout("s |H| Σ"), shift = gde.readout("shift s Σ g");
  const slider = (part, label, words) => gde.slider({label, min: LIMITS[part][0], max: LIMITS[part][1], step: LIMITS[part][2], value: state[part], role: roles[part], words, oninput: v => change(part, v)});
  const sliders = {sigma: slider("sigma", "Width of the step σ", v => v.toFixed(2)), s: slider("s", "Scale s", v => v.toFixed(1)),
                   k: slider("k", "Classifier's steepness k", v => v.toFixed(1)), mu: slider("mu", "Mean of the step μ", v => v.toFixed(2).replace("-", "−"))};
  const key = (path, words) => $("li", {}, $("svg:svg", {width: 26, height: 12, viewBox: "0 0 26 12", "aria-hidden": "true"}, path), words);
  const legend = $("ul", {class: "gde-legend"},
    key($("svg:rect", {width: 26, height: 12, fill: gde.COLOR.gradient, "fill-opacity": 0.28, stroke: gde.COLOR.gradient}), "true product"),
    ...LAWS.map(law => key($("svg:path", {d: "M0 6H26", ...stroke(law)}), law[0])));

  gde.stage("gde-taylor",
    $("div", {class: "gde-board"}, $("div", {class: "gde-picture"}, board, legend),
      $("div", {class: "gde-side"}, $("div", {class: "gde-readouts"}, curvature.node, shift.node), table, errors),
      $("div", {class: "gde-controls"}, ...["sigma", "s", "k", "mu"].map(part => sliders[part].node))), voice.node);
  gde.taylor = {state, change};
  show();
})();
