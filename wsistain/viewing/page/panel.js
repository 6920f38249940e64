// The panel at the side: layers, drawn areas and their scores, facts about the stain.

import { isStatic } from "./api.js";
import { byId, make, rgb, shown } from "./dom.js";
import { scoreRows, stateBadge } from "./gallery.js";

const GRADES = [["1+", [246, 201, 69]], ["2+", [238, 119, 51]], ["3+", [170, 34, 34]]];
export const LAYERS = {
  tissue: { name: "Tissue", key: "t", opacity: 0.9, legend: [["outline of the tissue", [0, 158, 142]]] },
  roi: { name: "Areas of the run", key: "i", opacity: 1, legend: [["stained", [153, 79, 0]], ["drawn (--roi)", [0, 90, 181]]] },
  positivity: { name: "Positive pixels", key: "p", opacity: 0.8, legend: GRADES },
  trust: { name: "Trust", key: "u", opacity: 0.8, legend: [["not to be believed", [136, 34, 85]], ["doubtful", [221, 170, 51]]] },
  difference: { name: "Difference to the real IHC", key: "d", opacity: 0.8, legend: [["virtual is stronger", [204, 51, 17]], ["real is stronger", [0, 119, 187]]] },
  cells: { name: "Cells", key: "n", opacity: 1, legend: [] },
};

/** Which layers there are for a slide and its results. */
export function availableLayers(sample, results, shapes) {
  const some = (test) => results.some(test);
  return Object.keys(LAYERS).filter((kind) => ({
    tissue: Boolean(sample.picture),
    roi: shapes.length > 0 || some((r) => r.picture),
    positivity: some((r) => r.layers && r.layers.positivity),
    trust: some((r) => r.layers && r.layers.trust),
    difference: some((r) => r.layers && r.layers.difference),
    cells: some((r) => r.cells),
  })[kind]);
}

function swatches(rows) {
  return make("div", { class: "legend" }, rows.map(([name, colour]) => make("span", {}, make("i", { colour: rgb(colour) }), name)));
}

/** Build the panel anew. */
export function showPanel(page) {
  const { state, sample, results, areas, actions } = page;
  const panel = byId("panel");
  const focused = document.activeElement && panel.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  const place = panel.scrollTop;
  const parts = [make("h2", {}, "Layers")];
  for (const kind of availableLayers(sample, results, page.shapes)) {
    const layer = LAYERS[kind];
    const on = state.layers.has(kind);
    parts.push(make("label", { class: "row" },
      make("input", { type: "checkbox", checked: on, onchange: () => actions.toggle(kind), "data-key": `layer-${kind}` }),
      make("span", {}, layer.name, " ", make("kbd", {}, layer.key.toUpperCase()))));
    if (!on) continue;
    if (kind !== "cells" && kind !== "roi") {
      parts.push(make("label", { class: "row" }, make("span", { class: "soft" }, "Opacity"),
        make("input", { type: "range", min: 0, max: 1, step: 0.05, value: state.opacity[kind] ?? layer.opacity, "aria-label": `Opacity of ${layer.name}`, "data-key": `opacity-${kind}`, oninput: (event) => actions.opacity(kind, +event.target.value) })));
    }
    const classes = kind === "cells" && page.cellClasses();
    parts.push(swatches(classes ? classes.map(({ name, colour, n }) => [`${name} (${n.toLocaleString("en")})`, colour]) : layer.legend));
  }
  parts.push(make("h2", {}, "Areas"));
  parts.push(make("div", { class: "buttons" },
    make("button", { onclick: () => actions.draw("polygon"), "aria-pressed": String(areas.drawing?.kind === "polygon"), title: "Hold the button and draw round it (R)", "data-key": "draw" }, "Draw"),
    make("button", { onclick: () => actions.draw("rectangle"), "aria-pressed": String(areas.drawing?.kind === "rectangle"), "data-key": "rectangle" }, "Rectangle"),
    make("button", { onclick: () => actions.areaInView(), title: "What the first pane shows becomes an area (V)", "data-key": "in-view" }, "In view"),
    make("button", { onclick: () => actions.saveAreas(), disabled: !areas.list.length, "data-key": "save" }, "Save GeoJSON")));
  if (!areas.list.length) parts.push(make("p", { class: "soft" }, isStatic ? "Areas can be drawn and saved; scores need wsistain view, which answers them." : "Draw round something to get its scores."));
  for (const area of areas.list) parts.push(areaCard(area, page));
  for (const result of results) parts.push(...about(result));
  parts.push(make("h2", {}, "Keep"), make("div", { class: "buttons" },
    make("button", { onclick: () => actions.snapshot(), title: "A PNG with scale bar (S)", "data-key": "snapshot" }, "Snapshot"),
    make("button", { onclick: () => actions.copyLink(), title: "An address that opens this view (K)", "data-key": "link" }, "Copy link")));
  panel.replaceChildren(...parts);
  panel.scrollTop = place;
  if (focused) panel.querySelector(`[data-key="${focused}"]`)?.focus();
}

