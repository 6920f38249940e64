"""What a generator itself sees in cells of about 32 um: means and spreads of a layer of its network.

The layer is the last one that is wider than a picture: what the stain is painted from. It is found by watching one pass, so
any network with convolutions has one; a network that knows better names it (`networks.facts.NamesFeatures`). Of earlier
layers some tell other tissue as well, but less of where cells are read wrong (docs/reading.md). A hook takes the layer as the
network runs and ends the pass there, so asking costs nearly as much as staining once more.

Source: distance to the nearest neighbours in features as a test of novelty, as in `optics.bank`.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from wsistain.errors import WeightsError
from wsistain.networks.facts import NamesFeatures
from wsistain.optics.bank import make_bank
from wsistain.optics.familiar import cell_px, has_tissue
from wsistain.optics.feature_bank import MOST_CHANNELS, FeatureBank
from wsistain.optics.stored_bank import DIRECTIONS, MOST_ROWS, as_values

LEAST_CHANNELS = 8
"""Of a layer that is more than a picture."""

LEAST_ROWS = 128
"""Cells of training pictures, at least, in each half of the pictures."""

DEAD = 1e-6
"""Of a layer whose numbers differ no more than this: it says the same of every picture."""

MOST_PX = 512
"""Of training pictures the middle of this edge is looked at."""

F64 = NDArray[np.float64]
RGB = NDArray[np.uint8]
Stain = Callable[[RGB], Any]
"""Puts uint8 (h, w, 3), in the network's multiples, through a network."""


class _Enough(Exception):  # noqa: N818 - no error: it ends a pass
    """The layer has been seen."""

    def __init__(self, maps: Tensor) -> None:
        super().__init__()
        self.maps = maps


def find_layer(network: nn.Module, stain: Stain, edge: int) -> str:
    """Name of the layer by which a network is asked; "" where no layer of it is a map. edge : in its multiples, px."""
    if isinstance(network, NamesFeatures):
        return network.feature_layer
    last = [""]

    def look(name: str) -> Any:
        def hook(module: nn.Module, given: Any, out: Any) -> None:
            is_map = isinstance(out, Tensor) and out.ndim == 4 and len(out) == 1
            if is_map and out.shape[1] >= LEAST_CHANNELS and min(out.shape[2:]) >= 4:  # two places a cell
                last[0] = name

        return hook

    handles = [module.register_forward_hook(look(name)) for name, module in network.named_modules() if name]
    try:
        stain(np.full((edge, edge, 3), 200, np.uint8))
    finally:
        for handle in handles:
            handle.remove()
    return last[0]


