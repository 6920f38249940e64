"""The simplest learner from shares of windows: a linear reader of what can be measured of each nucleus and those round it.

    python benchmarks/linear_reader.py --data data/hard --marker ER --output benchmarks/results/linear_reader.json

What LPStain's network must beat. Nuclei are cut out of the H&E by LPStain's own rule (`networks/dye_layer.py`) and parted by
a watershed; of each, size, darkness and texture are measured, and Gaussian means of the same over its neighbours. A logistic
function of these is fitted twice: on the shares of windows of the section beside it, which is LPStain's loss and here convex,
and on the aligned truth of the training cells. Both are asked for the AUC over tumour cells of the held-out patches.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import scipy.ndimage as ndi
import torch
import torch.nn.functional as F
from common import parser, report
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import block_diag, csr_matrix, eye_array, vstack
from skimage.segmentation import watershed

from wsistain.data.layouts import PatchRef, list_patches, slide_of
from wsistain.data.pictures import read_picture
from wsistain.evaluation.pathology import area_under_curve
from wsistain.evaluation.truth import TUMOUR
from wsistain.losses.windows import LEAST_MASS, best_shift, shifted
from wsistain.markers import find_marker
from wsistain.networks.dye_layer import DyeLayer
from wsistain.optics.dyes import density, measure_dyes
from wsistain.optics.stains import to_unit

F32 = NDArray[np.float32]
SIGMAS_UM = (12.0, 25.0, 50.0, 100.0)
"""Of the Gaussian means over neighbours."""
SEARCH_UM = 64.0
DYE_PATCHES = 64
REACH_UM = 3.0
"""A cell that no nucleus was found at takes the nearest within this distance."""


@dataclass(frozen=True)
class Tissue:
    """Nuclei of one H&E: `labels` (h, w) from 1, `n` the map of nuclei, `centres` (k, 2) px, `own` (k, 15) measures."""

    labels: NDArray[np.int32]
    n: F32
    centres: F32
    own: F32


def light(picture: NDArray[np.uint8]) -> torch.Tensor:
    """(1, 3, h, w) in [0, 1]."""
    return to_unit(torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1)


def measured(he: NDArray[np.uint8], layer: DyeLayer, mpp: float) -> Tissue:
    """The nuclei of an H&E and what is measured of each: size, darkness, texture, colour."""
    px = 1 / mpp
    amounts = layer.counterstain(light(he))
    n = layer.nuclei(amounts, even=True)[0, 0].numpy()
    h = amounts[0, 0].numpy()
    inside = n > 0.5
    depth = ndi.distance_transform_edt(inside)
    smooth = ndi.gaussian_filter(depth, px)
    peaks = (ndi.maximum_filter(smooth, 2 * round(3 * px) + 1) == smooth) & inside
    labels = watershed(-smooth, ndi.label(peaks)[0], mask=inside)
    index = np.arange(1, labels.max() + 1)

    def each(values: NDArray[Any], what: Any = ndi.mean) -> NDArray[np.float64]:
        return np.asarray(what(values, labels, index), dtype=np.float64)

    middle = (depth > 2 * px).astype(np.float64)
    area = np.maximum(each(middle, ndi.sum), 1)
    of_middle = each(middle * h, ndi.sum) / area
    texture = (
        np.hypot(ndi.sobel(h, 0), ndi.sobel(h, 1)),
        np.abs(ndi.gaussian_laplace(h, px)),
        np.abs(h - ndi.gaussian_filter(h, 1.5 * px)),
    )
    od = density(he).reshape(he.shape)
    columns = [
        np.sqrt(each(np.ones_like(h), ndi.sum)) * mpp, each(depth, ndi.maximum) * mpp,
        each(h), each(h, ndi.standard_deviation), each(h, ndi.maximum), *(each(t) for t in texture),
        of_middle, np.sqrt(np.maximum(each(middle * h * h, ndi.sum) / area - of_middle**2, 0)),
        *(each(od[..., c]) for c in range(3)), *(each(od[..., c], ndi.standard_deviation) for c in range(2)),
    ]  # fmt: skip
    centres = np.array(ndi.center_of_mass(labels > 0, labels, index)).reshape(-1, 2)
    return Tissue(labels, n, centres.astype(np.float32), np.nan_to_num(np.stack(columns, 1)).astype(np.float32))


def with_neighbours(tissue: Tissue, at: NDArray[Any], own: F32, mpp: float) -> F32:
    """`own` (n, c), with density, mean and spread of the nuclei round the places `at` (n, 2) px."""
    distance = ((at[:, None, :] - tissue.centres[None]) ** 2).sum(-1) * mpp**2
    parts = [own]
    for sigma in SIGMAS_UM:
        weight = np.exp(-distance / (2 * sigma**2))
        total = weight.sum(1, keepdims=True)
        mean = weight @ tissue.own / (total + 1e-6)
        square = weight @ tissue.own[:, :2] ** 2 / (total + 1e-6)
        parts += [np.log(total + 1e-3), mean, np.sqrt(np.maximum(square - mean[:, :2] ** 2, 0))]
    return np.concatenate(parts, axis=1).astype(np.float32)


def of_cells(tissue: Tissue, y: NDArray[Any], x: NDArray[Any], mpp: float) -> F32:
    """Measures at cells of the truth: of the nucleus found there, zeros and a flag where there is none."""
    row, col = (np.clip(np.round(v).astype(int), 0, s - 1) for v, s in zip((y, x), tissue.labels.shape, strict=True))
    away, nearest = ndi.distance_transform_edt(tissue.labels == 0, return_indices=True)
    label = tissue.labels[nearest[0][row, col], nearest[1][row, col]]
    label = np.where(away[row, col] * mpp <= REACH_UM, label, 0)
    table = np.concatenate([np.zeros((1, tissue.own.shape[1]), np.float32), tissue.own])
    own = np.concatenate([table[label], (label == 0)[:, None]], axis=1)
    return with_neighbours(tissue, np.stack([y, x], 1), own.astype(np.float32), mpp)


def of_windows(
    tissue: Tissue, ihc: NDArray[np.uint8], layer: DyeLayer, mpp: float, edge_um: float
) -> tuple[csr_matrix, F32, F32]:
    """Windows of a pair: share of each nucleus in each (w, k), the share that is positive beside it, and their weights."""
    label = layer.section(*layer.amounts(light(ihc)))
    maps = [F.avg_pool2d(m, 4) for m in (torch.from_numpy(tissue.n)[None, None], label[:, 2:3])]
    label, known = shifted(label, 4 * best_shift(maps[0], maps[1], round(SEARCH_UM / mpp / 4)))
    positive, place, valid = (m[0].numpy() for m in (label[0, :1], label[0, 1:2], known[0]))
    here = tissue.n * valid * (tissue.labels > 0)
    edge = max(2, round(edge_um / mpp))
    rows, shares, weights = [], [], []
    for i in range(0, here.shape[0] - edge + 1, edge // 2):
        for j in range(0, here.shape[1] - edge + 1, edge // 2):
            window = np.s_[i : i + edge, j : j + edge]
            mass = np.bincount(tissue.labels[window].ravel(), here[window].ravel(), len(tissue.own) + 1)[1:]
            there = float((place * valid)[window].sum())
            weight = min(float(mass.sum()), there) / edge**2
            if weight > LEAST_MASS:
                rows.append(csr_matrix(mass / mass.sum()))
                shares.append(min(float((positive * valid)[window].sum()) / there, 1.0))
                weights.append(weight)
    stacked = vstack(rows) if rows else csr_matrix((0, len(tissue.own)))
    return csr_matrix(stacked), np.array(shares, np.float32), np.array(weights, np.float32)


def fitted(x: F32, mix: Any, shares: F32, weights: F32, decay: float) -> NDArray[np.float64]:
    """Coefficients (c + 1) of the logistic function whose mixed chances have these shares at least cross-entropy."""
    weights = weights / weights.sum()
    back = mix.T.tocsr()

    def loss(v: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        p = 1 / (1 + np.exp(-(x @ v[:-1] + v[-1])))
        said = np.clip(mix @ p, 1e-4, 1 - 1e-4)
        value = (
            -(weights * (shares * np.log(said) + (1 - shares) * np.log(1 - said))).sum() + decay * (v[:-1] ** 2).sum()
        )
        slope = (back @ (weights * (said - shares) / (said * (1 - said)))) * p * (1 - p)
        return float(value), np.append(slope @ x + 2 * decay * v[:-1], slope.sum())

    found = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": 300})
    return np.asarray(found.x)


def interval(score: F32, positive: NDArray[np.bool_], slide: NDArray[Any], draws: int = 200) -> list[float]:
    """95 % of the AUC when slides are drawn with replacement."""
    rng = np.random.default_rng(0)
    of = {name: np.flatnonzero(slide == name) for name in np.unique(slide)}
    names = list(of)
    values = []
    for _ in range(draws):
        rows = np.concatenate([of[names[k]] for k in rng.integers(0, len(names), len(names))])
        values.append(area_under_curve(score[rows], positive[rows]))
    return [round(float(v), 3) for v in np.quantile(values, [0.025, 0.975])]


def cells_of(refs: Sequence[PatchRef], tissues: Sequence[Tissue], name: str, mpp: float) -> tuple[F32, Any, Any]:
    """Measures of the tumour cells of phantom patches, whether each is positive for `name`, and its slide."""
    x, positive, slides = [], [], []
    for ref, tissue in zip(refs, tissues, strict=True):
        folder = ref.he.parent
        path = folder.with_name(folder.name.removesuffix("A") + "CellsA") / f"{ref.name}.parquet"
        if not path.is_file():
            raise SystemExit(f"{path} is missing; wanted a phantom's cell table (`wsistain phantom patches`)")
        table = pq.read_table(path, columns=["type", "in_a", "y_px", "x_px", f"positive_{name}"])
        keep = np.array(table["type"].to_pylist(), dtype=object) == TUMOUR
        keep &= table["in_a"].to_numpy()
        y, x_px, is_positive = (table[c].to_numpy()[keep] for c in ("y_px", "x_px", f"positive_{name}"))
        x.append(of_cells(tissue, y, x_px, mpp))
        positive.append(is_positive)
        slides += [slide_of(ref.name) or ref.name] * int(keep.sum())
    return np.concatenate(x), np.concatenate(positive), np.array(slides)


def main() -> None:
    """Fit both readers and score them."""
    made = parser(__doc__ or "")
    made.add_argument("--data", type=Path, required=True)
    made.add_argument("--marker", default="ER")
    made.add_argument("--mpp", type=float, default=1.0)
    made.add_argument("--windows-um", type=float, nargs="+", default=[16.0, 32.0, 64.0])
    made.add_argument("--patches", type=int, nargs=2, help="the first so many of training and held out; all by default")
    made.add_argument("--decay", type=float, default=1e-3, help="weight of the squared coefficients")
    args = made.parse_args()
    torch.set_num_threads(1)
    marker, mpp = find_marker(args.marker), args.mpp
    train, val = (list_patches("mist", args.data, marker, part) for part in ("train", "val"))
    if args.patches:
        train, val = train[: args.patches[0]], val[: args.patches[1]]
    spread = [
        train[k] for k in np.unique(np.linspace(0, len(train) - 1, min(DYE_PATCHES, len(train))).round().astype(int))
    ]
    dyes = measure_dyes(
        [(read_picture(r.he), read_picture(r.ihc)) for r in spread], mpp=mpp, positive_od=marker.positive_od,
        cell_od=marker.positive_cell_od, compartment=marker.compartment,
    )  # fmt: skip
    layer = DyeLayer(dyes, mpp, marker.compartment)
    tissues = {
        part: [measured(read_picture(r.he), layer, mpp) for r in refs]
        for part, refs in (("train", train), ("val", val))
    }
    x_val, y_val, slides = cells_of(val, tissues["val"], marker.name, mpp)
    x_cells, y_cells, _ = cells_of(train, tissues["train"], marker.name, mpp)

    # Every nucleus that was found takes part in the windows, tumour or not: who is tumour is not known there.
    flag = [np.concatenate([t.own, np.zeros((len(t.own), 1), np.float32)], axis=1) for t in tissues["train"]]
    x = np.concatenate([with_neighbours(t, t.centres, own, mpp) for t, own in zip(tissues["train"], flag, strict=True)])
    mean, spread_of = x.mean(0), x.std(0)
    spread_of[spread_of < 1e-3] = 1  # the flag of a nucleus that was not found is 0 for all that were
    every = np.arange(x.shape[1])

    def row(v: NDArray[np.float64], used: NDArray[np.intp]) -> dict[str, Any]:
        told = ((x_val - mean) / spread_of)[:, used] @ v[:-1].astype(np.float32)
        return {"cell_auc": round(float(area_under_curve(told, y_val)), 3), "interval": interval(told, y_val, slides)}

    output = args.output or args.work / "linear_reader.json"
    results: dict[str, Any] = json.loads(output.read_text())["results"] if output.exists() else {}
    found = {"patches": [len(train), len(val)], "cells": len(y_val), "measures": int(x.shape[1]), "decay": args.decay}
    one_each, ones = eye_array(len(y_cells), format="csr"), np.ones(len(y_cells), np.float32)
    for name, used in (("aligned cells", every), ("aligned cells, own nucleus alone", every[: flag[0].shape[1]])):
        v = fitted(((x_cells - mean) / spread_of)[:, used], one_each, y_cells.astype(np.float32), ones, args.decay)
        found[name] = row(v, used)
    for edge in args.windows_um:
        pairs = [
            of_windows(t, read_picture(r.ihc), layer, mpp, edge) for t, r in zip(tissues["train"], train, strict=True)
        ]
        mix = csr_matrix(block_diag([p[0] for p in pairs], format="csr"))
        v = fitted(
            (x - mean) / spread_of,
            mix,
            np.concatenate([p[1] for p in pairs]),
            np.concatenate([p[2] for p in pairs]),
            args.decay,
        )
        found[f"windows of {edge:g} um"] = row(v, every) | {"windows": int(mix.shape[0])}
    results[f"{args.marker}, {mpp:g} um per px, {len(train)} patches"] = found
    report("linear_reader", results, output)


if __name__ == "__main__":
    main()
