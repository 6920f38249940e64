"""Cell tables: what is really there, one row a cell, in the frame of one section."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wsistain.phantom.biology import rank_auc
from wsistain.phantom.kinds import TUMOUR, TYPES
from wsistain.phantom.render import COUNTED_UM, Phantom
from wsistain.runtime.files import replacing

Name = Literal["a", "b"]


def cell_table(phantom: Phantom, section: Name, y: int, x: int, h: int, w: int) -> pa.Table:
    """Cells that count as in a section, with their centre in the window (y, x, h, w), level-0 px.

    Columns: id (uint64, the same in both sections); type; y_px, x_px in the frame of the WINDOW; y_um, x_um on
    the glass; z_um, depth of the centre in the block; size_um, mean diameter of the nucleus; path_um, how much of
    the nucleus lies in this section; in_a, in_b; mitosis; differentiation (latent, tumour cells only); and for
    each marker of the panel and that of the picture level_<M> (density of the chromogen in the nucleus cut whole or in
    the cytoplasm; of a membranous marker: ring score 0..3), positive_<M>, and score_<M>, the probability of being
    positive given what morphology shows.
    """
    # Which cells are cut enough to count, here and on the other section.
    mpp = phantom.config.mpp
    cells, gy, gx = phantom.cells_um(section, y * mpp, x * mpp, h * mpp, w * mpp)
    path = phantom.path_um(section, cells)
    other: Name = "b" if section == "a" else "a"
    here = path >= COUNTED_UM
    there = (phantom.path_um(other, cells) >= COUNTED_UM) & phantom.on_glass(other, cells)
    here &= phantom.on_glass(section, cells)
    in_a, in_b = (here, there) if section == "a" else (there, here)
    # Top to bottom, then left to right.
    order = np.lexsort((gx[here], gy[here]))

    def column(values: NDArray[Any]) -> NDArray[Any]:
        return values[here][order]

    kinds = pa.DictionaryArray.from_arrays(pa.array(column(cells.kind)), pa.array(TYPES)).cast(pa.string())
    columns: dict[str, object] = {
        "id": column(cells.ids),
        "type": kinds,
        "y_px": column(gy / mpp - 0.5 - y),
        "x_px": column(gx / mpp - 0.5 - x),
        "y_um": column(gy),
        "x_um": column(gx),
        "z_um": column(cells.z),
        "size_um": column(2 * np.sqrt(cells.a * cells.b)),
        "path_um": column(path),
        "in_a": column(in_a),
        "in_b": column(in_b),
        "mitosis": column(cells.mitosis),
        "differentiation": column(cells.differentiation),
    }
    for k, name in enumerate(m.name for m in phantom.block.markers):
        columns[f"level_{name}"] = column(cells.level[:, k])
        columns[f"positive_{name}"] = column(cells.positive[:, k])
        columns[f"score_{name}"] = column(cells.score[:, k])
    return pa.table(columns)


def write_table(table: pa.Table, path: Path) -> Path:
    """Path of a finished Parquet file; it appears in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        pq.write_table(table, part, compression="zstd")
    return path


def write_tables(tables: Iterator[pa.Table], path: Path, seen: Callable[[pa.Table], None]) -> Path:
    """Path of one Parquet file made of many tables, one row group each, in bounded memory; each is shown to `seen`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer: pq.ParquetWriter | None = None
    with replacing(path) as part:
        try:
            for table in tables:
                if writer is None:
                    writer = pq.ParquetWriter(part, table.schema, compression="zstd")
                if table.num_rows:
                    writer.write_table(table)
                seen(table)
        finally:
            if writer is not None:
                writer.close()
    return path


class Attainable:
    """Collects tumour cells and says how well the best reader of morphology could do."""

    def __init__(self, marker: str) -> None:
        self.marker = marker
        self.score: list[NDArray[Any]] = []
        self.positive: list[NDArray[Any]] = []

    def add(self, table: pa.Table) -> None:
        """Count the tumour cells of one table."""
        tumour = np.asarray(table["type"].to_pylist()) == TYPES[TUMOUR]
        self.score.append(table[f"score_{self.marker}"].to_numpy()[tumour])
        self.positive.append(table[f"positive_{self.marker}"].to_numpy()[tumour])

    def facts(self) -> dict[str, float | int | None]:
        """Number of tumour cells, share positive, and the best attainable AUC (None where one class is absent)."""
        if not self.score:
            return {"tumour_cells": 0, "positive_share": None, "attainable_auc": None}
        score, positive = np.concatenate(self.score), np.concatenate(self.positive)
        share = float(positive.mean()) if len(positive) else None
        return {"tumour_cells": len(score), "positive_share": share, "attainable_auc": rank_auc(score, positive)}
