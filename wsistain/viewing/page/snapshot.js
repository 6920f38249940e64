// A picture of what is shown: panes, overlays, labels, scale bar and the research-only line.

import { note, save } from "./dom.js";
import { scaleBar } from "./panes.js";

const LINE = "Virtual stain, for research only, not for diagnosis";

/** The snapshot as a canvas. */
export function compose(panes, labels, mode, curtain, opacity) {
  const ratio = window.devicePixelRatio || 1;
  const stage = panes.element.getBoundingClientRect();
  const foot = 34;
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(stage.width * ratio);
  canvas.height = Math.round((stage.height + foot) * ratio);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.fillStyle = "#ffffff";
  context.fillRect(0, 0, stage.width, stage.height + foot);
  panes.list.forEach((pane, i) => {
    const box = pane.element.getBoundingClientRect();
    const [x, y] = [box.left - stage.left, box.top - stage.top];
    context.save();
    context.beginPath();
    const from = mode === "curtain" && i === 1 ? curtain * box.width : 0;
    context.rect(x + from, y, box.width - from, box.height);
    context.clip();
    if (mode === "blend" && i === 1) context.globalAlpha = opacity;
    if (!(mode === "flicker" && i === 1 && pane.element.style.visibility === "hidden")) {
      context.drawImage(pane.viewer.drawer.canvas, x, y, box.width, box.height);
      context.drawImage(pane.canvas, x, y, box.width, box.height);
    }
    context.restore();
    label(context, labels[i], mode === "side" || i === 0 ? x + 8 : x + box.width - 8, y + 8, mode === "side" || i === 0);
  });
  const bar = scaleBar(panes.view.u, 160);
  context.fillStyle = "#111";
  context.fillRect(12, stage.height + 21, bar.px, 4);
  context.font = "600 13px system-ui, sans-serif";
  context.fillText(bar.text, 12, stage.height + 16);
  context.textAlign = "right";
  context.fillText(LINE, stage.width - 12, stage.height + 21);
  return canvas;
}

function label(context, text, x, y, toRight) {
  context.font = "600 14px system-ui, sans-serif";
  const width = context.measureText(text).width + 14;
  const left = toRight ? x : x - width;
  context.fillStyle = "rgba(255,255,255,.88)";
  context.fillRect(left, y, width, 24);
  context.fillStyle = "#111";
  context.textAlign = "left";
  context.fillText(text, left + 7, y + 17);
}

export function saveSnapshot(canvas, stem) {
  canvas.toBlob((blob) => {
    if (blob) { save(blob, `${stem}.view.png`); note("The snapshot is saved"); }
    else note("The snapshot could not be made");
  }, "image/png");
}
