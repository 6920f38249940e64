"""Does each paper's metric rank pictures as the truth of their cells does? No training: the aligned truth is spoiled in known ways.

    wsistain benchmark make data/benchmark --only mist-c3-ER
    python benchmarks/metric_ranks.py --data data/benchmark --on mist-c3-ER --work runs/ranks --nets NETS \
        --output benchmarks/results/benchmark/metric_ranks.json --figure docs/images/metric_ranks.svg

Every row is the aligned truth of the test patches after one change, measured by `wsistain evaluate` against the other section, as
the papers do, and by the cells.
"""

import argparse
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import common
import imagecodecs
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr
from skimage.color import hed2rgb, rgb2hed

from wsistain.benchmark.edition import V0
from wsistain.data.layouts import list_patches
from wsistain.data.pictures import read_picture
from wsistain.evaluation.chosen import spread
from wsistain.evaluation.metrics import METRICS
from wsistain.evaluation.report import evaluate
from wsistain.evaluation.truth import read_truth

RGB = NDArray[np.uint8]
LOOK_UM = 6.0
TRUTHS = ("cell_auc", "cell_h_error")
PAPERS = ("ssim", "ssim_gauss", "psnr", "css", "vif", "hist_corr", "lpips_alex", "stlpips_alex", "fid", "kid", "phv_avg",
          "iod", "r_c", "r_p", "r_avg", "area_r", "dice", "positive_error", "h_score_error")  # fmt: skip


class Cells:
    """Where the tumour cells of a patch are, and which are positive."""

    def __init__(self, y: NDArray[Any], x: NDArray[Any], positive: NDArray[np.bool_], mpp: float) -> None:
        self.y, self.x, self.positive, self.radius = (
            np.rint(y).astype(int),
            np.rint(x).astype(int),
            positive,
            LOOK_UM / mpp,
        )

    def exchanged(self, picture: RGB, source: NDArray[np.int64]) -> RGB:
        """Each cell with the look of cell `source[i]`, in a disc with a soft edge; its place is its own."""
        reach = int(np.ceil(self.radius))
        dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
        weight = np.clip(self.radius - np.hypot(dy, dx), 0, 2)[..., None] / 2
        padded = np.pad(picture, ((reach, reach), (reach, reach), (0, 0)), mode="reflect").astype(np.float32)
        out = padded.copy()
        for i, j in enumerate(source):
            if i == j:
                continue
            here, there = (
                (slice(self.y[k], self.y[k] + 2 * reach + 1), slice(self.x[k], self.x[k] + 2 * reach + 1))
                for k in (i, j)
            )
            out[here] += weight * (padded[there] - out[here])
        return np.rint(out[reach:-reach, reach:-reach]).clip(0, 255).astype(np.uint8)

    def shuffled(self, picture: RGB, share: float, rng: np.random.Generator) -> RGB:
        """A share of the cells with each other's looks."""
        source = np.arange(len(self.y))
        chosen = rng.permutation(len(source))[: round(share * len(source))]
        source[chosen] = np.roll(chosen, 1)
        return self.exchanged(picture, source)

    def inverted(self, picture: RGB, rng: np.random.Generator) -> RGB:
        """Positive cells with the look of negative ones and the reverse; as it is where one class is missing."""
        if self.positive.all() or not self.positive.any():
            return picture
        kinds = [np.flatnonzero(~self.positive), np.flatnonzero(self.positive)]
        return self.exchanged(picture, np.array([rng.choice(kinds[0 if p else 1]) for p in self.positive]))


def blurred(picture: RGB, sigma: float) -> RGB:
    return np.rint(gaussian_filter(picture.astype(np.float32), (sigma, sigma, 0))).astype(np.uint8)


def shifted(picture: RGB, px: int) -> RGB:
    return np.ascontiguousarray(
        np.pad(picture, ((px, 0), (px, 0), (0, 0)), mode="reflect")[: len(picture), : len(picture)]
    )


def stained(picture: RGB, factor: float) -> RGB:
    """With `factor` times the DAB."""
    hed = rgb2hed(picture)
    hed[..., 2] *= factor
    return np.rint(255 * hed2rgb(hed)).clip(0, 255).astype(np.uint8)


def tinted(picture: RGB, by: tuple[int, int, int]) -> RGB:
    return np.clip(picture.astype(int) + by, 0, 255).astype(np.uint8)


def noisy(picture: RGB, sigma: float, rng: np.random.Generator) -> RGB:
    return np.rint(picture + rng.normal(0, sigma, picture.shape)).clip(0, 255).astype(np.uint8)


