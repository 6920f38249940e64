// The page: which slide, which panes, which layers; keys, the link, and news of a run that goes on.

import { getJson, isStatic, listing as getListing } from "./api.js";
import { Areas } from "./areas.js";
import { Cells } from "./cells.js";
import { byId, make, note, reducedMotion } from "./dom.js";
import { showGallery } from "./gallery.js";
import { Panes } from "./panes.js";
import { availableLayers, LAYERS, showPanel } from "./panel.js";
import { compose, saveSnapshot } from "./snapshot.js";

const MODES = [["one", "One", "1"], ["side", "Two", "2"], ["four", "Four", "4"], ["curtain", "Curtain", "c"], ["flicker", "Flicker", "f"], ["blend", "Blend", "b"]];
const PANES = { one: 1, side: 2, four: 4, curtain: 2, flicker: 2, blend: 2 };
const OBJECTIVES = [1, 2.5, 5, 10, 20, 40];
const FLICKER_MS = 700;
const LIVE_MS = 1500;

const state = { mode: "side", choice: [], layers: new Set(), opacity: {}, blend: 0.5, curtain: 0.5, sample: null, active: null };
let listing = null;
let page = null; // { sample, results, shapes } of the slide that is open
const cells = new Map();
const frames = new Map();
let flicker = 0;

const areas = new Areas(() => { if (page) { refreshPanel(); panes.redraw(); } });
const panes = new Panes(byId("panes"), { moved, opened, failed, pointed, paint });

/* What can be shown. */

/** Pictures of the open slide by key: "he", a result's id, or "real:" and a result's id. */
function choices() {
  const found = new Map();
  if (page.sample.picture) found.set("he", { name: "H&E", picture: page.sample.picture });
  for (const result of page.results) {
    if (result.picture) found.set(result.id, { name: `Virtual ${result.marker}${twins(result) ? ` (${result.name})` : ""}`, picture: result.picture, result });
    if (result.real) found.set(`real:${result.id}`, { name: `Real IHC, laid over ${result.marker}`, picture: result.real, result });
  }
  return found;
}

const twins = (result) => page.results.some((other) => other !== result && other.marker === result.marker);

function defaultChoice() {
  const keys = [...choices().keys()];
  const stains = keys.filter((key) => key !== "he" && !key.startsWith("real:"));
  const rest = keys.filter((key) => key.startsWith("real:"));
  const first = keys.includes("he") ? "he" : stains[0];
  const second = state.active && stains.includes(state.active) ? state.active : stains[0];
  const others = [...stains.filter((key) => key !== second), ...rest, first, second].filter(Boolean);
  return [first, second || first, others[0] || first, others[1] || second || first];
}

/** The result whose maps lie over a pane: its own, or over the H&E that of the stain shown beside it. */
function resultOf(index) {
  const own = choices().get(state.choice[index])?.result;
  if (own) return own;
  for (const key of state.choice.slice(0, PANES[state.mode])) {
    const other = choices().get(key)?.result;
    if (other) return other;
  }
  return page.results.find((r) => r.id === state.active) || page.results[0];
}

/** A layer's picture with its place; null until that is known. */
function framed(picture) {
  if (picture.width) return picture;
  const held = frames.get(picture.name);
  if (frames.has(picture.name)) return !held || held === "..." ? null : { ...held, name: picture.name, form: picture.form, version: picture.version };
  frames.set(picture.name, "...");
  const preparing = () => [...frames.values()].includes("...");
  note("Preparing a layer …", 600);
  getJson(`frames/${picture.name}.json`).then((frame) => { frames.set(picture.name, frame); if (!preparing()) note(""); lay(); })
    .catch((error) => { frames.set(picture.name, null); note(error.message, 10); });
  return null;
}

