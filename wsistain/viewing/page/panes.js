// Panes that move together. The world of every OpenSeadragon viewer is in micrometres of the slide.

import { address } from "./api.js";
import { make, reducedMotion } from "./dom.js";

const OSD = window.OpenSeadragon;

/** A tile source for a picture of the listing; level numbers are those of Deep Zoom. */
function sourceOf(picture) {
  const { width, height, tile, name, form, version } = picture;
  return {
    width, height, tileSize: tile, tileOverlap: 0, minLevel: 0, maxLevel: Math.ceil(Math.log2(Math.max(width, height))),
    getTileUrl: (level, x, y) => address(`tiles/${name}_files/${level}/${x}_${y}.${form}`, version),
  };
}

/** One pane: a viewer, a canvas over it, a scale bar, and a menu of what it shows. */
export class Pane {
  constructor(group, number) {
    this.group = group;
    this.items = new Map();
    this.menu = make("select", { "aria-label": `What pane ${number + 1} shows` });
    this.canvas = make("canvas", { class: "over" });
    this.scaleText = make("span");
    this.scaleLine = make("i");
    const holder = make("div", { class: "osd" });
    this.element = make("section", { class: "pane", "aria-label": `Pane ${number + 1}` }, holder, this.canvas, this.menu,
      make("div", { class: "scale" }, this.scaleText, this.scaleLine));
    group.element.append(this.element);
    this.viewer = OSD({
      element: holder, drawer: "canvas", showNavigationControl: false, prefixUrl: "", blendTime: 0,
      animationTime: reducedMotion() ? 0 : 0.5, springStiffness: 9, zoomPerScroll: 1.25, zoomPerClick: 2,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true }, gestureSettingsTouch: { clickToZoom: false, dblClickToZoom: true, flickEnabled: !reducedMotion() },
      maxZoomPixelRatio: 16, minZoomImageRatio: 0.3, visibilityRatio: 0.2, preserveViewport: true, preserveImageSizeOnResize: true,
      crossOriginPolicy: false, timeout: 180000, maxImageCacheCount: 500, imageLoaderLimit: 6, tileRetryMax: 1, tileRetryDelay: 1500,
    });
    this.viewer.addHandler("canvas-key", (event) => { event.preventDefaultAction = true; event.preventVerticalPan = true; event.preventHorizontalPan = true; });
    for (const name of ["canvas-press", "canvas-scroll", "canvas-pinch", "canvas-double-click", "canvas-enter"]) {
      this.viewer.addHandler(name, () => group.lead(this));
    }
    this.viewer.addHandler("update-viewport", () => this.drawn());
    this.viewer.addHandler("viewport-change", () => group.followed(this));
    this.viewer.addHandler("resize", () => group.resized(this));
    this.viewer.addHandler("tile-load-failed", (event) => group.failed(event));
    holder.addEventListener("pointermove", (event) => group.pointed(this, this.umAt(event), event));
    holder.addEventListener("pointerleave", () => group.pointed(this, null));
  }

  /** Size of the pane, CSS px. */
  get size() { const box = this.element.getBoundingClientRect(); return { width: box.width, height: box.height }; }

  /** um per CSS px, and the middle of the pane in um, as shown in this moment. */
  get view() {
    const bounds = this.viewer.viewport.getBoundsNoRotate(true);
    const middle = bounds.getCenter();
    return { x: middle.x, y: middle.y, u: bounds.width / this.size.width };
  }

  /** Show a place; at once, or gliding there. */
  show({ x, y, u }, immediately = true) {
    const viewport = this.viewer.viewport;
    const width = u * this.size.width;
    viewport.zoomTo(1 / width, null, immediately);
    viewport.panTo(new OSD.Point(x, y), immediately);
    if (immediately) viewport.applyConstraints(true);
  }

  /** um under a pointer event. */
  umAt(event) {
    const box = this.element.getBoundingClientRect();
    const { x, y, u } = this.view;
    return { x: x + (event.clientX - box.left - box.width / 2) * u, y: y + (event.clientY - box.top - box.height / 2) * u };
  }

  /** Lay these pictures over each other, the first at the bottom: [{picture, opacity}]. */
  lay(wanted) {
    const names = wanted.map((item) => `${item.picture.name}|${item.picture.version}`);
    const world = this.viewer.world;
    const known = new Set(wanted.map((item) => item.picture.name));
    for (const [key, item] of this.items) {
      if (names.includes(key)) continue;
      const name = key.split("|")[0];
      this.items.delete(key);
      // A newer version of a picture takes the place of the old one once it can be seen.
      if (known.has(name) && item.image) this.replaced(name, item.image);
      else if (item.image) world.removeItem(item.image);
      item.gone = true;
    }
    wanted.forEach(({ picture, opacity }, index) => {
      const key = names[index];
      const held = this.items.get(key);
      if (held) {
        held.opacity = opacity;
        held.order = index;
        if (held.image) held.image.setOpacity(opacity);
        return;
      }
      const item = { opacity, order: index, image: null, gone: false };
      this.items.set(key, item);
      this.viewer.addTiledImage({
        tileSource: sourceOf(picture), x: picture.x_um, y: picture.y_um, width: picture.width * picture.mpp, opacity,
        success: ({ item: image }) => {
          if (item.gone) { world.removeItem(image); return; }
          item.image = image;
          image.setOpacity(item.opacity);
          this.order();
          this.group.opened(this);
        },
      });
    });
    this.order();
  }

  replaced(name, old) {
    const swap = () => {
      const next = [...this.items].find(([key]) => key.split("|")[0] === name);
      const image = next && next[1].image;
      if (image && !image.getFullyLoaded() && this.viewer.world.getIndexOfItem(old) >= 0) { setTimeout(swap, 150); return; }
      if (!image && next) { setTimeout(swap, 150); return; }
      if (this.viewer.world.getIndexOfItem(old) >= 0) this.viewer.world.removeItem(old);
    };
    setTimeout(swap, 150);
  }

  order() {
    const world = this.viewer.world;
    const images = [...this.items.values()].filter((item) => item.image).sort((a, b) => a.order - b.order);
    const old = world.getItemCount() - images.length;
    images.forEach((item, index) => { if (world.getIndexOfItem(item.image) >= 0) world.setItemIndex(item.image, Math.min(old + index, world.getItemCount() - 1)); });
  }

  /** Draw what lies over the pictures. */
  drawn() {
    const { width, height } = this.size;
    if (!width || !height) return;
    const ratio = window.devicePixelRatio || 1;
    const canvas = this.canvas;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    const context = canvas.getContext("2d");
    const view = this.view;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    // A place in um to CSS px of this pane.
    const to = (x, y) => [(x - view.x) / view.u + width / 2, (y - view.y) / view.u + height / 2];
    this.group.paint(this, context, to, view, { width, height });
    const bar = scaleBar(view.u, Math.min(width * 0.3, 180));
    this.scaleText.textContent = bar.text;
    this.scaleLine.style.width = `${bar.px}px`;
  }

  redraw() { this.drawn(); }

  close() { this.viewer.destroy(); this.element.remove(); }
}