Change = Callable[[RGB, RGB, Cells, np.random.Generator], RGB]
CHANGES: dict[str, tuple[str, Change]] = {
    "aligned": ("aligned truth", lambda t, w, c, r: t),
    "blur1": ("blurred, 1 um", lambda t, w, c, r: blurred(t, 1)),
    "blur3": ("blurred, 3 um", lambda t, w, c, r: blurred(t, 3)),
    "blur8": ("blurred, 8 um", lambda t, w, c, r: blurred(t, 8)),
    "tint": ("tinted by 20 grey levels", lambda t, w, c, r: tinted(t, (-20, 0, 20))),
    "pale": ("DAB x 0.5", lambda t, w, c, r: stained(t, 0.5)),
    "dark": ("DAB x 1.6", lambda t, w, c, r: stained(t, 1.6)),
    "noise": ("noise of 12 grey levels", lambda t, w, c, r: noisy(t, 12, r)),
    "shift10": ("moved by 10 um", lambda t, w, c, r: shifted(t, 7)),
    "shift60": ("moved by 60 um", lambda t, w, c, r: shifted(t, 42)),
    "shuffle25": ("a quarter of cells exchanged", lambda t, w, c, r: c.shuffled(t, 0.25, r)),
    "shuffle50": ("half of cells exchanged", lambda t, w, c, r: c.shuffled(t, 0.5, r)),
    "shuffle100": ("all cells exchanged", lambda t, w, c, r: c.shuffled(t, 1.0, r)),
    "inverted": ("positive and negative exchanged", lambda t, w, c, r: c.inverted(t, r)),
    "mean": ("mean colour of the truth", lambda t, w, c, r: np.broadcast_to(np.rint(t.mean(axis=(0, 1))).astype(np.uint8), t.shape)),
    "section": ("the other section itself", lambda t, w, c, r: w),
}  # fmt: skip