function lay() {
  const known = choices();
  panes.list.forEach((pane, index) => {
    const chosen = known.get(state.choice[index]);
    const base = chosen && framed(chosen.picture);
    const wanted = base ? [{ picture: base, opacity: 1 }] : [];
    const result = resultOf(index);
    const strength = (kind) => state.opacity[kind] ?? LAYERS[kind].opacity;
    for (const kind of ["tissue", "positivity", "trust", "difference"]) {
      if (!state.layers.has(kind)) continue;
      const told = kind === "tissue" ? page.sample.picture && { name: `${page.sample.picture.name}.tissue`, form: "png", version: page.sample.picture.version } : result?.layers?.[kind];
      const picture = told && framed(told);
      if (picture) wanted.push({ picture, opacity: strength(kind) });
    }
    pane.lay(wanted);
    pane.menu.replaceChildren(...[...known].map(([key, { name }]) => make("option", { value: key, selected: key === state.choice[index] }, name)));
    pane.menu.onchange = () => { state.choice[index] = pane.menu.value; state.active = choices().get(pane.menu.value)?.result?.id || state.active; lay(); refreshPanel(); keep(); };
  });
  panes.redraw();
}

function cellsOf(result) {
  if (!result?.cells) return null;
  if (!cells.has(result.id)) cells.set(result.id, new Cells(result.id, () => { panes.redraw(); if (page) refreshPanel(); }));
  return cells.get(result.id);
}

/* Modes. */

function setMode(mode) {
  const view = panes.list.length ? panes.wanted : null;
  state.mode = mode;
  panes.count(PANES[mode]);
  const isStacked = ["curtain", "flicker", "blend"].includes(mode);
  byId("panes").className = isStacked ? "stacked" : { one: "one", side: "two", four: "four" }[mode];
  for (const button of byId("modes").children) button.setAttribute("aria-checked", String(button.dataset.mode === mode));
  clearInterval(flicker);
  if (mode === "flicker" && !reducedMotion()) flicker = setInterval(flip, FLICKER_MS);
  const slider = byId("curtain");
  slider.hidden = !["curtain", "blend"].includes(mode);
  slider.setAttribute("aria-label", mode === "blend" ? "Opacity of the stain on top" : "Curtain");
  slider.value = 1000 * (mode === "blend" ? state.blend : state.curtain);
  arrange();
  lay();
  if (view) requestAnimationFrame(() => panes.show(view));
  keep();
}

/** Curtain, opacity and visibility of the pane on top. */
function arrange() {
  panes.list.forEach((pane, index) => {
    const onTop = index === 1;
    pane.element.style.clipPath = onTop && state.mode === "curtain" ? `inset(0 0 0 ${100 * state.curtain}%)` : "";
    pane.element.style.opacity = onTop && state.mode === "blend" ? state.blend : "";
    pane.element.style.visibility = "";
  });
  let line = document.querySelector("#stage .line");
  if (!line) { line = make("div", { class: "line" }); byId("stage").append(line); }
  line.hidden = state.mode !== "curtain";
  line.style.left = `${100 * state.curtain}%`;
}

function flip() {
  const top = panes.list[1];
  if (top) top.element.style.visibility = top.element.style.visibility === "hidden" ? "" : "hidden";
}

byId("curtain").addEventListener("input", (event) => {
  state[state.mode === "blend" ? "blend" : "curtain"] = event.target.value / 1000;
  arrange();
});
byId("curtain").addEventListener("change", () => keep());

/* Moving. */

let home = null;
let isOpened = false;

function opened(pane) {
  if (isOpened) { if (panes.wanted) pane.show(panes.wanted); return; }
  isOpened = true;
  panes.isReady = true;
  panes.show(panes.wanted || goHome(false));
}

function goHome(move = true) {
  const boxes = [...choices().values()].map(({ picture }) => picture).filter((picture) => picture.width);
  const first = page.sample.picture ? [page.sample.picture] : boxes;
  const x0 = Math.min(...first.map((p) => p.x_um)), y0 = Math.min(...first.map((p) => p.y_um));
  const x1 = Math.max(...first.map((p) => p.x_um + p.width * p.mpp)), y1 = Math.max(...first.map((p) => p.y_um + p.height * p.mpp));
  const size = panes.list[0].size;
  home = { x: (x0 + x1) / 2, y: (y0 + y1) / 2, u: 1.04 * Math.max((x1 - x0) / size.width, (y1 - y0) / size.height) };
  if (move) panes.show(home, reducedMotion());
  return home;
}

