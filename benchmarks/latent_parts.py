"""What of the visible latent a reader knows: the mean of a patch, the neighbourhood within it, and each cell's own part.

    python benchmarks/latent_parts.py --data data/hard --marker ER --weights runs/lpstain --output benchmarks/results/latent_parts.json

The phantom's cells have a latent (`differentiation`) that decides their look and, in part, ER and PR. Of a score of the tumour
cells of held-out patches it is told how well it correlates with three parts of that latent: means of patches, Gaussian
means over the neighbours (25 um) less those, and what is left, the cell's own. Scores: the logit of p of LPStain's
weights as the trunk tells it, with what sets a place off from its neighbourhood shrunk to every `--own`, and a ridge regression of the latent
itself on the measures of `linear_reader.py`, which is given the truth of the training cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import linear_reader
import numpy as np
import pyarrow.parquet as pq
import torch
from common import parser, report
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from wsistain.data.layouts import PatchRef, list_patches
from wsistain.data.pictures import read_picture
from wsistain.evaluation.pathology import area_under_curve, cell_od
from wsistain.evaluation.truth import TUMOUR
from wsistain.markers import find_marker
from wsistain.networks.expression import ExpressionNet
from wsistain.networks.shrinkage import drawn_together, neighbour_edge
from wsistain.weights.file import load_network

Values = NDArray[np.float64]
NEAR_UM = 25.0


@dataclass(frozen=True)
class Cells:
    """Tumour cells of one patch: places (px), the latent, and whether each is positive."""

    y: Values
    x: Values
    latent: Values
    positive: NDArray[np.bool_]


def cells_of(ref: PatchRef, marker: str) -> Cells:
    folder = ref.he.parent
    path = folder.with_name(folder.name.removesuffix("A") + "CellsA") / f"{ref.name}.parquet"
    columns = ["type", "in_a", "y_px", "x_px", "differentiation", f"positive_{marker}"]
    table = pq.read_table(path, columns=columns)
    keep = (np.array(table["type"].to_pylist(), dtype=object) == TUMOUR) & table["in_a"].to_numpy()
    y, x, latent, positive = (table[c].to_numpy()[keep] for c in columns[2:])
    return Cells(y, x, latent.astype(np.float64), positive.astype(bool))


def neighbourhood(cells: Cells, values: Values, mpp: float) -> Values:
    """Gaussian means over the other cells."""
    distance = ((cells.y[:, None] - cells.y) ** 2 + (cells.x[:, None] - cells.x) ** 2) * mpp**2
    weight = np.exp(-distance / (2 * NEAR_UM**2))
    np.fill_diagonal(weight, 0)
    found: Values = weight @ values / (weight.sum(1) + 1e-9)
    return found


def parts(cells: Sequence[Cells], scores: Sequence[Values], mpp: float) -> dict[str, float]:
    """AUC, and correlations with the parts of the latent; cells without a score count as the patch's mean."""
    known = [np.where(np.isfinite(s), s, np.nanmean(s)) for s in scores]
    near = [(neighbourhood(c, c.latent, mpp), neighbourhood(c, s, mpp)) for c, s in zip(cells, known, strict=True)]

    def correlation(pairs: Sequence[tuple[Any, Any]]) -> float:
        a, b = (np.concatenate([np.atleast_1d(pair[k]) for pair in pairs]) for k in (0, 1))
        return round(float(np.corrcoef(a, b)[0, 1]), 3)

    own = [s - n[1] for s, n in zip(known, near, strict=True)]
    return {
        "cell_auc": round(
            area_under_curve(np.concatenate(known), np.concatenate([c.positive for c in cells])), 3
        ),
        "means of patches": correlation([(c.latent.mean(), s.mean()) for c, s in zip(cells, known, strict=True)]),
        "neighbourhood": correlation([(a - a.mean(), b - b.mean()) for a, b in near]),
        "own": correlation([(c.latent - n[0], o) for c, n, o in zip(cells, near, own, strict=True)]),
        "spread of own": round(float(np.concatenate(own).std() / np.concatenate(known).std()), 2),
    }  # fmt: skip