class Features:
    """Asks a network what it sees. Thread-safe.

    network, stain : the network, and what puts a picture through it. layer : its name there. multiple : of the edges, px.
    """

    def __init__(self, network: nn.Module, stain: Stain, layer: str, multiple: int) -> None:
        self.layer, self._stain, self._multiple = layer, stain, multiple
        self._asked = threading.local()
        module = dict(network.named_modules()).get(layer)
        if module is None:
            raise WeightsError(f"the network of these weights has no layer {layer!r}, of which their bank is")
        self._handle = module.register_forward_hook(self._take)

    def close(self) -> None:
        """Leave the network as it was."""
        self._handle.remove()

    def _take(self, module: nn.Module, given: Any, out: Any) -> None:
        if getattr(self._asked, "now", False) and isinstance(out, Tensor):
            raise _Enough(out.detach())

    def maps(self, rgb: RGB) -> Tensor:
        """The layer's maps, float (c, h', w') on the CPU, of uint8 (h, w, 3) whose edges are in the multiples."""
        self._asked.now = True
        try:
            self._stain(rgb)
        except _Enough as enough:
            maps = enough.maps[0].double().cpu()
            return maps[:: -(-len(maps) // MOST_CHANNELS)]
        finally:
            self._asked.now = False
        raise WeightsError(f"the network of these weights did not run its layer {self.layer!r}, of which their bank is")

    def of(self, rgb: RGB, mpp: float) -> F64:
        """Numbers of each cell of a window, float (rows, cols, 2 c): means, then logarithms of spreads; NaN for glass.

        rgb : uint8 (h, w, 3) at `mpp`, half a cell more than the cells on each side.
        """
        px, half = cell_px(mpp), cell_px(mpp) // 2
        rows, cols = ((n - 2 * half) // px for n in rgb.shape[:2])
        wide = padded(rgb, self._multiple)
        maps = self.maps(wide)
        step = round(wide.shape[0] / maps.shape[1])
        mean, square = (_cell_means(m.numpy(), px, rows, cols, max(1, step)) for m in (maps, maps * maps))
        spread = np.log10(np.sqrt(np.maximum(square - mean * mean, 0)) + 1e-3)
        found: F64 = np.moveaxis(np.concatenate([mean, spread]), 0, -1)
        found[~has_tissue(rgb[half : half + rows * px, half : half + cols * px], mpp)] = np.nan
        return found


def padded(rgb: RGB, multiple: int) -> RGB:
    """The picture with its lower and right edge mirrored until both are in multiples."""
    more = [(0, -n % multiple) for n in rgb.shape[:2]]
    return np.pad(rgb, (*more, (0, 0)), mode="symmetric") if any(n for _, n in more) else rgb


def _cell_means(maps: F64, px: int, rows: int, cols: int, step: int) -> F64:
    """Means of maps (c, h', w') over the cells: (c, rows, cols). step : px of the picture a place."""
    ys, xs = (np.round((px // 2 + px * np.arange(n + 1)) / step).astype(int) for n in (rows, cols))
    values = maps[:, ys[0] : ys[-1], xs[0] : xs[-1]]
    sums = np.add.reduceat(np.add.reduceat(values, ys[:-1] - ys[0], 1), xs[:-1] - xs[0], 2)
    means: F64 = sums / (np.diff(ys)[:, None] * np.diff(xs))
    return means


def _middles(pictures: Sequence[RGB], mpp: float) -> list[RGB]:
    """The middle of those that are as large as two cells or more."""

    def middle(rgb: RGB) -> RGB:
        y, x = (max(0, (n - MOST_PX) // 2) for n in rgb.shape[:2])
        return rgb[y : y + MOST_PX, x : x + MOST_PX]

    return [middle(p) for p in pictures if min(p.shape[:2]) >= 2 * cell_px(mpp)]


def enough(pictures: Sequence[RGB], mpp: float) -> bool:
    """Whether `pictures` are large and many enough for a bank, if all of them is tissue; costs nothing."""
    px, middles = cell_px(mpp), _middles(pictures, mpp)
    cells = [(p.shape[0] // px - 1) * (p.shape[1] // px - 1) for p in middles]
    return bool(min(sum(cells[::2]), sum(cells[1::2])) >= LEAST_ROWS)


def make_features(
    network: nn.Module, stain: Stain, pictures: Sequence[RGB], mpp: float, *, multiple: int = 1, seed: int = 0
) -> FeatureBank | None:
    """What a network sees in `pictures` of its training H&E; None where it has no such layer, or they hold too little tissue.

    stain : puts a picture through it. multiple : of the edges that it takes, px.

    Half of the pictures make the bank; `far` is measured on the other half.
    """
    if not enough(pictures, mpp):
        return None
    middles = _middles(pictures, mpp)
    layer = find_layer(network, stain, -(-2 * cell_px(mpp) // multiple) * multiple)
    if not layer:
        return None
    features = Features(network, stain, layer, multiple)
    try:
        seen = [features.of(p, mpp) for p in middles]
    finally:
        features.close()
    rows = [part[np.isfinite(part).all(axis=2)] for part in seen]
    banked, other = (np.concatenate(rows[k::2]) for k in (0, 1))
    if min(len(banked), len(other)) < LEAST_ROWS or banked.std(axis=0).max() < DEAD:
        return None
    found = make_bank(banked, other, directions=DIRECTIONS, most=MOST_ROWS, seed=seed)
    return FeatureBank(layer=layer, **as_values(found))
