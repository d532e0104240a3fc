/* What the pages under "Play" share: elements, controls, colours that follow the theme, canvases as sharp as the screen. */
"use strict";

gde.COLOR = {mean: "#0072B2", variance: "#009E73", gradient: "#D55E00", scale: "#CC79A7", noise: "#8C8C8C",
             first: "#56B4E9", second: "#E69F00"};  // viz.COLOR, of the chapter on plotting

gde.element = function (tag, attributes = {}, ...children) {
  const node = tag.startsWith("svg:") ? document.createElementNS("http://www.w3.org/2000/svg", tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes))
    if (typeof value === "function") node.addEventListener(name, value); else node.setAttribute(name, value);
  node.append(...children);
  return node;
};

gde.calm = function () { return matchMedia("(prefers-reduced-motion: reduce)").matches; };

gde.dark = function () { return document.documentElement.dataset.theme === "dark"; };

gde.ink = function () { return gde.dark() ? "#e8e8ea" : "#1d2129"; };

gde.onTheme = function (redraw) {
  new MutationObserver(redraw).observe(document.documentElement, {attributes: true, attributeFilter: ["data-theme"]});
};

/* A slider with its label and its value in words; `role` is the colour of what it moves. */
gde.slider = function ({label, min, max, step, value, role = "noise", words = v => String(v), oninput}) {
  const id = "gde-" + label.replace(/\W+/g, "-").toLowerCase(), shown = gde.element("output", {for: id}, words(value));
  const input = gde.element("input", {type: "range", id, min, max, step, value, class: "gde-slider", style: `--role: ${gde.COLOR[role]}`});
  const tell = () => { shown.textContent = words(+input.value); input.setAttribute("aria-valuetext", words(+input.value)); };
  input.addEventListener("input", () => { tell(); oninput(+input.value); });
  tell();
  return {node: gde.element("div", {class: "gde-control"}, gde.element("label", {for: id}, label), shown, input), input,
          set(v) { input.value = v; tell(); }};
};

gde.choice = function ({label, options, value, onchange}) {
  const id = "gde-" + label.replace(/\W+/g, "-").toLowerCase();
  const input = gde.element("select", {id, change: () => onchange(input.value)},
    ...Object.entries(options).map(([key, words]) => gde.element("option", {value: key}, words)));
  input.value = value;
  return {node: gde.element("div", {class: "gde-control"}, gde.element("label", {for: id}, label), input), input};
};

gde.button = function (words, onclick, attributes = {}) { return gde.element("button", {type: "button", class: "gde-button", click: onclick, ...attributes}, words); };

/* A number with its name above it and a remark below. */
gde.readout = function (name) {
  const value = gde.element("span", {class: "gde-value"}, "–"), remark = gde.element("span", {class: "gde-remark"});
  return {node: gde.element("div", {class: "gde-readout"}, gde.element("span", {class: "gde-name"}, name), value, remark),
          show(number, words) { value.textContent = number; if (words !== undefined) remark.textContent = words; }};
};

/* Words for those who hear the page: said when something has come to rest, not sixty times a second. */
gde.voice = function () {
  const node = gde.element("p", {class: "gde-voice", "aria-live": "polite"});
  let waiting = null;
  return {node, say(words) { clearTimeout(waiting); waiting = setTimeout(() => { node.textContent = words; }, 400); }};
};

/* A canvas that fills its place, `ratio` = height / width; `draw(context, width, height)` in CSS pixels. */
gde.canvas = function (ratio, draw, attributes = {}) {
  const node = gde.element("canvas", {role: "img", ...attributes}), context = node.getContext("2d");
  function redraw() {
    const width = node.clientWidth, height = width * ratio, density = Math.min(2, devicePixelRatio || 1);
    if (!width) return;
    if (node.width !== Math.round(width * density)) {
      node.width = Math.round(width * density), node.height = Math.round(height * density);
    }
    context.setTransform(density, 0, 0, density, 0, 0);
    context.clearRect(0, 0, width, height);
    draw(context, width, height);
  }
  node.style.aspectRatio = `1 / ${ratio}`;
  new ResizeObserver(redraw).observe(node);
  gde.onTheme(redraw);
  return {node, redraw};
};

/* Put the page's pieces in the place of its still picture. */
gde.stage = function (id, ...children) {
  const place = document.getElementById(id);
  place.replaceChildren(...children);
  place.classList.add("gde-live");
};