def of_network(
    network: ExpressionNet, marker: str, refs: Sequence[PatchRef], cells: Sequence[Cells], mpp: float,
    grid: Sequence[tuple[float, float]],
) -> dict[str, dict[str, float]]:  # fmt: skip
    """`parts` of the logits of p for every (near_um, own) of the grid."""
    number = network.markers.index(marker)
    layer = network.dye_layers()[number]
    found: dict[str, list[Values]] = {f"near {near:g} um, own {own:g}": [] for near, own in grid}
    for ref, c in zip(refs, cells, strict=True):
        x = torch.from_numpy(read_picture(ref.he)).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.no_grad():
            out = network.logits(x, [number])
            place = layer.place(out[:, 1:].sigmoid(), network.pool)
            for (near, own), values in zip(grid, found.values(), strict=True):
                edge = neighbour_edge(near, mpp * network.pool)
                logit = out[:, :1] if own == 1 else drawn_together(out[:, :1], place, edge, own)
                picture = np.ascontiguousarray(network.full_size(logit)[0, 0].numpy())
                values.append(cell_od(picture, c.y, c.x, compartment=find_marker(marker).compartment, mpp=mpp))
    return {name: parts(cells, values, mpp) for name, values in found.items()}


def ridge(
    train: Sequence[PatchRef], val: Sequence[PatchRef], marker: str, network: ExpressionNet, mpp: float
) -> list[Values]:
    """Scores of the held-out cells of a ridge regression of the latent on what is measured, fitted on the training cells."""
    layer = network.dye_layers()[network.markers.index(marker)]

    def measured(refs: Sequence[PatchRef]) -> tuple[list[NDArray[np.float32]], list[Cells]]:
        tissues = [linear_reader.measured(read_picture(r.he), layer, mpp) for r in refs]
        cells = [cells_of(r, marker) for r in refs]
        return [linear_reader.of_cells(t, c.y, c.x, mpp) for t, c in zip(tissues, cells, strict=True)], cells

    x, cells = measured(train)
    model = make_pipeline(StandardScaler(), Ridge(100.0))
    model.fit(np.concatenate(x), np.concatenate([c.latent for c in cells]))
    return [model.predict(v) for v in measured(val)[0]]


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--data", type=Path, required=True, help="phantom patches in MIST's layout")
    options.add_argument("--marker", default="ER", help="ER or PR, which follow the latent")
    options.add_argument("--weights", type=Path, required=True, help="of LPStain")
    options.add_argument("--mpp", type=float, default=1.0)
    options.add_argument("--own", type=float, nargs="+", default=[1.0, 0.5, 0.2, 0.0])
    options.add_argument("--near-um", type=float, nargs="+", default=[16.0])
    options.add_argument("--ridge-patches", type=int, default=160, help="training patches of the ridge; 0: none")
    args = options.parse_args()
    torch.set_num_threads(1)
    path = args.weights / "weights.safetensors" if args.weights.is_dir() else args.weights
    network, _ = load_network(path)
    if not isinstance(network, ExpressionNet):
        raise SystemExit(f"{path} holds no network of LPStain")
    marker = find_marker(args.marker)
    train, val = (list(list_patches("mist", args.data, marker, part)) for part in ("train", "val"))
    cells = [cells_of(r, marker.name) for r in val]
    rows = {}
    if args.ridge_patches:
        scores = ridge(train[: args.ridge_patches], val, marker.name, network, args.mpp)
        rows["ridge regression of the latent, aligned"] = parts(cells, scores, args.mpp)
    grid = [(near, own) for near in args.near_um for own in args.own]
    rows |= of_network(network, marker.name, val, cells, args.mpp, grid)
    for name, row in rows.items():
        print(name, row, flush=True)
    report(
        "latent_parts", {marker.name: {"patches": len(val), "cells": sum(len(c.y) for c in cells), **rows}}, args.output
    )


if __name__ == "__main__":
    main()