function zoomBy(factor) { const { x, y, u } = panes.view; panes.show({ x, y, u: u / factor }, reducedMotion()); }
function panBy(dx, dy) {
  const view = panes.view;
  const size = panes.list[0].size;
  panes.show({ x: view.x + dx * size.width * view.u, y: view.y + dy * size.height * view.u, u: view.u }, reducedMotion());
}

function moved(view) {
  const zoom = 10 / view.u;
  byId("zoom").textContent = `${zoom >= 10 ? zoom.toFixed(0) : zoom.toFixed(1)}×  ${(view.u).toPrecision(3)} µm/px`;
  keep();
}

function pointed(pane, um, event) {
  const tip = byId("tip");
  const where = byId("where");
  if (!um || !page) { tip.hidden = true; where.textContent = ""; return; }
  const mpp = page.sample.mpp;
  const px = mpp ? `  (px ${Math.floor(um.x / mpp)}, ${Math.floor(um.y / mpp)})` : "";
  where.textContent = `x ${um.x.toFixed(1)}  y ${um.y.toFixed(1)} µm${px}`;
  const held = state.layers.has("cells") && cellsOf(resultOf(panes.list.indexOf(pane)));
  const cell = held && held.at(um.x, um.y);
  tip.hidden = !cell;
  if (!cell) return;
  tip.textContent = held.describe(cell);
  const stage = byId("stage").getBoundingClientRect();
  tip.style.left = `${Math.min(event.clientX - stage.left + 14, stage.width - 200)}px`;
  tip.style.top = `${Math.min(event.clientY - stage.top + 14, stage.height - 90)}px`;
}

/* Drawing over the panes. */

function paint(pane, context, to, view, size) {
  if (!page) return;
  const index = panes.list.indexOf(pane);
  if (state.layers.has("roi")) outlines(context, to);
  if (state.layers.has("cells")) {
    const said = cellsOf(resultOf(index))?.draw(context, to, view, size);
    if (said) { context.font = "600 13px system-ui, sans-serif"; context.fillStyle = "#fff"; context.fillRect(8, 48, context.measureText(said).width + 14, 24); context.fillStyle = "#a33b00"; context.fillText(said, 15, 65); }
  }
  areas.draw(context, to);
}

function outlines(context, to) {
  const draw = (ring, colour, dash) => {
    context.beginPath();
    ring.forEach((corner, i) => { const [x, y] = to(corner[0], corner[1]); if (i) context.lineTo(x, y); else context.moveTo(x, y); });
    context.closePath();
    context.setLineDash(dash);
    context.lineWidth = 2;
    context.strokeStyle = colour;
    context.stroke();
    context.setLineDash([]);
  };
  for (const { picture } of page.results) {
    if (!picture) continue;
    const [x0, y0, x1, y1] = [picture.x_um, picture.y_um, picture.x_um + picture.width * picture.mpp, picture.y_um + picture.height * picture.mpp];
    draw([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], "rgb(153,79,0)", [8, 5]);
  }
  for (const shape of page.shapes) for (const ring of shape.rings) draw(ring, "rgb(0,90,181)", shape.name === "area" ? [] : [3, 4]);
}

const failures = new Set();
function failed(event) {
  const name = event.tiledImage?.source?.getTileUrl(0, 0, 0).split("/tiles/")[1]?.split("_files")[0];
  if (failures.has(name)) return;
  failures.add(name);
  const told = getJson(`frames/${name}.json`).then(() => "").catch((error) => error.message);
  told.then((sentence) => note(sentence || "A tile could not be read; see what wsistain view printed", 12));
}

/* The panel and what it can do. */

