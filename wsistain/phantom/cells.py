"""The cells of a block: where their nuclei lie in depth, what they are, how they look, what they express.

Cells come in layers `LAYER_UM` apart. Each layer is cut into squares of `CELL_UM`; a square's cells are made
from hashed candidates that compete for room (of two that overlap, the one with the higher lot stays). The
contest looks `MARGIN_UM` round the square and never further, so a square is the same whoever asks for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from wsistain.config import PhantomVersion
from wsistain.markers import Marker
from wsistain.phantom.anatomy import Anatomy, Tissue, cleft_um
from wsistain.phantom.biology import RING_POSITIVE, Clone, Latents, express
from wsistain.phantom.kinds import ADIPO, DEBRIS, ENDO, FIBRO, LUMINAL, LYMPH, MYO, PLASMA, TUMOUR
from wsistain.phantom.noise import F32, U64, Kept, draw, fractal, hash_at, normal, salt_of
from wsistain.phantom.varied import crowding, varied

LAYER_UM, CELL_UM, MARGIN_UM = 12.0, 256.0, 64.0
BUCKET_UM, SLOTS = 32.0, 64
Z_JITTER_UM, MAX_DEPTH_UM = 9.6, 5.0
MAX_RADIUS_UM, ROUNDS, ROOM = 7.8, 3, 0.80


@dataclass
class Cells:
    """n cells of the block, one array a property; um in the frame of the block.

    a, b, c    : semi-axes of the nucleus (long, short, in depth); turn: angle of the long axis from +x to +y, rad.
    dark       : haematoxylin per um; coarse, fine: contrast of chromatin; nucleolus: um; rough: outline.
    plump      : cytoplasm tone, eosin (positive) or not.
    """

    ids: U64
    y: NDArray[np.float64]
    x: NDArray[np.float64]
    z: F32
    kind: NDArray[np.int8]
    a: F32
    b: F32
    c: F32
    turn: F32
    dark: F32
    coarse: F32
    fine: F32
    nucleolus: F32
    rough: F32
    plump: F32
    mitosis: NDArray[np.bool_]
    differentiation: F32
    level: F32  # (n, k), a column a marker of the block, as is `positive` and `score`
    positive: NDArray[np.bool_]
    score: F32

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, which: NDArray[Any]) -> "Cells":
        """The cells that a mask or an index picks."""
        return Cells(**{f.name: getattr(self, f.name)[which] for f in fields(self)})


def join(parts: list[Cells]) -> Cells:
    """One table from several."""
    return Cells(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Cells)})


def contest(y: NDArray[Any], x: NDArray[Any], radius: F32, lot: F32) -> NDArray[np.bool_]:
    """Which of the candidates stay: `ROUNDS` rounds in which a local best stays and its neighbours go."""
    n = len(y)
    state = np.zeros(n, np.int8)
    if n == 0:
        return state > 0
    # Pairs that would touch, each with the one of the lower lot.
    points = np.stack([y, x], 1)
    pairs = cKDTree(points).query_pairs(2 * MAX_RADIUS_UM * ROOM, output_type="ndarray")
    if len(pairs):
        i, j = pairs[:, 0], pairs[:, 1]
        gap = (y[i] - y[j]) ** 2 + (x[i] - x[j]) ** 2
        close = gap < (ROOM * (radius[i] + radius[j])) ** 2
        i, j = i[close], j[close]
        worse = np.where(lot[i] < lot[j], i, j)
        better = i + j - worse
    else:
        worse = better = np.zeros(0, np.intp)

    # Each round keeps those that no undecided neighbour beats, and drops what touches them.
    for _ in range(ROUNDS):
        contested = np.zeros(n, bool)
        contested[worse[(state[worse] == 0) & (state[better] == 0)]] = True
        state[(state == 0) & ~contested] = 1
        for one, other in ((worse, better), (better, worse)):
            lost = one[(state[one] == 0) & (state[other] == 1)]
            state[lost] = -1
    kept: NDArray[np.bool_] = state == 1
    return kept


class TissueBlock:
    """All cells of one block of tissue, made square by square on request."""

    def __init__(
        self,
        seed: int,
        anatomy: Anatomy,
        clone: Clone,
        markers: Sequence[Marker],
        visibility: float,
        contrast: float = 1.0,
        version: PhantomVersion = "v0",
    ) -> None:
        self.version = version
        self.seed, self.anatomy, self.clone, self.visibility = seed, anatomy, clone, visibility
        self.markers = tuple(markers)
        self.contrast = np.float32(contrast)
        self._kept: Kept[tuple[int, int, int], Cells] = Kept(512)

    def _candidates(self, layer: int, row: int, col: int) -> tuple[U64, NDArray[Any], NDArray[Any], F32]:
        per = int(CELL_UM / BUCKET_UM)
        more = int(MARGIN_UM / BUCKET_UM)
        r = np.arange(row * per - more, (row + 1) * per + more)[:, None, None]
        c = np.arange(col * per - more, (col + 1) * per + more)[None, :, None]
        slot = np.arange(SLOTS, dtype=np.int64)[None, None, :]
        ids = hash_at(salt_of(self.seed, f"layer {layer}"), r * SLOTS + slot, c).ravel()
        r, c, _ = np.broadcast_arrays(r, c, slot)
        y = (r.ravel() + draw(ids, salt_of(1, "cell.y")).astype(np.float64)) * BUCKET_UM
        x = (c.ravel() + draw(ids, salt_of(1, "cell.x")).astype(np.float64)) * BUCKET_UM
        z = np.float32(layer * LAYER_UM) + np.float32(Z_JITTER_UM) * (draw(ids, salt_of(1, "cell.z")) - np.float32(0.5))
        return ids, y, x, z

    def _kinds(self, t: Tissue, ids: U64, vacuole: F32) -> NDArray[np.int8]:
        """Type of each candidate, -1 for none; a lot against the density of each tissue."""
        u, v = draw(ids, salt_of(1, "kind.u")), draw(ids, salt_of(1, "kind.v"))
        crowd = np.clip(t.immune - 1.15, 0, 1.5)
        kind = np.where(u < 0.030 + 0.012 * np.clip(t.immune, -1, 1), FIBRO, -1)
        kind = np.where(
            u < np.clip(0.004 + 0.008 * (t.immune + 0.5), 0.0015, 0.02), np.where(v < 0.85, LYMPH, PLASMA), kind
        )
        kind = np.where((t.immune > 1.15) & (u < 0.05 + 0.6 * crowd), np.where(v < 0.86, LYMPH, PLASMA), kind)
        kind = np.where((t.vessel > -0.6) & (t.vessel < 2.4), np.where(u < 0.30, ENDO, -1), kind)
        kind = np.where(vacuole > -2.5, np.where((vacuole < 0.8) & (u < 0.05), ADIPO, -1), kind)
        lymph_in = (u < 0.018) | ((t.immune > 1.6) & (u < 0.05))
        kind = np.where(t.nest > 3.0, np.where(lymph_in, LYMPH, TUMOUR), kind)
        kind = np.where((t.nest > -6) & (t.nest <= 3.0) & (vacuole < -2.5), np.where(u < 0.04, FIBRO, -1), kind)
        kind = np.where((t.duct > -1) & (t.duct < 3.2), np.where(u < 0.3, MYO, -1), kind)
        # Luminal cells stand in rows along the wall.
        row = np.mod(t.duct - 5.4, 8.6) < 4.2
        kind = np.where(t.duct >= 3.2, np.where(row & (t.duct >= 5.4), LUMINAL, -1), kind)
        kind = np.where((t.necrosis > 0) & (t.nest > 0), np.where(u < 0.12, DEBRIS, -1), kind)
        kind = np.where(t.hole > -3.2 + 2.0 * (t.vessel > 0), np.where((t.hole < -1) & (t.vessel > 0), kind, -1), kind)
        kind = np.where(cleft_um(t.shrink, t.nest) > 0.5, -1, kind)
        return np.where(t.inside > 2, kind, -1).astype(np.int8)

    def _stromal(
        self, t: Tissue, ids: U64, kind: NDArray[np.int8], y: NDArray[Any], x: NDArray[Any]
    ) -> NDArray[np.int8]:
        """`kind` with v1's further cells of the stroma: fibroblasts in bands and round epithelium, and stray lymphocytes."""
        bands = fractal(self.seed, "cellular", y, x, 150.0, 3, 0.6)
        near = np.exp(-np.clip(-np.maximum(t.nest, t.duct), 0, 200) / np.float32(30))
        share = np.clip(np.float32(0.035) + np.float32(0.03) * bands + np.float32(0.05) * near, 0.004, 0.14)
        bare = (kind == -1) & (t.nest < -5) & (t.duct < -1.5) & (t.vessel < -0.6) & (t.hole < -3) & (t.fat < -4)
        bare &= (t.inside > 2) & (cleft_um(t.shrink, t.nest) < 0.5)
        lot = draw(ids, salt_of(1, "more"))
        strays = np.float32(0.012) * (1 + np.float32(2) * near)
        more: NDArray[np.int8] = np.where(bare & (lot < share), FIBRO, kind).astype(np.int8)
        more = np.where(bare & (lot > 1 - strays), LYMPH, more).astype(np.int8)
        return more

    def _build(
        self, ids: U64, y: NDArray[Any], x: NDArray[Any], z: F32, kind: NDArray[Any], t: Tissue, lean: F32
    ) -> Cells:
        # Chances of each cell, from its id alone; what a tumour cell looks like follows from its hidden state.
        g = [normal(ids, salt_of(1, f"shape {k}")) for k in range(6)]
        u = [draw(ids, salt_of(1, f"look {k}")) for k in range(4)]
        tumour = kind == TUMOUR
        lat = express(self.seed, self.clone, self.visibility, self.markers, ids, y, x)
        bad = 1 / (
            1 + np.exp(np.clip(2.0 * self.contrast * lat.differentiation, -20, 20))
        )  # 0 well, 1 poorly differentiated
        big = np.clip(lat.cycle - 0.9, 0, 2.0)
        base = np.choose(kind, [0, 3.75, 3.1, 3.4, 2.95, 3.0, 2.8, 1.3, 3.3]).astype(np.float32)
        # Size and shape of the nucleus.
        size_t = 3.45 + 2.0 * bad + 0.35 * big
        size = np.where(tumour, size_t * (1 + (0.07 + 0.13 * bad) * g[0]), base * (1 + 0.09 * g[0]))
        long = np.choose(kind, [0, 1.32, 2.1, 2.9, 1.06, 2.4, 2.2, 1.2, 1.25]).astype(np.float32) * (
            1 + 0.1 * np.abs(g[1])
        )
        ratio = np.where(tumour, 1.08 + 0.20 * np.abs(g[1]) * (0.5 + bad), long)
        b = size / np.sqrt(ratio)
        a = np.minimum(size * np.sqrt(ratio), 10.0)
        # Which way it lies.
        free = 6.2832 * u[0]
        turn = np.where(np.isin(kind, (FIBRO, ENDO, ADIPO, MYO)), lean + 0.22 * g[2], free)
        turn = np.where(kind == LUMINAL, lean + 1.5708 + 0.25 * g[2], turn)
        turn = np.where(tumour & (t.nest < 12), lean + 0.9 * g[2] + 1.2, turn)
        # Its chromatin and nucleoli.
        dark = np.choose(kind, [0.135, 0.165, 0.18, 0.185, 0.27, 0.2, 0.2, 0.30, 0.22]).astype(np.float32)
        dark = np.where(tumour, 0.15 + 0.03 * self.contrast * bad + 0.03 * big, dark) * (1 + 0.13 * g[3])
        coarse = np.where(tumour, 0.12 + 0.50 * bad + 0.12 * big, np.where(np.isin(kind, (LYMPH, PLASMA)), 0.38, 0.2))
        fine = np.where(tumour, 0.34 - 0.1 * bad, 0.25)
        nucleolus = np.where(tumour, np.clip(1.55 * (bad - 0.32) + 0.25 * g[4], 0, 1.5), 0)
        nucleolus = np.where((kind == LUMINAL) & (u[1] < 0.2), 0.6, nucleolus)
        rough = np.where(tumour, 0.03 + 0.10 * bad, 0.05) + 0.02 * np.abs(g[5])
        rough = np.where(kind == DEBRIS, 0.25, rough)
        expressing, positive, score = self._expression(lat, ids, kind, u[2])
        if self.version != "v0":
            look = varied(self.seed, ids, y, x, kind, a, b, dark, coarse, fine, nucleolus, rough)
            a, b, dark, coarse, fine, nucleolus, rough = look
        f = np.float32
        return Cells(
            ids, y, x, z, kind, a.astype(f), b.astype(f), np.minimum(b * 1.05, MAX_DEPTH_UM).astype(f), turn.astype(f),
            dark.astype(f), coarse.astype(f), fine.astype(f), nucleolus.astype(f), rough.astype(f),
            (lat.apocrine * tumour).astype(f), lat.mitosis & tumour, (lat.differentiation * tumour).astype(f),
            expressing, positive, score,
        )  # fmt: skip

    def _expression(self, lat: Latents, ids: U64, kind: NDArray[Any], u: F32) -> tuple[F32, NDArray[np.bool_], F32]:
        """(level, positive, score), each (n, markers), of all cells; `lat` is what tumour cells express."""
        n, tumour, luminal = len(ids), kind == TUMOUR, kind == LUMINAL
        level, positive = np.zeros((n, len(self.markers)), np.float32), np.zeros((n, len(self.markers)), bool)
        score = np.zeros((n, len(self.markers)), np.float32)
        for k, marker in enumerate(self.markers):
            # Benign luminal cells carry the hormone receptors too, patchily, whatever the tumour does.
            name, share = marker.name, marker.expression.benign
            lot = draw(ids, salt_of(self.seed, f"benign {name}"))
            yes = luminal & (lot < share)
            if marker.expression.elsewhere:
                yes |= np.isin(kind, (LYMPH, FIBRO)) & (lot < marker.expression.elsewhere)
            if marker.compartment == "membranous":
                own = np.where(yes, RING_POSITIVE + 0.8 * u, 0 * u)
            else:
                own = np.where(yes, 0.35 + 0.6 * u, 0.07 * u)
            level[:, k] = np.where(tumour, lat.level[name], own)
            positive[:, k] = np.where(tumour, lat.positive[name], yes)
            score[:, k] = np.where(tumour, lat.score[name], np.where(luminal, share, 0.0))
        return level, positive, score

    def square(self, layer: int, row: int, col: int) -> Cells:
        """The cells whose nuclei have their centre in one square of one layer."""
        return self._kept.get((layer, row, col), partial(self._square, layer, row, col))

    def _square(self, layer: int, row: int, col: int) -> Cells:
        # Candidates of the square and of a margin: those beyond contest too, so that squares agree at their borders.
        ids, y, x, z = self._candidates(layer, row, col)
        depth = float(layer * LAYER_UM)
        py, px = self.anatomy.lean(y, x, depth)
        raster = self.anatomy.near(py, px)
        t = raster.tissue(py, px)
        kind = self._kinds(t, ids, self.anatomy.vacuole(py, px, t.fat))
        if self.version != "v0":
            kind = self._stromal(t, ids, kind, py, px)
        keep = kind >= 0
        t = Tissue(**{f.name: getattr(t, f.name)[keep] for f in fields(t)})
        ids, y, x, z, kind = ids[keep], y[keep], x[keep], z[keep], kind[keep]
        made = self._build(ids, y, x, z, kind, t, raster.grain(py[keep], px[keep], t, kind == LUMINAL))
        # How much room each needs, by its kind.
        room = np.minimum(np.sqrt(made.a * made.b), MAX_RADIUS_UM) + np.where(kind == TUMOUR, 0.3, 0.1).astype(
            np.float32
        )
        room = np.where(np.isin(kind, (FIBRO, ENDO)), 0.62 * made.a, np.where(kind == MYO, 0.36 * made.a, room))
        room = np.where(kind == LUMINAL, 0.9 * made.b, room)
        if self.version != "v0":
            room = room * crowding(self.seed, py[keep], px[keep], kind)
        lot = draw(ids, salt_of(1, "lot"))
        inner = (y >= row * CELL_UM) & (y < (row + 1) * CELL_UM) & (x >= col * CELL_UM) & (x < (col + 1) * CELL_UM)
        return made.take(contest(y, x, np.minimum(room, MAX_RADIUS_UM), lot) & inner)

    def cells(self, y0: float, x0: float, y1: float, x1: float, z0: float, z1: float) -> Cells:
        """Cells whose nuclei reach the depths z0..z1 and have their centre in the window (um, half open)."""
        reach = Z_JITTER_UM / 2 + MAX_DEPTH_UM
        layers = range(int(np.floor((z0 - reach) / LAYER_UM)) + 1, int(np.ceil((z1 + reach) / LAYER_UM)))
        rows = range(int(np.floor(y0 / CELL_UM)), int(np.floor(np.nextafter(y1, y0) / CELL_UM)) + 1)
        cols = range(int(np.floor(x0 / CELL_UM)), int(np.floor(np.nextafter(x1, x0) / CELL_UM)) + 1)
        found = join([self.square(k, r, c) for k in layers for r in rows for c in cols])
        inside = (found.y >= y0) & (found.y < y1) & (found.x >= x0) & (found.x < x1)
        return found.take(inside & (found.z + found.c > z0) & (found.z - found.c < z1))
