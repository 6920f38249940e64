// All slides as cards: thumbnails, scores, state.

import { address } from "./api.js";
import { byId, make, shown } from "./dom.js";

const NAMES = { percent_positive: ["positive cells %", 1], h_score: ["H-score of cells", 0], allred: ["Allred", 0], ki67_index: ["Ki67 index %", 1], her2_score: ["HER2", 0], cells: ["cells", 0], trust: ["trust", 2], seam_score: ["seam score", 2] };

let words = "";
let sorting = "name";

/** Rows of [name, value] for the scores of a result. */
export function scoreRows(scores) {
  const rows = scores.category ? [["by the guideline", scores.category]] : [];
  for (const [key, [name, digits]] of Object.entries(NAMES)) {
    const held = scores[key];
    if (held === undefined) continue;
    const { value, low, high } = held !== null && typeof held === "object" ? held : { value: held };
    const interval = Number.isFinite(low) && Number.isFinite(high) ? ` (${shown(low, digits)} to ${shown(high, digits)})` : "";
    rows.push([name, shown(value, digits) + interval]);
  }
  return rows;
}

export function stateBadge(result) {
  const done = result.blocks && result.blocks.total ? ` ${Math.round(100 * result.blocks.done / result.blocks.total)} %` : "";
  return make("span", { class: `badge ${result.state}`, title: result.problem || undefined }, result.state + done);
}

/** Show the cards; `open(sample, result)` is called for the one that is chosen. */
export function showGallery(listing, open) {
  const gallery = byId("gallery");
  const hadFocus = document.activeElement && document.activeElement.id;
  const cards = [];
  for (const result of listing.results) {
    const sample = listing.samples.find((each) => each.id === result.sample);
    cards.push({ sample, result });
  }
  const key = { name: (c) => c.result.name.toLowerCase(), state: (c) => c.result.state, score: (c) => -(c.result.scores.h_score?.value ?? -1) }[sorting];
  const found = cards.filter(({ result }) => `${result.name} ${result.marker} ${result.state}`.toLowerCase().includes(words.toLowerCase()))
    .sort((a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0));
  const search = make("input", { type: "search", id: "search", placeholder: "Name, marker or state", value: words, "aria-label": "Search", oninput: (event) => { words = event.target.value; showGallery(listing, open); } });
  const sort = make("select", { id: "sort", "aria-label": "Sort by", onchange: (event) => { sorting = event.target.value; showGallery(listing, open); } },
    ["name", "state", "score"].map((name) => make("option", { value: name, selected: name === sorting }, `by ${name}`)));
  gallery.replaceChildren(
    make("div", { class: "tools" }, search, sort, make("span", { class: "soft" }, `${found.length} of ${cards.length} results, ${listing.samples.length} ${listing.samples.length === 1 ? "slide" : "slides"}. ${listing.statement}`)),
    found.length ? make("div", { class: "cards" }, found.map(({ sample, result }) => card(sample, result, open)))
      : make("p", { class: "message" }, cards.length ? "Nothing of that name." : "Nothing is here yet: waiting for the run to begin."));
  if (hadFocus === "search") { search.focus(); search.setSelectionRange(words.length, words.length); }
}

function card(sample, result, open) {
  const thumbs = [sample.picture, result.picture].filter(Boolean);
  const rows = scoreRows(result.scores);
  return make("button", { class: "card", onclick: () => open(sample, result), disabled: !result.picture, "aria-label": `${result.name}, ${result.state}` },
    make("div", { class: thumbs.length < 2 ? "thumbs one" : "thumbs" }, thumbs.map((picture) =>
      make("img", { src: address(`thumbnails/${picture.name}.jpg`, picture.version), alt: "", loading: "lazy" }))),
    make("div", { class: "body" },
      make("span", { class: "name" }, result.name),
      make("span", { class: "row" }, make("span", { class: "badge" }, result.marker), stateBadge(result)),
      result.problem && make("span", { class: "soft" }, result.problem),
      rows.length > 0 && make("dl", {}, rows.map(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]))));
}