const actions = {
  toggle(kind) { if (state.layers.has(kind)) state.layers.delete(kind); else state.layers.add(kind); lay(); refreshPanel(); keep(); },
  opacity(kind, value) { state.opacity[kind] = value; lay(); },
  draw(kind) { if (areas.drawing) { areas.stop(panes); return; } areas.start(kind, panes); note("Hold the button and draw; Escape ends it"); },
  areaInView() {
    const { x, y, u } = panes.list[0].view;
    const size = panes.list[0].size;
    const [w, h] = [size.width * u * 0.45, size.height * u * 0.45];
    areas.add([[x - w, y - h], [x + w, y - h], [x + w, y + h], [x - w, y + h]]);
  },
  removeArea(area) { areas.remove(area); },
  showArea(area) {
    const xs = area.ring.map((c) => c[0]), ys = area.ring.map((c) => c[1]);
    const size = panes.list[0].size;
    const u = 1.3 * Math.max((Math.max(...xs) - Math.min(...xs)) / size.width, (Math.max(...ys) - Math.min(...ys)) / size.height, 0.02);
    panes.show({ x: (Math.max(...xs) + Math.min(...xs)) / 2, y: (Math.max(...ys) + Math.min(...ys)) / 2, u }, reducedMotion());
  },
  saveAreas() {
    const mpp = page.sample.mpp || page.results[0].picture?.mpp || 1;
    areas.save(mpp, page.results, page.sample.name);
  },
  snapshot() {
    const names = choices();
    saveSnapshot(compose(panes, panes.list.map((_, i) => names.get(state.choice[i])?.name || ""), ["one", "side", "four"].includes(state.mode) ? "side" : state.mode, state.curtain, state.blend), page.sample.name);
  },
  copyLink() {
    keep(true);
    navigator.clipboard?.writeText(location.href).then(() => note("The link is copied"), () => note("The link is in the address bar"));
  },
  redraw() { panes.redraw(); },
};

function refreshPanel() {
  for (const area of areas.list) areas.score(area, page.results);
  showPanel({ state, areas, actions, ...page, cellClasses: () => cellsOf(resultOf(Math.min(1, panes.list.length - 1)))?.index?.classes });
}

/* Opening a slide, and the link that keeps what is shown. */

async function openSample(sample, result, saved = {}) {
  page = { sample, results: listing.results.filter((r) => r.sample === sample.id), shapes: [] };
  state.sample = sample.id;
  state.active = result?.id || page.results.find((r) => r.picture)?.id || null;
  const known = choices();
  const kept = (saved.choice || []).filter((key) => known.has(key));
  state.choice = defaultChoice().map((key, i) => kept[i] || key);
  state.layers = new Set((saved.layers || []).filter((kind) => availableLayers(sample, page.results, page.shapes).includes(kind)));
  isOpened = panes.isReady = false;
  panes.wanted = saved.view || null;
  byId("gallery").hidden = true;
  byId("viewer").hidden = false;
  byId("modes").hidden = byId("panel-button").hidden = false;
  byId("back").hidden = listing.results.length < 2;
  byId("title").textContent = sample.name;
  document.title = `${sample.name} – wsistain`;
  panes.count(0);
  setMode(saved.mode || "side");
  refreshPanel();
  page.shapes = await getJson(`shapes/${sample.id}.json`).catch(() => []);
  if (page.shapes.length && !saved.layers) state.layers.add("roi");
  refreshPanel();
  panes.redraw();
}

function openGallery() {
  page = null;
  clearInterval(flicker);
  panes.count(0);
  history.replaceState(null, "", location.pathname + location.search);
  byId("viewer").hidden = byId("modes").hidden = byId("panel-button").hidden = byId("back").hidden = true;
  byId("gallery").hidden = false;
  byId("title").textContent = "wsistain";
  document.title = "wsistain";
  showGallery(listing, (sample, result) => openSample(sample, result));
}

