"""The pictures of docs/gallery.md and docs/how_it_works.md, made by wsistain from synthetic slides: `make gallery`.

python scripts/gallery.py WORK [NAME ...]    WORK keeps the slides and results; NAME is that of a picture, all without one

Pictures of pages need Chromium on the PATH.
"""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wsistain.errors import OutputError
from wsistain.output.reading import open_level, read_window
from wsistain.slide.reader import open_slide
from wsistain.slide.resample import choose_sampling
from wsistain.slide.tissue import find_tissue
from wsistain.tiling.blend import axis_weights
from wsistain.tiling.plan import RunPlan, make_tiling, plan_run
from wsistain.viewing.trust import trust_picture

PICTURES = Path(__file__).parents[1] / "docs" / "images"
MARKERS = ("ER", "PR", "Ki67", "HER2")
GAP_PX, LABEL_PX = 6, 22
BLUE, RED, GREEN, GREY = (40, 70, 200), (200, 40, 40), (20, 130, 60), (120, 120, 120)
FONT = ImageFont.load_default(13)


def wsistain(*words: str | Path) -> None:
    """Run a command, as a user types it."""
    print("wsistain", *words, flush=True)
    subprocess.run([sys.executable, "-m", "wsistain", *map(str, words)], check=True)


def prepare(work: Path) -> None:
    """The slide, its stains, their cells, and a registered pair; what is there stays."""
    if not (work / "slide/manifest.json").exists():
        wsistain("phantom", "slide", work / "slide", "--size", "1536", "--marker", "ER", "--seed", "7")
    missing = [m for m in MARKERS if not (work / f"stained/he_a.{m}.run.json").exists()]
    if missing:
        wsistain("run", work / "slide/he_a.tiff", "-m", ",".join(missing), "-o", work / "stained", "--overwrite")
    if not (work / "stained/he_a.ER.read.json").exists():
        wsistain("read", work / "stained/he_a.ER.ome.zarr")
    if not (work / "pairs/ER/pairs/case1/page.html").exists():
        plain = ("--mpp", "1.0", "--seed", "1", "--contrast", "3", "--visibility", "1")
        wsistain("phantom", "slide", work / "case1", "--size", "1536", "--marker", "ER", *plain)
        both = (work / "case1/he_a.tiff", work / "case1/ihc_b.tiff")
        cut = ("--patch-size", "256", "--patch-mpp", "1.0", "--part", "train", "--name", "case1")
        wsistain("pair", *both, "-m", "ER", "-o", work / "pairs", *cut)
    if not (work / "view").exists():
        stains = [work / f"stained/he_a.{m}.ome.zarr" for m in MARKERS[:3]]
        wsistain("view", *stains, "--slide", work / "slide/he_a.tiff", "--static", work / "view")


def beside(pictures: list[tuple[str, np.ndarray]]) -> Image.Image:
    """Pictures of one height side by side, each under its name."""
    height = LABEL_PX + max(p.shape[0] for _, p in pictures)
    width = sum(p.shape[1] + GAP_PX for _, p in pictures) - GAP_PX
    whole, x = Image.new("RGB", (width, height), "white"), 0
    draw = ImageDraw.Draw(whole)
    for name, picture in pictures:
        whole.paste(Image.fromarray(picture), (x, LABEL_PX))
        draw.text((x + 2, 3), name, fill="black", font=FONT)
        x += picture.shape[1] + GAP_PX
    return whole


def stains(work: Path) -> Image.Image:
    """One place of the slide, H&E and all markers."""
    y, x, size = 600, 560, 300
    he = open_slide(work / "slide/he_a.tiff").read_level(0, y, x, size, size)
    shown = [("H&E", he)]
    for marker in MARKERS:
        level = open_level(str(work / f"stained/he_a.{marker}.ome.zarr"), 0)
        shown.append((f"virtual {marker}", read_window(level, y, x, size, size)))
    return beside(shown)