def make_rows(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Change to what `wsistain evaluate` says of it on the same patches; the pictures are left."""
    task = V0.condition(args.on)
    root = task.folder(args.data, "test")
    refs = list_patches("mist", root, task.known(), "val")
    refs = [refs[i] for i in spread(len(refs), args.limit or len(refs))]
    truth = read_truth(refs, task.known(), "val")
    assert truth is not None
    folders = []
    for name, (_, change) in CHANGES.items():
        rng = np.random.default_rng(0)
        folders.append(args.work / "pictures" / name)
        folders[-1].mkdir(parents=True, exist_ok=True)
        for ref in refs:
            is_tumour, at = truth.tumour[ref.name], truth.places[ref.name]
            cells = Cells(at.y[is_tumour], at.x[is_tumour], truth.positive[ref.name][is_tumour], at.mpp)
            made = change(read_picture(ref.truth), read_picture(ref.ihc), cells, rng)
            (folders[-1] / f"{ref.name}.png").write_bytes(imagecodecs.png_encode(np.ascontiguousarray(made)))
    found = evaluate(
        [],
        root,
        marker=task.marker,
        given=folders,
        nets=args.nets,
        limit=args.limit,
        workers=1,
        pictures=0,
        device="cpu",
    )
    return {name: found["systems"][name] for name in (*CHANGES, "identity", "mean_colour")}


def goodness(row: dict[str, Any], metric: str) -> float:
    """The metric with its sign turned so that higher is better; NaN where the row does not have it."""
    value = row["metrics"].get(metric, {}).get("value")
    if value is None:
        if row["metrics"].get("psnr", {}).get("value") is None and metric == "psnr":
            return float("inf")  # a picture equal to the other section
        return float("nan")
    return float(value) * (1 if METRICS[metric].better == "higher" else -1)


def agreement(rows: list[dict[str, Any]], metric: str, truth: str) -> tuple[float, int]:
    """Spearman's correlation of a metric with a truth over rows that have both, and how many those are."""
    pairs = [(goodness(r, metric), goodness(r, truth)) for r in rows]
    pairs = [(a, b) for a, b in pairs if not (np.isnan(a) or np.isnan(b))]
    if len(pairs) < 4:
        return float("nan"), len(pairs)
    return float(spearmanr(*zip(*pairs, strict=True)).statistic), len(pairs)


def figure(labels: dict[str, str], rows: dict[str, dict[str, Any]], names: list[str], found: dict[str, Any]) -> str:
    """Ranks as a table of coloured cells: rows by cell AUC, columns by how well a metric agrees with it."""
    order = sorted(rows, key=lambda n: -np.nan_to_num(goodness(rows[n], "cell_auc"), nan=-9))
    columns = [
        "cell_auc",
        "cell_h_error",
        *sorted(names, key=lambda m: -np.nan_to_num(found[m]["cell_auc"][0], nan=-9)),
    ]
    left, top, w, h = 232, 118, 46, 21
    width, height = left + w * len(columns) + 12, top + h * (len(order) + 3) + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for c, m in enumerate(columns):
        x = left + c * w + w / 2
        weight = ' font-weight="bold"' if m in TRUTHS else ""
        parts.append(
            f'<text transform="translate({x + 4} {top - 8}) rotate(-55)"{weight}>{escape(METRICS[m].label)}</text>'
        )
        values = np.array([goodness(rows[n], m) for n in order])
        known = ~np.isnan(values)
        for r, n in enumerate(order):
            y = top + r * h
            if not known[r]:
                parts.append(f'<text x="{x}" y="{y + 15}" text-anchor="middle" fill="#999">–</text>')
                continue
            rank = 1 + int((values[known] > values[r]).sum())
            share = (rank - 1) / max(known.sum() - 1, 1)
            a, b = np.array([33, 102, 94]), np.array([250, 240, 225])
            red, green, blue = (a + share * (b - a)).round().astype(int)
            text = goodness(rows[n], m) * (1 if METRICS[m].better == "higher" else -1)
            shown = "∞" if np.isinf(text) else f"{text * METRICS[m].scale:.{METRICS[m].decimals}f}"
            parts.append(
                f'<rect x="{x - w / 2 + 1}" y="{y + 1}" width="{w - 2}" height="{h - 2}" fill="rgb({red},{green},{blue})"><title>{escape(labels[n])}, {escape(METRICS[m].label)}: {shown}</title></rect>'
            )
            parts.append(
                f'<text x="{x}" y="{y + 15}" text-anchor="middle" fill="{"#fff" if share < 0.5 else "#222"}">{rank}</text>'
            )
        for k, t in enumerate(TRUTHS):
            value = 1.0 if m == t else found[m][t][0] if m in found else None
            y = top + (len(order) + 0.6 + k) * h
            if value is not None and np.isfinite(value):
                colour = "#1b6b5f" if value > 0.5 else "#a33" if value < 0 else "#444"
                parts.append(
                    f'<text x="{x}" y="{y + 15}" text-anchor="middle" fill="{colour}" font-weight="bold">{value:.2f}</text>'
                )
    for r, n in enumerate(order):
        parts.append(f'<text x="{left - 8}" y="{top + r * h + 15}" text-anchor="end">{escape(labels[n])}</text>')
    for k, t in enumerate(("rank correlation with cell AUC", "with H-score error")):
        parts.append(
            f'<text x="{left - 8}" y="{top + (len(order) + 0.6 + k) * h + 15}" text-anchor="end" font-weight="bold">{t}</text>'
        )
    parts.append(
        '<text x="12" y="24" font-size="13" font-weight="bold">Ranks of spoiled truths</text><text x="12" y="42" fill="#555">1 is best; dark is good</text>'
    )
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    """Make what is missing, and write numbers and figure."""
    options = common.parser(__doc__ or "")
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--on", default="mist-c3-ER")
    options.add_argument("--nets", type=Path)
    options.add_argument("--limit", type=int, help="test patches that are used, evenly spread; all by default")
    options.add_argument("--figure", type=Path)
    args = options.parse_args()
    rows = make_rows(args)
    labels = {
        **{n: text for n, (text, _) in CHANGES.items()},
        "identity": "the H&E itself",
        "mean_colour": "H&E in the mean colour of IHC",
    }
    names = [m for m in PAPERS if any(not np.isnan(goodness(r, m)) for r in rows.values())]
    found = {m: {t: agreement(list(rows.values()), m, t) for t in TRUTHS} for m in names}
    table = {labels[n]: {m: r["metrics"].get(m, {}).get("value") for m in (*TRUTHS, *names)} for n, r in rows.items()}
    if args.figure:
        args.figure.parent.mkdir(parents=True, exist_ok=True)
        args.figure.write_text(figure(labels, rows, names, found), encoding="utf-8")
    common.report(
        "metric_ranks",
        {"condition": args.on, "patches": args.limit or V0.test, "rank_correlation": found, "rows": table},
        args.output,
    )


if __name__ == "__main__":
    main()
