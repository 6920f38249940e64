// Cells over the panes: fetched square by square, drawn as outlines or dots, found again under the pointer.

import { getJson } from "./api.js";
import { rgb } from "./dom.js";

const OUTLINES_UNTIL = 1.6; // um per CSS px: beyond, an outline is a few px wide and a dot says as much
const MOST_DRAWN = 60000;

export class Cells {
  constructor(result, changed) {
    this.result = result;
    this.changed = changed;
    this.index = null;
    this.squares = new Map();
    this.problem = "";
    getJson(`cells/${result}/index.json`).then((index) => {
      this.index = index;
      this.counts = new Map(index.squares.map(([row, col, n]) => [`${row}_${col}`, n]));
      changed();
    }).catch((error) => { this.problem = error.message; changed(); });
  }

  /** Squares that meet a box in um, [key, number of cells]. */
  within({ x0, y0, x1, y1 }) {
    const edge = this.index.square_um;
    const found = [];
    for (const [row, col, n] of this.index.squares) {
      if ((row + 1) * edge >= y0 && row * edge <= y1 && (col + 1) * edge >= x0 && col * edge <= x1) found.push([`${row}_${col}`, n]);
    }
    return found;
  }

  fetch(key) {
    if (this.squares.has(key)) return;
    this.squares.set(key, null);
    getJson(`cells/${this.result}/${key}.json`).then((cells) => { this.squares.set(key, cells); this.changed(); })
      .catch(() => this.squares.delete(key));
  }

  /** Draw what is in view; a sentence where that is too much. */
  draw(context, to, view, size) {
    if (!this.index) return this.problem;
    const box = { x0: view.x - size.width / 2 * view.u, x1: view.x + size.width / 2 * view.u, y0: view.y - size.height / 2 * view.u, y1: view.y + size.height / 2 * view.u };
    const keys = this.within(box);
    const n = keys.reduce((sum, [, count]) => sum + count, 0);
    if (n > MOST_DRAWN) return `${n.toLocaleString("en")} cells in view: zoom in to see them`;
    const paths = this.index.classes.map(() => new Path2D());
    const asOutlines = view.u <= OUTLINES_UNTIL;
    const dot = Math.max(1.2, Math.min(4, 3 / view.u));
    for (const [key] of keys) {
      this.fetch(key);
      for (const cell of this.squares.get(key) || []) {
        const path = paths[cell.class];
        if (asOutlines && cell.ring) {
          cell.ring.forEach((corner, i) => { const [x, y] = to(corner[0], corner[1]); if (i) path.lineTo(x, y); else path.moveTo(x, y); });
          path.closePath();
        } else {
          const [x, y] = to(cell.x, cell.y);
          path.moveTo(x + dot, y);
          path.arc(x, y, dot, 0, 2 * Math.PI);
        }
      }
    }
    this.index.classes.forEach(({ colour }, i) => {
      context.lineWidth = 1.6;
      context.strokeStyle = rgb(colour);
      context.fillStyle = rgb(colour, asOutlines ? 0.18 : 0.9);
      context.fill(paths[i]);
      if (asOutlines) context.stroke(paths[i]);
    });
    return "";
  }

  /** The cell at a place in um, or null. */
  at(x, y) {
    if (!this.index) return null;
    const reach = 30;
    let best = null;
    let least = reach * reach;
    for (const [key] of this.within({ x0: x - reach, x1: x + reach, y0: y - reach, y1: y + reach })) {
      for (const cell of this.squares.get(key) || []) {
        const d = (cell.x - x) ** 2 + (cell.y - y) ** 2;
        if (d < least && (cell.ring ? inside(cell.ring, x, y) : d < 36)) { least = d; best = cell; }
      }
    }
    return best;
  }

  /** What a tooltip says of a cell. */
  describe(cell) {
    const lines = [`${this.index.classes[cell.class].name}  (cell ${cell.id})`];
    if (cell.dab_od !== undefined) lines.push(`density of the stain ${cell.dab_od.toFixed(2)}`);
    if (cell.probability !== undefined) lines.push(`probability ${cell.probability.toFixed(2)}`);
    if (cell.trust !== undefined) lines.push(`trust ${cell.trust.toFixed(2)}`);
    if (cell.area_um2 !== undefined) lines.push(`${cell.area_um2.toFixed(0)} µm²`);
    return lines.join("\n");
  }
}

/** Whether a ring of [x, y] winds round a place. */
export function inside(ring, x, y) {
  let winding = 0;
  for (let i = 0, j = ring.length - 1; i < ring.length; j = i++) {
    const [x0, y0] = ring[j];
    const [x1, y1] = ring[i];
    const side = (x1 - x0) * (y - y0) - (x - x0) * (y1 - y0);
    if (y0 <= y && y1 > y && side > 0) winding++;
    else if (y0 > y && y1 <= y && side < 0) winding--;
  }
  return winding !== 0;
}
