"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = id => document.getElementById(id);
  const svg = $("graph"), world = $("world"), strip = $("strip"), stage = $("stage");
  const nodes = data.nodes, edges = data.edges, NS = svg.namespaceURI;
  const TALL = 50, LOW = 28;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const into = nodes.map(() => []), out = nodes.map(() => []);
  edges.forEach((e, i) => { out[e[0]].push(i); into[e[1]].push(i); });
  const kernel = n => !["input", "output", "view"].includes(n.k);
  const height = n => kernel(n) ? TALL : LOW;
  const words = nodes.map(n => [n.n, n.k, n.l, n.c || "", ...n.d.map(d => d[1])].join(" ").toLowerCase());

  // -- colours ---------------------------------------------------------------------------------
  const RAMP = { light: [[238, 241, 243], [255, 222, 148], [245, 138, 74], [204, 44, 72], [110, 14, 84]],
                 dark: [[35, 44, 52], [92, 66, 40], [178, 88, 44], [224, 62, 84], [255, 150, 190]] };
  const PALETTE = ["#4c8dbf", "#e09f3e", "#5fa777", "#b56576", "#8e7cc3", "#c9ada7", "#3d9a9a", "#d98a6a", "#7a8b99",
                   "#a3b18a", "#cf6a87", "#6d98ba"];
  const ramp = v => {
    const stops = RAMP[dark.matches ? "dark" : "light"], at = Math.min(1, Math.max(0, v)) * (stops.length - 1);
    const i = Math.min(stops.length - 2, Math.floor(at)), f = at - i;
    return stops[i].map((a, k) => Math.round(a + (stops[i + 1][k] - a) * f));
  };
  const css = c => `rgb(${c.join(" ")})`;
  const hex = h => [1, 3, 5].map(i => parseInt(h.slice(i, i + 2), 16));
  const bright = c => (0.299 * c[0] + 0.587 * c[1] + 0.114 * c[2]) > 140;
  const most = Math.max(1e-12, ...nodes.map(n => n.p || 0));
  const ranked = key => [...new Set(nodes.filter(kernel).map(key))].sort();
  const kinds = ranked(n => n.k), precisions = ranked(n => n.c || "none");
  const idle = () => ramp(0);
  const MODES = {
    time: { label: "time", colour: n => n.p === undefined ? idle() : ramp(Math.sqrt(n.p / most)) },
    limit: { label: "of the limit", colour: n => n.f === undefined ? idle() : ramp(1 - Math.min(1, n.f)) },
    kind: { label: "kind", colour: n => hex(PALETTE[kinds.indexOf(n.k) % PALETTE.length]) },
    precision: { label: "precision", colour: n => hex(PALETTE[precisions.indexOf(n.c || "none") % PALETTE.length]) },
  };
  if (!nodes.some(n => n.p !== undefined)) delete MODES.time;
  if (!nodes.some(n => n.f !== undefined)) delete MODES.limit;
  let mode = Object.keys(MODES)[0];
  const percent = v => v >= 0.0995 ? (100 * v).toFixed(0) + " %" : (100 * v).toFixed(1) + " %";

  // -- drawing ---------------------------------------------------------------------------------
  const make = (parent, tag, attributes, text) => {
    const e = document.createElementNS(NS, tag);
    for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
    if (text !== undefined) e.textContent = text;
    parent.appendChild(e);
    return e;
  };
  const route = e => {
    const a = nodes[e[0]], b = nodes[e[1]];
    let x = a.x, y = a.y + height(a) / 2;
    const endX = b.x, endY = b.y - height(b) / 2 - 2;
    if (e[3] === null) {
      const side = Math.max(a.x, b.x) + 190;
      return `M${x} ${y}C${side} ${y + 90} ${side} ${endY - 90} ${endX} ${endY}`;
    }
    let path = `M${x} ${y}`;
    for (const [px, py] of [...e[3], [endX, endY]]) {
      const half = (py - y) / 2;
      path += `C${x} ${y + half} ${px} ${py - half} ${px} ${py}`;
      x = px; y = py;
    }
    return path;
  };
  // Edges across many ranks: a stub with the source's name at the reader, and the whole line when one end is chosen.
  const stub = e => {
    const a = nodes[e[0]], b = nodes[e[1]], x = b.x + b.w * 0.36, y = b.y - height(b) / 2 - 2;
    const g = make($("edges"), "g", { class: "stub" });
    make(g, "path", { d: `M${x + 12} ${y - 22}C${x + 3} ${y - 18} ${x} ${y - 12} ${x} ${y}` });
    make(g, "text", { x: x + 16, y: y - 18 }, a.l);
  };
  const lines = edges.map(e => {
    if (e[3] === null) stub(e);
    return make($("edges"), "path", { d: route(e), class: e[3] === null ? "beside" : "" });
  });
  const boxes = nodes.map((n, i) => {
    const h = height(n), left = n.x - n.w / 2, top = n.y - h / 2;
    const special = ["input", "output", "view", "host", "control"].includes(n.k) ? " " + n.k : "";
    const g = make($("nodes"), "g", { class: "node" + special, tabindex: "-1", role: "button", "data-i": i,
      "aria-label": [n.k, n.n, n.t, n.p !== undefined ? percent(n.p) : ""].filter(Boolean).join(", ") });
    make(g, "rect", { x: left, y: top, width: n.w, height: h, rx: kernel(n) ? 9 : h / 2 });
    if (kernel(n)) {
      make(g, "text", { class: "kind", x: left + 13, y: top + 20 }, n.k);
      if (n.t) make(g, "text", { class: "time", x: left + n.w - 13, y: top + 20 }, n.t);
      make(g, "text", { x: left + 13, y: top + 38 }, n.l);
    } else make(g, "text", { x: n.x, y: n.y + 4 }, n.l);
    return g;
  });
  const paint = () => {
    nodes.forEach((n, i) => {
      if (!kernel(n)) return;
      const c = MODES[mode].colour(n);
      boxes[i].firstChild.setAttribute("fill", css(c));
      boxes[i].classList.toggle("dark", !bright(c));
      boxes[i].classList.toggle("light", bright(c));
    });
    const legend = $("legend"), key = (c, text) => {
      const s = document.createElement("span"), box = document.createElement("i");
      box.style.background = c; s.append(box, text); return s;
    };
    legend.replaceChildren();
    if (mode === "time" || mode === "limit") {
      const bar = document.createElement("span"), v = [0, 0.25, 0.5, 0.75, 1];
      bar.className = "ramp";
      bar.style.background = `linear-gradient(90deg, ${v.map(x => css(ramp(x))).join(", ")})`;
      legend.append(mode === "time" ? "0" : "at the limit", bar,
                    mode === "time" ? percent(most) + " of the time" : "far from it");
    } else if (mode === "kind") legend.append(...kinds.map((k, i) => key(PALETTE[i % PALETTE.length], k)));
    else legend.append(...precisions.map((k, i) => key(PALETTE[i % PALETTE.length], k)));
    if (nodes.some(n => n.k === "host" || n.k === "control")) {
      const s = key("none", "on the host"); s.firstChild.style.border = "2px dashed var(--warn)"; legend.append(s);
    }
    slowest(); overview();
  };

  // -- the view --------------------------------------------------------------------------------
  const view = { x: 0, y: 0, k: 1 };
  const clamp = (v, a, b) => Math.min(b, Math.max(a, v));
  let frame = 0, goal = null;
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const show = () => {
    world.setAttribute("transform", `translate(${view.x} ${view.y}) scale(${view.k})`);
    svg.classList.toggle("far", view.k < 0.34);
    overview();
  };
  const go = (to, quick) => {
    cancelAnimationFrame(frame);
    goal = to;
    const from = { ...view }, start = performance.now();
    if (quick || calm.matches) { Object.assign(view, to); show(); return; }
    const step = now => {
      const t = clamp((now - start) / 260, 0, 1), e = 1 - (1 - t) ** 3;
      for (const k of ["x", "y", "k"]) view[k] = from[k] + (to[k] - from[k]) * e;
      show();
      if (t < 1) frame = requestAnimationFrame(step); else goal = null;
    };
    frame = requestAnimationFrame(step);
  };
  const zoom = (factor, cx, cy) => {
    const k = clamp(view.k * factor, 0.01, 3);
    go({ k, x: cx - (cx - view.x) * k / view.k, y: cy - (cy - view.y) * k / view.k }, true);
  };
  const size = () => ({ w: stage.clientWidth, h: stage.clientHeight });
  const all = quick => {
    const { w, h } = size(), k = clamp(Math.min(w / (data.width + 120), h / (data.height + 160)), 0.01, 1);
    go({ k, x: (w - data.width * k) / 2, y: (h - data.height * k) / 2 }, quick);
  };
  const first = () => {
    const { w, h } = size(), k = clamp((w - 40) / (data.width + 80), 0.55, 1);
    if ((data.height + 160) * 0.5 < h) { all(true); return; }
    go({ k, x: w / 2 - data.width / 2 * k, y: 60 }, true);
  };
  const look = i => {
    const { w, h } = size(), n = nodes[i], k = Math.max(view.k, 0.8);
    go({ k, x: w / 2 - n.x * k, y: h / 2 - n.y * k });
  };

  const strip2d = strip.getContext("2d");
  const overview = () => {
    const ratio = devicePixelRatio || 1, w = strip.clientWidth, h = strip.clientHeight;
    if (!w || !h) return;
    if (strip.width !== w * ratio || strip.height !== h * ratio) { strip.width = w * ratio; strip.height = h * ratio; }
    const c = strip2d, sy = h / (data.height + 80), sx = (w - 8) / Math.max(data.width, 1);
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.clearRect(0, 0, w, h);
    nodes.forEach((n, i) => {
      if (!kernel(n)) return;
      c.fillStyle = i === chosen ? getComputedStyle(document.documentElement).getPropertyValue("--ours")
                                 : css(MODES[mode].colour(n));
      c.fillRect(4 + (n.x - n.w / 2) * sx, (n.y + 15) * sy, Math.max(2, n.w * sx), Math.max(1.5, TALL * sy));
    });
    const top = (-view.y / view.k + 40) * sy, tall = size().h / view.k * sy;
    c.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--ours");
    c.lineWidth = 1.5;
    c.strokeRect(1.5, clamp(top, 1, h - 4), w - 3, clamp(tall, 6, h - 2));
  };
  const jump = e => {
    const h = strip.clientHeight, y = (e.offsetY / h) * (data.height + 80) - 40;
    go({ ...view, y: size().h / 2 - y * view.k }, true);
  };
  strip.addEventListener("pointerdown", e => { strip.setPointerCapture(e.pointerId); jump(e); });
  strip.addEventListener("pointermove", e => { if (e.buttons) jump(e); });

  // -- choosing --------------------------------------------------------------------------------
  let chosen = -1;
  const element = (tag, text, className) => {
    const e = document.createElement(tag);
    if (text !== undefined) e.textContent = text;
    if (className) e.className = className;
    return e;
  };
  const link = i => {
    const b = element("button", nodes[i].n);
    b.addEventListener("click", () => choose(i, true));
    return b;
  };
  const release = () => {
    if (chosen >= 0) { boxes[chosen].classList.remove("chosen"); boxes[chosen].setAttribute("tabindex", "-1"); }
    chosen = -1;
    lines.forEach(l => l.classList.remove("on", "off"));
    $("detail").hidden = true;
    boxes[0]?.setAttribute("tabindex", "0");
    overview();
  };
  const choose = (i, move) => {
    release();
    boxes[0]?.setAttribute("tabindex", "-1");
    chosen = i;
    const n = nodes[i], box = boxes[i];
    box.classList.add("chosen");
    box.setAttribute("tabindex", "0");
    box.focus({ preventScroll: true });
    const mine = new Set([...into[i], ...out[i]]);
    lines.forEach((l, e) => l.classList.add(mine.has(e) ? "on" : "off"));
    const d = $("detail"), list = element("dl");
    const row = (k, v) => {
      const dd = element("dd");
      if (Array.isArray(v)) v.forEach((x, j) => { if (j) dd.append(element("br")); dd.append(x); });
      else dd.textContent = v;
      if (k === "computes" || k === "reads" || k === "writes" || k === "parameters") dd.className = "code";
      list.append(element("dt", k), dd);
    };
    if (n.t) row("time", n.t + (n.p !== undefined ? `, ${percent(n.p)} of all layers${data.basis ? " (" + data.basis + ")" : ""}` : ""));
    n.d.forEach(([k, v]) => row(k, v.includes("\n") ? v.split("\n") : v));
    const near = (list_, end) => [...new Set(list_.map(e => edges[e][end]))].slice(0, 24).map(link);
    if (into[i].length) row("comes from", near(into[i], 0));
    if (out[i].length) row("goes to", near(out[i], 1));
    d.replaceChildren(element("h2", n.k), element("p", n.n, "where"), list);
    d.hidden = false;
    d.parentElement.scrollTop = 0;
    if (move) look(i); else overview();
  };
  const slowest = () => {
    const best = nodes.map((n, i) => i).filter(i => nodes[i].p > 0).sort((a, b) => nodes[b].p - nodes[a].p).slice(0, 12);
    $("slow").replaceChildren(...best.map(i => {
      const li = element("li"), b = element("button"), bar = element("span", "", "bar");
      bar.style.width = Math.max(1, 100 * nodes[i].p / most) + "%";
      bar.style.background = css(ramp(Math.max(0.25, Math.sqrt(nodes[i].p / most))));
      b.append(element("span", `${nodes[i].k}  ${nodes[i].l}`), element("span", `${nodes[i].t}, ${percent(nodes[i].p)}`), bar);
      b.addEventListener("click", () => choose(i, true));
      li.append(b);
      return li;
    }));
    $("slow").previousElementSibling.hidden = !best.length;
  };

  // -- searching -------------------------------------------------------------------------------
  let hits = [], at = -1;
  const search = () => {
    const terms = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    hits = terms.length ? nodes.map((n, i) => i).filter(i => terms.every(t => words[i].includes(t))) : [];
    at = -1;
    svg.classList.toggle("searching", terms.length > 0);
    const inside = new Set(hits);
    boxes.forEach((b, i) => b.classList.toggle("hit", inside.has(i)));
    const found = $("found");
    found.hidden = !terms.length;
    found.replaceChildren(element("h2", hits.length ? `${hits.length} found` : "nothing found"),
      ...hits.slice(0, 40).map(i => {
        const b = element("button");
        b.append(element("span", `${nodes[i].k}  ${nodes[i].l}`), element("span", nodes[i].t || ""));
        b.addEventListener("click", () => choose(i, true));
        return b;
      }));
  };
  $("search").addEventListener("input", search);
  $("search").addEventListener("keydown", e => {
    if (e.key === "Enter" && hits.length) {
      at = (at + (e.shiftKey ? hits.length - 1 : 1)) % hits.length;
      choose(hits[at], true);
      $("search").focus();
    } else if (e.key === "Escape") { $("search").value = ""; search(); $("search").blur(); }
    e.stopPropagation();
  });

  // -- pointer and keys --------------------------------------------------------------------------
  const fingers = new Map();
  let moved = 0, spread = 0;
  svg.addEventListener("pointerdown", e => {
    fingers.set(e.pointerId, [e.offsetX, e.offsetY]);
    moved = 0;
    if (fingers.size === 2) { const [a, b] = [...fingers.values()]; spread = Math.hypot(a[0] - b[0], a[1] - b[1]); }
  });
  svg.addEventListener("pointermove", e => {
    const last = fingers.get(e.pointerId);
    if (!last) return;
    const now = [e.offsetX, e.offsetY];
    moved += Math.abs(now[0] - last[0]) + Math.abs(now[1] - last[1]);
    if (moved > 4) { svg.setPointerCapture(e.pointerId); svg.classList.add("moving"); }
    fingers.set(e.pointerId, now);
    if (fingers.size === 2) {
      const [a, b] = [...fingers.values()], wide = Math.hypot(a[0] - b[0], a[1] - b[1]);
      if (spread) zoom(wide / spread, (a[0] + b[0]) / 2, (a[1] + b[1]) / 2);
      spread = wide;
    } else go({ ...view, x: view.x + now[0] - last[0], y: view.y + now[1] - last[1] }, true);
  });
  const lift = e => { fingers.delete(e.pointerId); svg.classList.remove("moving"); };
  svg.addEventListener("pointerup", lift);
  svg.addEventListener("pointercancel", lift);
  svg.addEventListener("click", e => {
    if (moved > 4) return;
    const g = e.target.closest(".node");
    if (g) choose(Number(g.dataset.i), false); else release();
  });
  svg.addEventListener("wheel", e => {
    e.preventDefault();
    if (e.ctrlKey || !e.shiftKey) zoom(Math.exp(-e.deltaY * (e.ctrlKey ? 0.01 : 0.0015)), e.offsetX, e.offsetY);
    else go({ ...view, x: view.x - e.deltaX - e.deltaY }, true);
  }, { passive: false });
  const middle = () => [size().w / 2, size().h / 2];
  $("closer").addEventListener("click", () => zoom(1.35, ...middle()));
  $("farther").addEventListener("click", () => zoom(1 / 1.35, ...middle()));
  $("whole").addEventListener("click", () => all(false));
  const step = direction => {
    if (chosen < 0) { choose(0, true); return; }
    const n = nodes[chosen];
    if (direction === "up" || direction === "down") {
      const next = (direction === "up" ? into : out)[chosen].map(e => edges[e][direction === "up" ? 0 : 1]);
      if (next.length) choose(next.reduce((a, b) => Math.abs(nodes[b].x - n.x) < Math.abs(nodes[a].x - n.x) ? b : a), true);
      return;
    }
    const sign = direction === "right" ? 1 : -1;
    const row = nodes.map((m, i) => i).filter(i => nodes[i].y === n.y && sign * (nodes[i].x - n.x) > 0);
    if (row.length) choose(row.reduce((a, b) => Math.abs(nodes[b].x - n.x) < Math.abs(nodes[a].x - n.x) ? b : a), true);
  };
  const KEYS = { ArrowUp: () => step("up"), ArrowDown: () => step("down"), ArrowLeft: () => step("left"),
    ArrowRight: () => step("right"), "/": () => $("search").focus(), "+": () => zoom(1.35, ...middle()),
    "=": () => zoom(1.35, ...middle()), "-": () => zoom(1 / 1.35, ...middle()), 0: () => all(false), Escape: release,
    Home: () => choose(0, true), End: () => choose(nodes.length - 1, true) };
  document.addEventListener("keydown", e => {
    const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement?.tagName);
    if (typing || e.ctrlKey || e.metaKey || e.altKey || !KEYS[e.key]) return;
    e.preventDefault();
    KEYS[e.key]();
  });
  boxes.forEach((b, i) => b.addEventListener("keydown", e => {
    if (e.key === "Enter" || e.key === " ") { e.preventDefault(); choose(i, false); }
  }));

  // -- start -----------------------------------------------------------------------------------
  Object.entries(MODES).forEach(([k, m]) => {
    const b = element("button", m.label);
    b.setAttribute("role", "radio");
    b.setAttribute("aria-checked", String(k === mode));
    b.addEventListener("click", () => {
      mode = k;
      for (const other of $("modes").children) other.setAttribute("aria-checked", String(other === b));
      paint();
    });
    $("modes").append(b);
  });
  $("sum").textContent = data.summary;
  dark.addEventListener("change", paint);
  addEventListener("resize", overview);
  boxes[0]?.setAttribute("tabindex", "0");
  paint();
  first();
})();