def trust(work: Path) -> Image.Image:
    """The whole slide: H&E, stain, and the stain under its trust map."""
    slide, path = open_slide(work / "slide/he_a.tiff"), work / "stained/he_a.ER.ome.zarr"
    height, width = slide.info.size_l0
    size = (480, 480 * height // width)
    he = Image.fromarray(slide.read_level(0, 0, 0, height, width)).resize(size, Image.Resampling.BOX)
    stain = Image.fromarray(read_window(open_level(str(path), 0), 0, 0, height, width)).resize(
        size, Image.Resampling.BOX
    )
    over = Image.fromarray(trust_picture(path, "").pixels).resize(size, Image.Resampling.NEAREST)
    covered = Image.alpha_composite(stain.convert("RGBA"), over).convert("RGB")
    named = (("H&E", he), ("virtual ER", stain), ("how little to trust it: yellow, then purple", covered))
    return beside([(name, np.asarray(picture)) for name, picture in named])


def cells(work: Path) -> Image.Image:
    """Nuclei with their classes, over the H&E where they were found and the stain where they were read."""
    y, x, size, times = 600, 560, 240, 2
    level = open_level(str(work / "stained/he_a.ER.ome.zarr"), 0)
    found = json.loads((work / "stained/he_a.ER.cells.geojson").read_text())
    shown = []
    for name, pixels in (
        ("nuclei on the H&E", open_slide(work / "slide/he_a.tiff").read_level(0, y, x, size, size)),
        ("their classes on the virtual ER", read_window(level, y, x, size, size)),
    ):
        picture = Image.fromarray(pixels).resize((size * times, size * times), Image.Resampling.BICUBIC)
        draw = ImageDraw.Draw(picture)
        for cell in found if isinstance(found, list) else found["features"]:
            ring = [((cx - x) * times, (cy - y) * times) for cx, cy in cell["geometry"]["coordinates"][0]]
            colour = tuple(cell["properties"]["classification"]["color"])
            draw.line(ring, fill=colour if name.startswith("their") else (20, 90, 20), width=2)
        shown.append((name, np.asarray(picture)))
    return beside(shown)


def small_plan(work: Path) -> tuple[np.ndarray, RunPlan]:
    """The slide's pixels, and a plan with small tiles, so that there is something to see."""
    slide = open_slide(work / "slide/he_a.tiff")
    tiling = make_tiling(stride=192, overlap=32, halo=32, size_multiple=16, block=768)
    plan = plan_run(slide.info, choose_sampling(slide.info, None), find_tissue(slide), tiling)
    height, width = slide.info.size_l0
    return slide.read_level(0, 0, 0, height, width), plan


def plan(work: Path) -> Image.Image:
    """The plan of a run over its slide: tiles that are stained, tiles that are left out, blocks."""
    pixels, made = small_plan(work)
    scale = 0.5
    picture = Image.fromarray(pixels).resize((768, 768), Image.Resampling.BOX)
    draw = ImageDraw.Draw(picture, "RGBA")
    t = made.tiling
    rows, cols = made.grid
    tiles = [tile for r in range(rows) for c in range(cols) for tile in made.tiles_in(r, c)]
    for tile in tiles:
        box = [v * scale for v in (tile.x_out, tile.y_out, tile.x_out + t.core, tile.y_out + t.core)]
        draw.rectangle(box, outline=(*BLUE, 255), fill=(*BLUE, 26), width=2)
    for k in range(1, max(rows, cols)):
        at = k * t.block * scale
        draw.line([(at, 0), (at, 768)], fill=(*RED, 255), width=3)
        draw.line([(0, at), (768, at)], fill=(*RED, 255), width=3)
    one = next(tile for tile in tiles if tile.row == 3 and tile.col == 3)
    edges = [(one.x_out - t.halo) * scale, (one.y_out - t.halo) * scale]
    read = [*edges, edges[0] + t.tile * scale, edges[1] + t.tile * scale]
    draw.rectangle(read, outline=(*GREEN, 255), width=4)
    words = [
        ("blue: cores of the tiles that are stained", BLUE),
        ("green: what is read for one of them, halo included", GREEN),
        ("red: blocks, the unit of work", RED),
        ("no square: no tissue, nothing is computed", GREY),
    ]
    whole = Image.new("RGB", (768, 768 + 4 * 19), "white")
    whole.paste(picture)
    draw = ImageDraw.Draw(whole)
    for k, (text, colour) in enumerate(words):
        draw.text((4, 769 + 19 * k), text, fill=colour, font=FONT)
    return whole


def blending(work: Path) -> Image.Image:
    """Weights of neighbouring tiles along one axis, drawn from the integers that a run uses."""
    del work
    stride, overlap, scale, top, height = 192, 64, 1, 34, 150
    picture = Image.new("RGB", (3 * stride + overlap + 20, top + height + 30), "white")
    draw = ImageDraw.Draw(picture)
    total = np.zeros(3 * stride + overlap, int)
    for k, colour in enumerate((BLUE, GREEN, RED)):
        weights = axis_weights(stride, overlap, k == 0).astype(int)
        total[k * stride : k * stride + len(weights)] += weights
        line = [(10 + (k * stride + i) * scale, top + height - w * height / 256) for i, w in enumerate(weights)]
        draw.line(line, fill=colour, width=3)
        draw.text((20 + (k + 0.3) * stride, top + height + 6), f"tile {k + 1}", fill=colour, font=FONT)
    inside = total[: 3 * stride]
    words = f"weights of three tiles; in every pixel they sum to {inside.min()} and no other number"
    if inside.min() != inside.max():
        raise SystemExit(f"weights sum to {inside.min()} .. {inside.max()}")
    draw.text((10, 6), words, fill="black", font=FONT)
    return picture


def pyramid(work: Path) -> Image.Image:
    """The levels of a stain, each half of the one before."""
    path = str(work / "stained/he_a.ER.ome.zarr")
    shown = []
    for k in range(4):
        try:
            level = open_level(path, k)
        except OutputError:  # the last level lies behind
            break
        height, width = level.shape[-2:]
        pixels = Image.fromarray(read_window(level, 0, 0, height, width))
        size = (440 // 2**k, 440 * height // width // 2**k)
        shown.append((f"level {k}: {width} px", np.asarray(pixels.resize(size, Image.Resampling.BOX))))
    return beside(shown)


def page(work: Path, folder: str, name: str, *, height: int = 800, width: int = 1200) -> Image.Image:
    """A page as Chromium shows it."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise SystemExit("pictures of pages need Chromium (apt install chromium)")
    handler = partial(SimpleHTTPRequestHandler, directory=str(work / folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    target = work / "page.png"
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=20000"]
    address = f"http://127.0.0.1:{server.server_address[1]}/{name}"
    size = f"--window-size={width},{height}"
    subprocess.run([chromium, *flags, size, f"--screenshot={target}", address], check=True, capture_output=True)
    server.shutdown()
    with Image.open(target) as shot:
        return shot.convert("RGB")


DRAWN: dict[str, Callable[[Path], Image.Image]] = {
    "gallery/stains": stains,
    "gallery/trust": trust,
    "gallery/cells": cells,
    "gallery/pair": partial(page, folder="pairs/ER/pairs/case1", name="page.html"),
    "gallery/report": partial(page, folder="stained", name="he_a.ER.report.html", height=1000),
    "gallery/view": partial(page, folder="view", name="index.html"),
    "how/plan": plan,
    "how/blending": blending,
    "how/pyramid": pyramid,
}


def main() -> None:
    """Make what is missing, then draw."""
    work, names = Path(sys.argv[1]), sys.argv[2:] or list(DRAWN)
    prepare(work)
    for name in names:
        path = PICTURES / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        DRAWN[name](work).save(path, quality=82, optimize=True)
        print(f"{path}: {path.stat().st_size / 1e3:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