function areaCard(area, page) {
  const rows = page.results.filter((r) => area.scores[r.id] || area.problem[r.id]).map((result) => {
    const scores = area.scores[result.id];
    if (!scores) return make("tr", {}, make("td", {}, result.marker), make("td", { colSpan: 3 }, area.problem[result.id]));
    if (scores === "...") return make("tr", {}, make("td", {}, result.marker), make("td", { colSpan: 3 }, "counting …"));
    const positive = scores.positive_fraction === null ? "–" : `${shown(100 * scores.positive_fraction, 1)} %`;
    return make("tr", {}, make("td", {}, result.marker), make("td", {}, positive), make("td", {}, shown(scores.h_score, 0)), make("td", {}, shown(scores.tissue_mm2, 3)));
  });
  const cells = page.results.map((r) => area.scores[r.id]).filter((s) => s && s.cells)
    .map((s) => make("p", { class: "soft" }, `${s.marker} cells: ${Object.entries(s.cells).map(([name, n]) => `${name} ${n}`).join(", ")}`));
  return make("div", { class: "area" },
    make("header", {},
      make("input", { value: area.name, maxLength: 80, "aria-label": "Name of the area", "data-key": `name-${area.id}`, onchange: (event) => { area.name = event.target.value; page.actions.redraw(); } }),
      make("button", { class: "plain", title: "Show it", "aria-label": `Show ${area.name}`, "data-key": `show-${area.id}`, onclick: () => page.actions.showArea(area) }, "◎"),
      make("button", { class: "plain", title: "Remove it", "aria-label": `Remove ${area.name}`, "data-key": `remove-${area.id}`, onclick: () => page.actions.removeArea(area) }, "×")),
    rows.length > 0 && make("table", {}, make("thead", {}, make("tr", {}, ["", "positive", "H-score", "tissue mm²"].map((t) => make("th", { scope: "col" }, t)))), make("tbody", {}, rows)),
    cells);
}

function about(result) {
  const facts = [...scoreRows(result.scores)];
  if (result.about.system) facts.push(["system", result.about.system]);
  if (result.about.weights?.training_data) facts.push(["trained on", result.about.weights.training_data]);
  if (result.about.mpp) facts.push(["µm per px", shown(result.about.mpp, 3)]);
  if (result.about.date) facts.push(["made", result.about.date.slice(0, 16).replace("T", " ")]);
  return [
    make("h2", {}, `Virtual ${result.marker} `, stateBadge(result)),
    result.problem && make("p", {}, result.problem),
    make("dl", { class: "facts" }, facts.map(([name, value]) => [make("dt", {}, name), make("dd", {}, String(value))])),
    result.about.note && make("p", { class: "soft" }, result.about.note),
  ].filter(Boolean);
}
