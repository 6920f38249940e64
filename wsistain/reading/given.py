"""Nuclei that the user found elsewhere: polygons in GeoJSON, or a label image of the whole slide.

Identity is as for cells found here: a nucleus belongs to the block that holds its centre, and is seen whole there. What is
left out of a file is said in `notes`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsistain.errors import ConfigError
from wsistain.reading.cells import I32
from wsistain.reading.grid import FINE, MARGIN_UM, Box, Grid
from wsistain.reading.polygons import read_outlines
from wsistain.slide.base import SlideInfo

_SQUARE = 512
"""Edge of the squares, grid px, by which polygons are looked up."""

_LEAST_FIT = 0.02
F64 = NDArray[np.float64]


def read_cells(path: Path, grid: Grid, info: SlideInfo, *, mpp: float | None = None) -> "Drawn | Labelled":
    """The nuclei in a GeoJSON file (level-0 px, as QuPath exports them), or in a label image (.tif, .npy; integers).

    mpp : um per px of a label image; None: it covers the slide exactly.

    Raises ConfigError for a file that is neither, that holds no nucleus, nuclei outside the slide, or nuclei larger than any.
    """
    if not path.is_file():
        raise ConfigError(f"{path} is no file; give cells as GeoJSON, or a label image (.tif, .npy)")
    if path.suffix.lower() in (".tif", ".tiff", ".npy"):
        return Labelled(_read_labels(path), path, grid, info, mpp)
    if mpp is not None:
        raise ConfigError(f"--cells-mpp is of a label image, and {path} is none; its polygons are in level-0 px")
    return Drawn(path, grid, info)


class Drawn:
    """Polygons as labels. Where two overlap, the one that comes later in the file has the pixels."""

    def __init__(self, path: Path, grid: Grid, info: SlideInfo) -> None:
        self._grid = grid
        per_label = grid.label_mpp / grid.um_l0  # level-0 px per label px
        rings = read_outlines(path)
        low, high = (corner / per_label for corner in rings.boxes())
        limits = np.array(info.size_l0) / per_label
        outside = ((high <= 0) | (low >= limits)).any(axis=1)
        if outside.mean() > 0.01:
            raise ConfigError(
                f"{path}: {outside.sum()} of {len(rings)} cells lie outside the slide of {info.size_l0[1]} x {info.size_l0[0]} "
                "px; wanted level-0 px of this slide"
            )
        edge_um = float(np.median((high - low).max(axis=1))) * grid.label_mpp
        if not 2 <= edge_um <= 40:
            raise ConfigError(
                f"{path}: the cells are {edge_um:.1f} um across (median), wanted 2 to 40: are they in level-0 px of this slide?"
            )
        fits = (high - low).max(axis=1) * grid.label_mpp < MARGIN_UM / 2
        self.notes = [
            f"{path}: {n} of {len(rings)} cells {what} and are left out"
            for n, what in (
                (int(outside.sum()), "lie outside the slide"),
                (int((~fits).sum()), f"are {MARGIN_UM / 2:g} um across or more"),
            )
            if n
        ]
        self._rings, self._per_label = rings, per_label
        self._by_square: dict[tuple[int, int], list[int]] = {}
        size = _SQUARE * FINE
        for k, a, b in zip(np.flatnonzero(fits).tolist(), low[fits] // size, high[fits] // size, strict=True):
            for row in range(int(a[0]), int(b[0]) + 1):
                for col in range(int(a[1]), int(b[1]) + 1):
                    self._by_square.setdefault((row, col), []).append(k)

    def labels(self, box: Box) -> I32:
        """int32 (2h, 2w) of a grid window."""
        from skimage.draw import polygon

        out = np.zeros((FINE * box.height, FINE * box.width), np.int32)
        corner = np.array([FINE * box.y, FINE * box.x], float)
        here = {
            k
            for row in range(box.y // _SQUARE, (box.y + box.height) // _SQUARE + 1)
            for col in range(box.x // _SQUARE, (box.x + box.width) // _SQUARE + 1)
            for k in self._by_square.get((row, col), ())
        }
        for n, k in enumerate(sorted(here)):
            # the middle of label px i lies at i + 0.5
            y, x = (self._rings[k] / self._per_label - corner - 0.5).T
            rows, cols = polygon(y, x, shape=out.shape)
            out[rows, cols] = n + 1
        return out


class Labelled:
    """A label image as labels: each px takes the label under its middle."""

    def __init__(self, image: NDArray[Any], path: Path, grid: Grid, info: SlideInfo, mpp: float | None) -> None:
        sizes = [n * info.mpp for n in info.size_l0]
        fitting = [um / n for um, n in zip(sizes, image.shape, strict=True)]
        if mpp is None:
            if abs(fitting[0] / fitting[1] - 1) > _LEAST_FIT:
                raise ConfigError(
                    f"{path} has {image.shape[1]} x {image.shape[0]} px, which is no picture of the whole slide "
                    f"({info.size_l0[1]} x {info.size_l0[0]} px); give one that is, or pass --cells-mpp"
                )
            steps = fitting
        else:
            steps = [mpp, mpp]
        if max(steps) > 2.0:
            raise ConfigError(f"{path} has {max(steps):.3g} um per px, too coarse for nuclei; wanted 2 or less")
        self._image, self._grid, self._steps = image, grid, steps
        self.notes: list[str] = []
        if not any(image[first : first + 1024].any() for first in range(0, image.shape[0], 1024)):
            raise ConfigError(f"{path} holds no label above 0")

    def labels(self, box: Box) -> I32:
        """int32 (2h, 2w) of a grid window; numbers from 1 on, in the order of the image's own."""
        index = []
        for start, n, step, most in zip(
            (box.y, box.x), (box.height, box.width), self._steps, self._image.shape, strict=True
        ):
            at = np.floor((FINE * start + np.arange(FINE * n) + 0.5) * self._grid.label_mpp / step).astype(np.int64)
            index.append((at.clip(0, most - 1), (at >= 0) & (at < most)))
        (rows, row_in), (cols, col_in) = index
        window = np.asarray(self._image[rows.min() : rows.max() + 1, cols.min() : cols.max() + 1])
        picked = window[np.ix_(rows - rows.min(), cols - cols.min())]
        picked = np.where(row_in[:, None] & col_in, picked, 0)
        names, order = np.unique(picked, return_inverse=True)
        labels: I32 = np.asarray(order).reshape(picked.shape).astype(np.int32) + np.int32(names[0] != 0)
        return labels


def _read_labels(path: Path) -> NDArray[Any]:
    """A label image (h, w) of integers, mapped from the file where that is possible."""
    try:
        if path.suffix.lower() == ".npy":
            held = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            try:
                held = tifffile.memmap(path, mode="r")
            except ValueError:  # packed
                held = tifffile.imread(path)
    except (OSError, ValueError, tifffile.TiffFileError) as error:
        raise ConfigError(f"{path} is no label image: {' '.join(str(error).split())[:200]}") from None
    image: NDArray[Any] = np.squeeze(held)
    if image.ndim != 2 or image.dtype.kind not in "iu":
        raise ConfigError(
            f"{path} holds {image.dtype} of shape {image.shape}; wanted one number a nucleus, integers (height, width)"
        )
    return image
