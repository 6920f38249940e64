// Areas that are drawn: by pointer or as what is in view; scored by the server; saved as GeoJSON for QuPath.

import { isStatic, postJson } from "./api.js";
import { note, save } from "./dom.js";

export class Areas {
  constructor(changed) {
    this.changed = changed;
    this.list = [];
    this.drawing = null; // { kind, ring, pane }
    this.number = 0;
  }

  /** Begin to draw with a pointer: "polygon" (free hand) or "rectangle". */
  start(kind, panes) {
    this.drawing = { kind, ring: [], pane: null };
    for (const pane of panes.list) {
      pane.element.classList.add("drawing");
      pane.canvas.onpointerdown = (event) => {
        event.preventDefault();
        pane.canvas.setPointerCapture(event.pointerId);
        const { x, y } = pane.umAt(event);
        this.drawing.pane = pane;
        this.drawing.ring = [[x, y]];
      };
      pane.canvas.onpointermove = (event) => {
        if (!this.drawing || this.drawing.pane !== pane) return;
        const { x, y } = pane.umAt(event);
        const ring = this.drawing.ring;
        if (kind === "rectangle") {
          const [x0, y0] = ring[0];
          this.drawing.ring = [[x0, y0], [x, y0], [x, y], [x0, y]];
        } else {
          const [lastX, lastY] = ring[ring.length - 1];
          if (Math.hypot(x - lastX, y - lastY) > 3 * pane.view.u) ring.push([x, y]);
        }
        panes.redraw();
      };
      pane.canvas.onpointerup = () => {
        if (!this.drawing || this.drawing.pane !== pane) return;
        const ring = this.drawing.ring;
        this.stop(panes);
        if (ring.length >= 3) this.add(ring);
        else note("An area needs at least three corners: hold the button and draw round it");
      };
      pane.canvas.onpointercancel = () => this.stop(panes);
    }
    this.changed();
  }

  stop(panes) {
    this.drawing = null;
    for (const pane of panes.list) {
      pane.element.classList.remove("drawing");
      pane.canvas.onpointerdown = pane.canvas.onpointermove = pane.canvas.onpointerup = pane.canvas.onpointercancel = null;
    }
    panes.redraw();
    this.changed();
  }

  add(ring, name) {
    this.number += 1;
    const round = ring.map(([x, y]) => [Math.round(x * 100) / 100, Math.round(y * 100) / 100]);
    this.list.push({ id: this.number, name: name || `Area ${this.number}`, ring: round, scores: {}, problem: {} });
    this.changed();
    return this.list[this.list.length - 1];
  }

  remove(area) {
    this.list = this.list.filter((other) => other !== area);
    this.changed();
  }

  /** Ask for the scores of an area in each of these results. */
  async score(area, results) {
    if (isStatic) return;
    for (const result of results) {
      if (result.state !== "finished" || area.scores[result.id]) continue;
      area.scores[result.id] = "...";
      this.changed();
      try {
        area.scores[result.id] = await postJson(`api/results/${result.id}/scores`, { area: area.ring });
      } catch (error) {
        delete area.scores[result.id];
        area.problem[result.id] = error.message;
      }
      this.changed();
    }
  }

  draw(context, to) {
    const all = this.list.map((area) => area.ring);
    if (this.drawing && this.drawing.ring.length) all.push(this.drawing.ring);
    for (const ring of all) {
      context.beginPath();
      ring.forEach((corner, i) => { const [x, y] = to(corner[0], corner[1]); if (i) context.lineTo(x, y); else context.moveTo(x, y); });
      context.closePath();
      // Dark under bright, so that it shows on any stain.
      context.lineWidth = 4;
      context.strokeStyle = "rgba(255,255,255,.9)";
      context.stroke();
      context.lineWidth = 2;
      context.strokeStyle = "#0077bb";
      context.stroke();
    }
    this.list.forEach((area) => {
      const [x, y] = area.ring.map(([a, b]) => to(a, b)).reduce((best, at) => (at[1] < best[1] ? at : best));
      context.font = "600 12px system-ui, sans-serif";
      context.lineWidth = 3;
      context.strokeStyle = "rgba(255,255,255,.95)";
      const above = y < 60 ? y + 16 : y - 5;
      context.strokeText(area.name, x + 4, above);
      context.fillStyle = "#004f7c";
      context.fillText(area.name, x + 4, above);
    });
  }

  /** The areas as QuPath reads them: level-0 px of the slide, scores as measurements. */
  geojson(mpp, results) {
    const features = this.list.map((area) => {
      const ring = [...area.ring, area.ring[0]].map(([x, y]) => [x / mpp, y / mpp]);
      const measurements = {};
      for (const result of results) {
        const scores = area.scores[result.id];
        if (!scores || scores === "...") continue;
        for (const [name, value] of [["tissue mm2", scores.tissue_mm2], ["positive %", scores.positive_fraction === null ? null : 100 * scores.positive_fraction], ["H-score", scores.h_score]]) {
          if (value !== null) measurements[`virtual ${result.marker}: ${name}`] = value;
        }
      }
      return { type: "Feature", geometry: { type: "Polygon", coordinates: [ring] }, properties: { objectType: "annotation", name: area.name, measurements } };
    });
    return { type: "FeatureCollection", features };
  }

  save(mpp, results, stem) {
    const text = JSON.stringify(this.geojson(mpp, results), null, 1);
    save(new Blob([text], { type: "application/geo+json" }), `${stem}.areas.geojson`);
  }
}