let keeping = 0;
/** Keep what is shown in the address. */
function keep(now = false) {
  clearTimeout(keeping);
  if (!now) { keeping = setTimeout(() => keep(true), 250); return; }
  if (!page || !panes.list.length || !panes.wanted) return;
  const { x, y, u } = panes.wanted;
  const kept = new URLSearchParams({ s: state.sample, x: x.toFixed(1), y: y.toFixed(1), u: u.toPrecision(5), m: state.mode, p: state.choice.slice(0, PANES[state.mode]).join(",") });
  if (state.layers.size) kept.set("l", [...state.layers].join(","));
  history.replaceState(null, "", `#${kept}`);
}

function savedView() {
  const kept = new URLSearchParams(location.hash.slice(1));
  if (!kept.get("s")) return null;
  const view = { x: +kept.get("x"), y: +kept.get("y"), u: +kept.get("u") };
  const isPlace = Object.values(view).every(Number.isFinite) && view.u > 0;
  return { sample: kept.get("s"), view: isPlace ? view : null, mode: PANES[kept.get("m")] ? kept.get("m") : "side", choice: (kept.get("p") || "").split(","), layers: kept.get("l") ? kept.get("l").split(",") : [] };
}

/* Keys. */

const KEYS = [
  ["arrows", "move"], ["+ −", "closer, further"], ["0", "all of it"], ["1 2 4", "panes"], ["C", "curtain"], ["F", "flicker (space flips by hand)"], ["B", "blend"],
  ["[ ]", "curtain or blend, a step"], ["T I P U D N", "layers: tissue, areas of the run, positive, trust, difference, cells"], ["R", "draw an area"], ["V", "what is in view becomes an area"],
  ["S", "snapshot"], ["K", "copy the link"], ["L", "panel"], ["G", "all results"], ["?", "this list"],
];

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
  const target = event.target;
  if (target.matches?.("input:not([type=checkbox]):not([type=range]), textarea, select") && event.key !== "Escape") return;
  if (target.matches?.("input[type=range]") && event.key.startsWith("Arrow")) return;
  if (target.matches?.("button, input") && event.key === " ") return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (key === "?") { byId("help").showModal(); event.preventDefault(); return; }
  if (!page) return;
  const step = 0.2;
  const moves = { ArrowLeft: () => panBy(-step, 0), ArrowRight: () => panBy(step, 0), ArrowUp: () => panBy(0, -step), ArrowDown: () => panBy(0, step), "+": () => zoomBy(1.5), "=": () => zoomBy(1.5), "-": () => zoomBy(1 / 1.5), 0: () => goHome() };
  const nudge = (by) => { const name = state.mode === "blend" ? "blend" : "curtain"; state[name] = Math.min(1, Math.max(0, state[name] + by)); byId("curtain").value = 1000 * state[name]; arrange(); keep(); };
  const others = {
    r: () => actions.draw("polygon"), v: () => actions.areaInView(), s: () => actions.snapshot(), k: () => actions.copyLink(), l: () => togglePanel(), g: () => { if (!byId("back").hidden) openGallery(); },
    "[": () => nudge(-0.05), "]": () => nudge(0.05), " ": () => { if (state.mode === "flicker") flip(); }, Escape: () => { if (areas.drawing) areas.stop(panes); byId("tip").hidden = true; },
  };
  const mode = MODES.find(([, , k]) => k === key);
  const layer = Object.entries(LAYERS).find(([kind, { key: k }]) => k === key && availableLayers(page.sample, page.results, page.shapes).includes(kind));
  const act = moves[event.key] || (mode && (() => setMode(mode[0]))) || (layer && (() => actions.toggle(layer[0]))) || others[key];
  if (act) { act(); event.preventDefault(); }
}

function togglePanel(show) {
  const hide = show === undefined ? !byId("viewer").classList.contains("without-panel") : !show;
  byId("viewer").classList.toggle("without-panel", hide);
  byId("panel-button").setAttribute("aria-expanded", String(!hide));
}

