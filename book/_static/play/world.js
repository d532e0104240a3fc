/* Thousands of particles, guided by closed-form scores: nbs/play/exact_world.md. */
"use strict";
(function () {
  const REACH = 2, VIEW = 2.15, SIDE = 480, CELLS = 24;
  const WORLDS = {corners: ["Four corners", gde.fourCorners, 4000], trees: ["Two trees", gde.twoTrees, 2500]};
  const SAMPLERS = {ddpm: "DDPM, gradient at x_t (Algorithm 1)", ddpmMean: "DDPM, gradient at the mean (the derivation)", ddim: "DDIM (Algorithm 2)"};
  const SHORT = {ddpm: "DDPM at x_t", ddpmMean: "DDPM at mean", ddim: "DDIM"};
  const CLASSES = {0: ["Class 0, blue", "first"], 1: ["Class 1, orange", "second"]};
  const chosen = {world: "corners", sampler: "ddim", steps: 25, scale: 1, eta: 0, y: 0, seed: 1};
  const schedule = gde.linearSchedule(), $ = gde.element;
  let world, densities, exact, floor, shade;            // of the world and the target
  let walk, playing = false, moving = null, runs = [];  // of the particles

  /* ---- the target ---- */

  function chooseWorld() {
    world = WORLDS[chosen.world][1]();
    densities = gde.classDensities(world, SIDE, REACH);
    chooseTarget();
  }

  function chooseTarget() {
    const {target, right} = gde.tiltedTarget(densities, chosen.y, chosen.scale);
    exact = {target, right, cells: gde.coarser(target, CELLS)};
    floor = gde.noiseFloor(exact.cells, WORLDS[chosen.world][2], gde.random(7));
    shade = null;
  }

  /* Densities at which to draw lines: half, nine tenths and 99 % of the target lie where it is denser. */
  function lineLevels() {
    const sorted = exact.target.slice().sort(), levels = [];
    for (let i = sorted.length - 1, sum = 0, shares = [0.5, 0.9, 0.99]; i >= 0 && shares.length; i--)
      if ((sum += sorted[i]) >= shares[0]) { levels.push(sorted[i]); shares.shift(); }
    return levels;
  }

  /* Two pictures: the target as a soft shade, and those lines, a pixel and a half wide, to lie over the particles. */
  function paintTarget() {
    const most = exact.target.reduce((a, b) => Math.max(a, b), 0), levels = lineLevels().map(Math.log), ink = gde.dark() ? 235 : 30;
    const log = exact.target.map(p => Math.log(p + 1e-300));
    return [0, 1].map(lines => {
      const picture = $("canvas", {width: SIDE, height: SIDE}), context = picture.getContext("2d"), image = context.createImageData(SIDE, SIDE);
      for (let row = 1; row < SIDE - 1; row++) for (let column = 1; column < SIDE - 1; column++) {
        const at = row * SIDE + column, pixel = 4 * ((SIDE - 1 - row) * SIDE + column);
        let alpha = 75 * Math.sqrt(exact.target[at] / most);
        if (lines) {
          const slope = Math.min(8, Math.hypot(log[at + 1] - log[at - 1], log[at + SIDE] - log[at - SIDE]) / 2);  // a jump to 0 is no line
          const near = Math.min(...levels.map(level => Math.abs(log[at] - level)));
          alpha = slope > 1e-9 ? 150 * Math.max(0, Math.min(1, 1.25 - near / slope)) : 0;
        }
        image.data[pixel] = image.data[pixel + 1] = image.data[pixel + 2] = ink;
        image.data[pixel + 3] = alpha;
      }
      context.putImageData(image, 0, 0);
      return picture;
    });
  }

  /* ---- the walk ---- */

  function begin() {
    const steps = gde.respace(schedule, chosen.steps), random = gde.random(chosen.seed), n = WORLDS[chosen.world][2];
    const x = Float64Array.from({length: 2 * n}, random.normal);
    walk = {steps, random, x, i: steps.alphaBars.length - 1, predict: gde.exactPrediction(world, steps, chosen.y, chosen.scale), errors: []};
    moving = null;
    judge();
    show();
  }

  function judge() {  // at the level where the particles are
    const alphaBar = walk.i >= 0 ? walk.steps.alphaBars[walk.i] : 1;
    walk.posterior = gde.exact(world, alphaBar, walk.x, chosen.y).posterior;
    walk.right = walk.posterior.reduce((sum, p) => sum + (p > 0.5), 0) / walk.posterior.length;
    walk.errors.push(gde.totalVariation(walk.x, exact.cells, REACH));
  }

  function advance() {
    const options = {steps: walk.steps, normal: walk.random.normal, eta: chosen.eta};
    walk.x = gde.answer(gde.samplers[chosen.sampler](walk.x, walk.i, options), walk.predict).x;
    walk.i -= 1;
    judge();
    if (walk.i < 0) remember();
  }

  function remember() {
    const eta = chosen.sampler === "ddim" && chosen.eta > 0 ? `, η ${chosen.eta}` : "";
    runs.unshift({words: `${SHORT[chosen.sampler]}${eta}, ${chosen.steps} steps, s = ${chosen.scale}`, error: walk.errors.at(-1), right: walk.right,
                  errors: walk.errors, world: chosen.world});
    runs = runs.filter(run => run.world === chosen.world).slice(0, 5);
    playing = false;
  }

  /* ---- time ---- */

  function frame(now) {
    if (!moving && playing && walk.i >= 0) startMove(now);
    if (moving && now - moving.start >= moving.lasts) moving = null;
    picture.redraw();
    if (moving || playing) requestAnimationFrame(frame); else show();
  }

  function startMove(now) {
    const from = walk.x;
    advance();
    moving = {from, start: now, lasts: Math.max(16, Math.min(450, 5500 / chosen.steps))};
    show();
  }

  function play() {
    if (walk.i < 0) begin();
    if (gde.calm()) { while (walk.i >= 0) advance(); show(); picture.redraw(); return; }
    playing = !playing;
    show();
    if (playing && !moving) requestAnimationFrame(frame);
  }

  function step() {
    playing = false;
    if (walk.i < 0) begin();
    if (gde.calm()) { advance(); show(); picture.redraw(); return; }
    if (!moving) { startMove(performance.now()); requestAnimationFrame(frame); }
    show();
  }

  function reset() { playing = false; begin(); picture.redraw(); }

  function change(part, value) {
    chosen[part] = value;
    if (part === "world") chooseWorld(); else if (part === "scale" || part === "y") chooseTarget();
    eta.input.disabled = chosen.sampler !== "ddim";
    reset();
  }

  /* ---- what is seen ---- */

  function sprite(size, role, filled) {
    const node = $("canvas", {width: 2 * size, height: 2 * size}), context = node.getContext("2d");
    context.beginPath();
    context.arc(size, size, filled ? size * 0.62 : size * 0.7, 0, 7);
    if (filled) { context.fillStyle = gde.COLOR[role]; context.fill(); }
    else { context.strokeStyle = gde.COLOR[role]; context.lineWidth = size * 0.34; context.stroke(); }
    return node;
  }

  function draw(context, width) {
    const scale = width / (2 * VIEW), place = v => (v + VIEW) * scale, size = Math.max(2.2, width / 190);
    shade = shade || paintTarget();
    const spread = image => context.drawImage(image, place(-REACH), place(-REACH), 2 * REACH * scale, 2 * REACH * scale);
    spread(shade[0]);
    const sprites = [sprite(3 * size, CLASSES[1 - chosen.y][1], false), sprite(3 * size, CLASSES[chosen.y][1], true)];
    let u = moving ? Math.min(1, (performance.now() - moving.start) / moving.lasts) : 1;
    if (moving && moving.lasts > 60) u = u * u * (3 - 2 * u);
    const from = moving ? moving.from : walk.x, to = walk.x;
    context.globalAlpha = gde.dark() ? 0.75 : 0.8;
    for (let i = 0; i < to.length / 2; i++) {
      const x = from[2 * i] + u * (to[2 * i] - from[2 * i]), y = from[2 * i + 1] + u * (to[2 * i + 1] - from[2 * i + 1]);
      if (Math.abs(x) < VIEW && Math.abs(y) < VIEW) context.drawImage(sprites[walk.posterior[i] > 0.5 ? 1 : 0], place(x) - size, place(-y) - size, 2 * size, 2 * size);
    }
    context.globalAlpha = 1;
    spread(shade[1]);
  }

  function curve(errors) {
    return errors.map((error, j) => `${j ? "L" : "M"}${(34 + 236 * j / (errors.length - 1 || 1)).toFixed(1)} ${(10 + 104 * (1 - error)).toFixed(1)}`).join("");
  }

  const percent = share => `${(100 * share).toFixed(1)} %`;

  function show() {
    const total = chosen.steps, done = total - 1 - walk.i, error = walk.errors.at(-1);
    const ended = walk.i < 0;
    playButton.textContent = playing ? "Pause" : ended ? "Again" : done ? "Go on" : "Play";
    stepOut.show(`${done} of ${total}`, ended ? "noise is gone" : `noise level t = ${walk.steps.timesteps[walk.i]}`);
    errorOut.show(error.toFixed(3), `exact samples: ${floor.toFixed(3)}`);
    rightOut.show(percent(walk.right), `exact samples: ${percent(exact.right)}`);
    const now = ended ? [] : [walk.errors.concat(Array(total + 1 - walk.errors.length).fill(NaN))];
    lines.replaceChildren(...runs.map((run, j) => $("svg:path", {d: curve(run.errors), fill: "none", stroke: j || !ended ? "var(--pst-color-border)" : gde.COLOR.mean, "stroke-width": j || !ended ? 1.5 : 2.5})).reverse(),
      ...now.map(errors => $("svg:path", {d: curve(errors).replace(/[ML][\d.]+ NaN/g, ""), fill: "none", stroke: gde.COLOR.mean, "stroke-width": 2.5})),
      $("svg:path", {d: `M34 ${10 + 104 * (1 - floor)}H270`, stroke: gde.COLOR.gradient, "stroke-width": 1.5, "stroke-dasharray": "5 4"}));
    rows.replaceChildren(...runs.map(run => $("tr", {}, $("th", {scope: "row"}, run.words), $("td", {}, run.error.toFixed(3)), $("td", {}, percent(run.right)))));
    table.hidden = !runs.length;
    picture.node.setAttribute("aria-label", `${walk.x.length / 2} particles over the density of the target, ${done} of ${total} steps done; ${percent(walk.right)} of them where the wanted class is likelier.`);
    if (!playing) voice.say(`${done} of ${total} steps. Total variation ${error.toFixed(3)}, exact samples ${floor.toFixed(3)}. Right class ${percent(walk.right)}.`);
    legendMarks();
  }

  function legendMarks() {
    legend.querySelectorAll("circle").forEach((mark, j) => mark.setAttribute(j ? "stroke" : "fill", gde.COLOR[CLASSES[j ? 1 - chosen.y : chosen.y][1]]));
  }

  /* ---- the page ---- */

  const picture = gde.canvas(1, draw), voice = gde.voice();
  const playButton = gde.button("Play", play, {class: "gde-button gde-first"});
  const stepOut = gde.readout("step"), errorOut = gde.readout("total variation"), rightOut = gde.readout("right class");
  const lines = $("svg:g"), rows = $("tbody");
  const plot = $("svg:svg", {viewBox: "0 0 280 132", class: "gde-plot", "aria-hidden": "true"},
    $("svg:path", {d: "M34 10V114H270", class: "gde-axis"}), lines,
    $("svg:text", {x: 28, y: 16, "text-anchor": "end"}, "1"), $("svg:text", {x: 28, y: 117, "text-anchor": "end"}, "0"),
    $("svg:text", {x: 34, y: 128}, "noise"), $("svg:text", {x: 270, y: 128, "text-anchor": "end"}, "data"),
    $("svg:text", {x: 270, y: 20, "text-anchor": "end"}, "total variation; dashed: exact samples"));
  const table = $("table", {}, $("caption", {}, "Your last runs"),
    $("thead", {}, $("tr", {}, $("th", {scope: "col"}, "run"), $("th", {scope: "col"}, "error"), $("th", {scope: "col"}, "right"))), rows);
  const mark = (...inside) => $("svg:svg", {width: 14, height: 14, viewBox: "0 0 14 14", "aria-hidden": "true"}, ...inside);
  const legend = $("ul", {class: "gde-legend"},
    $("li", {}, mark($("svg:circle", {cx: 7, cy: 7, r: 4.5})), "filled: the wanted class is likelier here"),
    $("li", {}, mark($("svg:circle", {cx: 7, cy: 7, r: 4.5, fill: "none", "stroke-width": 2.2})), "ring: the other"),
    $("li", {}, mark($("svg:rect", {x: 1, y: 1, width: 12, height: 12, rx: 3, fill: "currentColor", opacity: 0.35})), "shade and lines: the exact target; 50, 90 and 99 % of it lie within the lines"));
  const eta = gde.slider({label: "DDIM's noise η", min: 0, max: 1, step: 0.1, value: chosen.eta, role: "noise", oninput: v => change("eta", v)});
  const controls = [
    gde.choice({label: "Sampler", options: SAMPLERS, value: chosen.sampler, onchange: v => change("sampler", v)}),
    gde.choice({label: "Steps", options: Object.fromEntries([5, 10, 25, 50, 100, 250].map(n => [n, String(n)])), value: chosen.steps, onchange: v => change("steps", +v)}),
    gde.slider({label: "Scale s", min: 0, max: 8, step: 0.25, value: chosen.scale, role: "scale", oninput: v => change("scale", v)}),
    eta,
    gde.choice({label: "Wanted class", options: Object.fromEntries(Object.entries(CLASSES).map(([y, [words]]) => [y, words])), value: chosen.y, onchange: v => change("y", +v)}),
    gde.choice({label: "World", options: Object.fromEntries(Object.entries(WORLDS).map(([key, [words]]) => [key, words])), value: chosen.world, onchange: v => change("world", v)}),
  ];

  chooseWorld();
  begin();
  gde.stage("gde-world",
    $("div", {class: "gde-board"},
      $("div", {class: "gde-picture"}, picture.node, legend),
      $("div", {class: "gde-side"},
        $("div", {class: "gde-buttons"}, playButton, gde.button("Step", step), gde.button("Reset", reset),
          gde.button("New noise", () => change("seed", chosen.seed + 1))),
        $("div", {class: "gde-readouts"}, stepOut.node, errorOut.node, rightOut.node),
        plot, table),
      $("div", {class: "gde-controls"}, ...controls.map(c => c.node))), voice.node);
  gde.onTheme(() => { shade = null; picture.redraw(); });
  gde.world = {chosen, change, play, step, get walk() { return walk; }, get exact() { return {...exact, floor}; }};
  if (!gde.calm()) play();
})();
