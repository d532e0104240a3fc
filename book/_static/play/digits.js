/* A real network in the page: nbs/play/digits.md. The networks and what runs them are loaded when the reader asks for them. */
"use strict";
(function () {
  const BATCH = 10, PIXELS = 64, $ = gde.element, here = document.currentScript.src.replace(/[^/]*$/, "");
  const SAMPLERS = {ddim: "DDIM (Algorithm 2)", ddpm: "DDPM, gradient at x_t (Algorithm 1)", ddpmMean: "DDPM, gradient at the mean"};
  const chosen = {y: "each", scale: 3, steps: 25, sampler: "ddim", seed: 1};
  const schedule = gde.linearSchedule();
  let session = null, walk = null, playing = false, busy = false;

  /* ---- the network ---- */

  function script(file) {
    return new Promise((resolve, reject) => document.head.append($("script", {src: here + file, load: resolve, error: () => reject(new Error(`${file} is missing`))})));
  }

  async function unpacked(name) {  // base64, then gzip: a page opened from a folder may load scripts, but not fetch files
    const bytes = Uint8Array.from(atob(gde.packed[name]), letter => letter.charCodeAt(0));
    delete gde.packed[name];
    return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer());
  }

  async function load() {
    if (session) return;
    await Promise.all(["ort/ort.wasm.min.js", "ort/loader.js", "ort/wasm.js", "digits-model.js"].map(script));
    const [loader, wasm, model] = await Promise.all(["loader", "wasm", "digits"].map(unpacked));
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmBinary = wasm;
    ort.env.wasm.wasmPaths = {mjs: URL.createObjectURL(new Blob([loader], {type: "text/javascript"}))};
    session = await ort.InferenceSession.create(model, {executionProviders: ["wasm"]});
  }

  function whole(values) { return new ort.Tensor("int64", BigInt64Array.from(values, BigInt), [BATCH]); }

  /* eps, the gradient of log p(y | x_t) and log p(. | x_t) at the points x, (10 * 64), and the step t. */
  async function ask(x, t, y) {
    const out = await session.run({x_t: new ort.Tensor("float32", Float32Array.from(x), [BATCH, 1, 8, 8]), t: whole(Array(BATCH).fill(t)), y: whole(y)});
    return {eps: out.eps.data, gradient: out.gradient.data, logProbs: out.log_probs.data};
  }

  /* ---- the walk ---- */

  function classes() { return Array.from({length: BATCH}, (_, i) => chosen.y === "each" ? i : +chosen.y); }

  function begin(x_T) {
    const random = gde.random(chosen.seed), steps = gde.respace(schedule, chosen.steps);
    const x = x_T ? Float64Array.from(x_T) : Float64Array.from({length: BATCH * PIXELS}, random.normal);
    walk = {...chosen, steps, random, x, y: classes(), i: chosen.steps - 1, seen: []};
  }

  async function advance() {
    const {steps, y, random, scale, i} = walk, here = walk, start = performance.now();
    let opinion = null;
    const predict = async ({x, i}) => {
      const {eps, gradient, logProbs} = await ask(x, steps.timesteps[i], y);
      opinion = opinion || y.map((wanted, b) => Math.exp(logProbs[10 * b + wanted]));
      return {eps, gradient: gradient.map(v => scale * v)};
    };
    const {x, x0} = await gde.answerLater(gde.samplers[walk.sampler](walk.x, i, {steps, normal: random.normal, clip: true}), predict);
    here.seen.push({x: here.x, x0, opinion, t: steps.timesteps[i]});
    here.x = x;
    here.i = i - 1;
    here.pace = performance.now() - start;
    if (here.i < 0) {  // what came out, and what the classifier says of that at its cleanest level
      const {logProbs} = await ask(x, 0, y);
      here.seen.push({x, x0: x, opinion: y.map((wanted, b) => Math.exp(logProbs[10 * b + wanted])), t: null});
    }
  }

  /* ---- time ---- */

  async function steps(count) {
    if (busy) return;
    busy = true;
    if (!walk || walk.i < 0) begin();
    for (let n = 0; n < count && walk.i >= 0 && (playing || count === 1); n++) {
      await advance();
      if (!gde.calm() || count === 1 || walk.i < 0) look(walk.seen.length - 1);
      await new Promise(resolve => setTimeout(resolve, gde.calm() ? 0 : Math.max(0, 90 - walk.pace)));
    }
    playing = busy = false;
    show();
  }

  function play() {
    playing = !playing;
    show();
    if (playing) steps(Infinity);
  }

  async function change(part, value) {
    chosen[part] = value;
    playing = false;
    while (busy) await new Promise(resolve => setTimeout(resolve, 10));
    begin();
    show();
    paint({x: walk.x, x0: null, opinion: null});
  }

  /* ---- what is seen ---- */

  function paintOne(canvas, values, b) {
    const context = canvas.getContext("2d"), image = context.createImageData(8, 8);
    for (let j = 0; j < PIXELS; j++) {
      const value = values ? Math.round((Math.min(1, Math.max(-1, values[PIXELS * b + j])) + 1) * 127.5) : 0;  // eq-pixels
      image.data.set([value, value, value, 255], 4 * j);
    }
    context.putImageData(image, 0, 0);
  }

  function paint({x, x0, opinion}) {
    for (let b = 0; b < BATCH; b++) {
      paintOne(noisy[b].canvas, x, b);
      paintOne(clean[b].canvas, x0, b);
      const said = opinion ? `${(100 * opinion[b]).toFixed(0)} %` : "–";
      clean[b].caption.textContent = `${walk.y[b]} · ${said}`;
      clean[b].canvas.setAttribute("aria-label", x0 ? `Estimate of picture ${b + 1}, a ${walk.y[b]} wanted; the classifier is ${said} sure` : `Picture ${b + 1}, not begun`);
    }
  }

  function look(at) {
    const seen = walk.seen[at];
    paint(seen);
    scrub.input.max = walk.seen.length - 1;
    scrub.set(at);
    const mean = seen.opinion.reduce((a, b) => a + b) / BATCH;
    sure.show(`${(100 * mean).toFixed(0)} %`, "mean of the ten");
    stepOut.show(seen.t === null ? "done" : `${at + 1} of ${walk.steps.timesteps.length}`, seen.t === null ? "noise is gone" : `noise level t = ${seen.t}`);
    if (walk.i < 0 || !playing) voice.say(seen.t === null ? `Done. The classifier is ${(100 * mean).toFixed(0)} % sure of the wanted classes.` : `Step ${at + 1}, classifier ${(100 * mean).toFixed(0)} % sure.`);
  }

  function show() {
    playButton.textContent = playing ? "Pause" : !walk || walk.i < 0 ? (walk && walk.seen.length ? "Again" : "Draw") : walk.seen.length ? "Go on" : "Draw";
    scrub.input.disabled = !walk || !walk.seen.length;
    if (walk && !walk.seen.length) { stepOut.show("0 of " + chosen.steps, "noise"); sure.show("–", "mean of the ten"); }
    if (walk && walk.pace) pace.show(`${walk.pace.toFixed(0)} ms`, "a step of ten pictures");
  }

  async function start() {
    startButton.disabled = true;
    note.textContent = "Loading …";
    try { await load(); } catch (error) {
      note.textContent = `The network could not be loaded (${error.message}). It needs a browser with WebAssembly and DecompressionStream.`;
      startButton.disabled = false;
      return;
    }
    gde.stage("gde-digits", board, voice.node);
    await change("seed", chosen.seed);
    playButton.focus();
    voice.say("The network is loaded.");
    if (!gde.calm()) play();
  }

  /* ---- the page ---- */

  function grid(words) {
    const cells = Array.from({length: BATCH}, (_, b) => ({canvas: $("canvas", {width: 8, height: 8, role: "img", "aria-label": `${words} ${b + 1}`}), caption: $("figcaption")}));
    return [cells, $("div", {class: "gde-grid"}, ...cells.map(({canvas, caption}) => $("figure", {}, canvas, caption)))];
  }

  const voice = gde.voice(), [clean, cleanGrid] = grid("Estimate"), [noisy, noisyGrid] = grid("Noisy picture");
  noisy.forEach(({caption}) => caption.remove());
  const playButton = gde.button("Draw", play, {class: "gde-button gde-first"});
  const stepOut = gde.readout("step"), sure = gde.readout("classifier's certainty"), pace = gde.readout("speed");
  const scrub = gde.slider({label: "Look back", min: 0, max: 0, step: 1, value: 0, words: v => walk && walk.seen[v] && walk.seen[v].t === null ? "the end" : `step ${v + 1}`, oninput: v => { if (!playing) look(v); }});
  const controls = [
    gde.choice({label: "Wanted digit", options: {each: "one of each", ...Object.fromEntries([..."0123456789"].map(d => [d, d]))}, value: chosen.y, onchange: v => change("y", v)}),
    gde.slider({label: "Scale s", min: 0, max: 10, step: 0.5, value: chosen.scale, role: "scale", oninput: v => change("scale", v)}),
    gde.choice({label: "Sampler", options: SAMPLERS, value: chosen.sampler, onchange: v => change("sampler", v)}),
    gde.choice({label: "Steps", options: {10: "10", 25: "25", 50: "50", 100: "100"}, value: chosen.steps, onchange: v => change("steps", +v)}),
  ];
  const board = $("div", {class: "gde-board"},
    $("div", {class: "gde-picture"}, $("p", {class: "gde-note"}, "The network's estimate of x₀; below each the digit wanted, and how sure the noisy classifier is of it"), cleanGrid, scrub.node),
    $("div", {class: "gde-side"},
      $("div", {class: "gde-buttons"}, playButton, gde.button("Step", () => { playing = false; steps(1); }), gde.button("Reset", () => change("seed", chosen.seed)),
        gde.button("New noise", () => change("seed", chosen.seed + 1))),
      $("div", {class: "gde-readouts"}, stepOut.node, sure.node, pace.node),
      $("div", {class: "gde-aside"}, $("p", {class: "gde-note"}, "What the sampler holds: x_t"), noisyGrid)),
    $("div", {class: "gde-controls"}, ...controls.map(c => c.node)));
  const startButton = gde.button("Load the network", start, {class: "gde-button gde-first"});
  const note = $("p", {class: "gde-note", role: "status"}, "9 MB from this site or folder, once; it then runs in your browser and asks nobody anything.");
  const place = document.getElementById("gde-digits");
  place.append($("div", {class: "gde-buttons", style: "align-items: center; margin-top: 1rem"}, startButton, note));
  gde.digits = {
    load, ask, chosen, change, start, get walk() { return walk; },
    async chain(options, x_T) {  // for tests: a whole chain from given noise
      Object.assign(chosen, options);
      await load();
      begin(x_T);
      while (walk.i >= 0) await advance();
      return Array.from(walk.x);
    },
  };
})();
