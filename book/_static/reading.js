// Previews of what a link refers to, and terms of an equation bound to their lines of code. Without scripts the page reads as well.
(() => {
  "use strict";
  const make = (tag, properties) => Object.assign(document.createElement(tag), properties);
  const root = new URL(document.documentElement.dataset.content_root || "./", location.href);

  // --- Previews: shown by pointer or focus, they stay while pointed at, Escape takes them away.
  const tip = make("div", { id: "preview", className: "preview", role: "tooltip", hidden: true });
  let anchor = null, timer = 0, loading = null;

  function load() {
    loading ||= new Promise((resolve) => document.head.append(make("script", { src: new URL("_static/previews.js", root), onload: resolve, onerror: resolve })));
    return loading;
  }

  function key(link) {
    const url = new URL(link.href);
    if (!url.href.startsWith(root.href)) return null;
    const page = url.href.slice(root.href.length).split("#")[0];
    const here = location.href.slice(root.href.length).split("#")[0];
    if (page === here && !url.hash) return null;
    return page + decodeURIComponent(url.hash);
  }

  async function show(link) {
    await load();
    const text = (window.previews || {})[key(link)];
    if (!text || anchor !== link) return;
    link.removeAttribute("title");
    tip.innerHTML = text;
    tip.hidden = false;
    link.setAttribute("aria-describedby", tip.id);
    if (window.MathJax && MathJax.typesetPromise) {
      MathJax.typesetClear([tip]);
      await MathJax.typesetPromise([tip]);
    }
    const at = link.getClientRects()[0], size = tip.getBoundingClientRect(), width = document.documentElement.clientWidth;
    const above = at.bottom + size.height + 12 > innerHeight && at.top > size.height + 12;
    tip.style.left = `${scrollX + Math.max(8, Math.min(at.left, width - size.width - 8))}px`;
    tip.style.top = `${scrollY + (above ? at.top - size.height - 6 : at.bottom + 6)}px`;
  }

  function later(act, wait) {
    clearTimeout(timer);
    timer = setTimeout(act, wait);
  }

  function hide() {
    clearTimeout(timer);
    if (anchor) anchor.removeAttribute("aria-describedby");
    anchor = null;
    tip.hidden = true;
  }

  function leave() {  // the pointer rests elsewhere while the keyboard reads, and the other way round
    if (!tip.matches(":hover") && !anchor?.matches(":hover, :focus-visible")) hide();
  }

  function pointed(target, wait) {  // a link by the pointer waits a moment; by the keyboard it is there at once, and no pointer can come between
    const link = target.closest?.(".bd-article a.reference.internal, .bd-article a.term");
    const take = () => { hide(); anchor = link; show(link); };
    if (tip.contains(target) || (link && link === anchor)) clearTimeout(timer);
    else if (!link) later(leave, 200);
    else if (wait) later(take, wait);
    else take();
  }

  document.addEventListener("pointerover", (event) => { if (event.pointerType !== "touch") pointed(event.target, 200); });
  document.addEventListener("focusin", (event) => { if (event.target.matches(":focus-visible")) pointed(event.target, 0); });
  document.addEventListener("focusout", () => later(leave, 200));
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });

  // --- Terms: the token of the code becomes a link to its equation; below the equation stands a button for each term.
  function range(block, from, to) {  // of characters in the text of an element
    const walker = document.createTreeWalker(block, NodeFilter.SHOW_TEXT), found = document.createRange();
    for (let at = 0, node; (node = walker.nextNode()); at += node.length) {
      if (at <= from && from < at + node.length) found.setStart(node, from - at);
      if (at < to && to <= at + node.length) { found.setEnd(node, to - at); return found; }
    }
    return null;
  }

  function wrap(block, from, to, element) {
    const part = range(block, from, to);
    element.append(part.extractContents());
    part.insertNode(element);
    return element;
  }

  function token(bound, id) {  // the link in the code, made once for all terms that share it
    const block = [...document.querySelectorAll("div.cell_input pre")].find((pre) => pre.textContent.includes(`def ${bound.function}(`));
    if (!block) return null;
    const text = block.textContent, start = text.indexOf(bound.line, text.indexOf(`def ${bound.function}(`));
    if (start < 0) return null;
    const from = start + bound.line.search(new RegExp(`(?<!\\w)${bound.token.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}(?!\\w)`)), name = `${from}`;
    const made = [...block.querySelectorAll("a.term")].find((a) => a.dataset.from === name);
    if (made) return made;
    if (![...block.querySelectorAll(".code-line")].some((line) => line.dataset.start === `${start}`)) {
      const end = text.indexOf("\n", start);
      wrap(block, start, end < 0 ? text.length : end, make("span", { className: "code-line" })).dataset.start = start;
    }
    const link = wrap(block, from, from + bound.token.length, make("a", { className: `term role-${bound.role}`, href: `#${id}` }));
    link.dataset.from = name;
    return link;
  }

  function bind(id, terms) {
    const equation = document.getElementById(id), legend = make("div", { className: "terms" });
    legend.setAttribute("role", "group");
    legend.setAttribute("aria-label", "Terms and their lines of code");
    for (const bound of terms) {
      const link = token(bound, id);
      if (!link) continue;
      const button = make("button", { type: "button", className: `role-${bound.role}`, textContent: bound.term.replace("-", " "), title: `Go to its line in ${bound.function}` });
      const causes = new Set();  // a term stays marked while anything that marks it goes on
      const mark = (cause, on) => {
        const before = causes.size > 0;
        if (on) causes.add(cause); else causes.delete(cause);
        if (before === causes.size > 0) return;
        for (const element of [...equation.querySelectorAll(`.term-${bound.term}`), link, link.closest(".code-line"), button]) element.classList.toggle("marked", !before);
      };
      for (const element of [button, link]) {
        for (const [event, cause, on] of [["pointerenter", "pointer", true], ["pointerleave", "pointer", false], ["focus", "focus", true], ["blur", "focus", false]]) element.addEventListener(event, () => mark(`${element.localName} ${cause}`, on));
      }
      equation.addEventListener("pointerover", (event) => mark("equation", Boolean(event.target.closest(`.term-${bound.term}`))));
      equation.addEventListener("pointerleave", () => mark("equation", false));
      button.addEventListener("click", () => { link.scrollIntoView({ block: "center" }); link.focus({ preventScroll: true }); });
      legend.append(button);
    }
    if (!legend.children.length) return;
    if (equation.matches(".math")) equation.after(legend); else equation.append(legend);
  }

  // --- A long formula is broken for the width it was set at: when a phone is turned, it is set anew.
  screen.orientation?.addEventListener("change", () => window.MathJax?.startup?.document?.rerenderPromise?.(MathJax._.core.MathItem.STATE.METRICS));

  document.addEventListener("DOMContentLoaded", () => {
    document.body.append(tip);
    if (location.protocol === "file:") for (const link of document.querySelectorAll("a[href$='-site.zip']")) link.replaceWith(...link.childNodes);  // this is the archive
    const terms = document.getElementById("terms");
    if (terms) Object.entries(JSON.parse(terms.textContent)).forEach(([id, bound]) => bind(id, bound));
  });
})();