/** A round length of at most `most` CSS px: its length in px and its name. */
export function scaleBar(u, most) {
  const um = most * u;
  const power = 10 ** Math.floor(Math.log10(um));
  const round = [5, 2, 1].find((n) => n * power <= um) * power;
  return { px: Math.round(round / u * 10) / 10, um: round, text: round >= 1000 ? `${round / 1000} mm` : `${+round.toPrecision(3)} µm` };
}

/** All panes, and who of them leads. */
export class Panes {
  constructor(element, handlers) {
    this.element = element;
    this.handlers = handlers;
    this.list = [];
    this.leader = null;
    this.isReady = false;
  }

  /** So many panes. */
  count(n) {
    while (this.list.length > n) this.list.pop().close();
    while (this.list.length < n) this.list.push(new Pane(this, this.list.length));
    if (!this.list.includes(this.leader)) this.leader = this.list[0];
  }

  lead(pane) { this.leader = pane; }

  /** The leader moved: the others are put where it is, in the same frame. */
  followed(pane) {
    if (!this.isReady || pane !== this.leader || !pane.size.width) return;
    // Before a viewer has noticed its new size, what it says of its scale is wrong.
    if (Math.abs(pane.viewer.viewport.getContainerSize().x - pane.size.width) > 1) return;
    const view = pane.view;
    this.wanted = view;
    for (const other of this.list) if (other !== pane) other.show(view);
    this.handlers.moved(view);
  }

  /** A pane has another size: it shows the same place at the same scale. */
  resized(pane) {
    // The viewer scales what it shows after it told of its new size: it is put right once it is done.
    const view = this.wanted;
    if (!view) return;
    queueMicrotask(() => { if (this.list.includes(pane)) { this.wanted = view; pane.show(view); } });
  }

  show(view, immediately = true) {
    this.wanted = view;
    this.leader = this.list[0];
    // Gliding, the leader goes and the others follow it.
    for (const pane of immediately ? this.list : [this.leader]) pane.show(view, immediately);
    this.handlers.moved(view);
  }

  get view() { return (this.leader || this.list[0]).view; }

  opened(pane) { this.handlers.opened(pane); }
  failed(event) { this.handlers.failed(event); }
  pointed(pane, um, event) { this.handlers.pointed(pane, um, event); }
  paint(...args) { this.handlers.paint(...args); }
  redraw() { for (const pane of this.list) pane.redraw(); }
}