function theme(next) {
  const isDark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const wanted = next ? (isDark ? "light" : "dark") : document.documentElement.dataset.theme;
  if (wanted) document.documentElement.dataset.theme = wanted;
  byId("theme").textContent = (wanted || (isDark ? "dark" : "light")) === "dark" ? "Light" : "Dark";
  if (next) { try { localStorage.setItem("wsistain-theme", wanted); } catch { /* private windows */ } }
}

/* News. */

async function look() {
  try {
    const next = await getListing();
    const before = JSON.stringify(listing.results.map((r) => [r.id, r.state, r.picture?.version, r.problem]));
    listing = next;
    showLive();
    if (JSON.stringify(next.results.map((r) => [r.id, r.state, r.picture?.version, r.problem])) === before) return;
    if (!page) { showGallery(listing, (sample, result) => openSample(sample, result)); firstOne(); return; }
    const sample = listing.samples.find((s) => s.id === page.sample.id) || page.sample;
    const hadStains = page.results.some((r) => r.picture);
    page = { ...page, sample, results: listing.results.filter((r) => r.sample === sample.id) };
    if (!hadStains || state.choice.some((key) => !choices().has(key))) state.choice = defaultChoice();
    lay();
    refreshPanel();
  } catch (error) {
    byId("live").hidden = false;
    byId("live").className = "badge damaged";
    byId("live").textContent = "the server is gone";
  }
}

function showLive() {
  const running = listing.results.filter((r) => r.state === "running");
  const badge = byId("live");
  badge.hidden = !listing.is_live;
  badge.className = "badge running";
  const done = running.map((r) => (r.blocks?.total ? Math.round(100 * r.blocks.done / r.blocks.total) : 0));
  badge.textContent = running.length ? `running, ${Math.min(...done)} %` : "waiting for the run";
}

/** With one slide there is nothing to choose from. */
function firstOne() {
  const showable = listing.samples.filter((s) => s.picture || listing.results.some((r) => r.sample === s.id && r.picture));
  if (listing.samples.length === 1 && showable.length === 1) openSample(showable[0]);
}

async function begin() {
  try { const kept = localStorage.getItem("wsistain-theme"); if (kept === "dark" || kept === "light") document.documentElement.dataset.theme = kept; } catch { /* private windows */ }
  theme(false);
  byId("modes").append(...MODES.map(([mode, name, key]) => make("button", { role: "radio", "aria-checked": "false", "data-mode": mode, title: `${name} (${key.toUpperCase()})`, onclick: () => setMode(mode) }, name)));
  byId("objectives").append(...OBJECTIVES.map((n) => make("button", { title: `As with a ${n}x objective: ${10 / n} µm per px`, onclick: () => { const { x, y } = panes.view; panes.show({ x, y, u: 10 / n }, reducedMotion()); } }, `${n}×`)));
  byId("help").append(make("h2", {}, "Keys"), make("table", {}, KEYS.map(([key, what]) => make("tr", {}, make("td", {}, make("kbd", {}, key)), make("td", {}, what)))), make("p", {}, make("button", { autofocus: true, onclick: () => byId("help").close() }, "Close")));
  byId("help-button").onclick = () => byId("help").showModal();
  byId("panel-button").onclick = () => togglePanel();
  byId("theme").onclick = () => theme(true);
  byId("back").onclick = openGallery;
  document.addEventListener("keydown", pressed);
  if (innerWidth <= 760) togglePanel(false);
  try {
    listing = await getListing();
  } catch (error) {
    byId("gallery").hidden = false;
    byId("gallery").replaceChildren(make("p", { class: "message" }, `The results cannot be listed: ${error.message}`));
    return;
  }
  showLive();
  const saved = savedView();
  const sample = saved && listing.samples.find((s) => s.id === saved.sample);
  openGallery();
  if (sample) await openSample(sample, null, saved); else firstOne();
  if (!isStatic) setInterval(() => { if (listing.is_live || document.hidden === false) look(); }, LIVE_MS);
  document.documentElement.dataset.ready = "true";
}

window.wsistain = { panes, state, areas, compose, setMode, get page() { return page; } }; // for tests and curious people
begin();
