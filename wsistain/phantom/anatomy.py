"""Where which tissue is: fields of the block, in micrometres, that can be asked for at any place.

Signed fields are in um and positive inside. All of it is a function of (seed, y, x): the depth of a section
enters as a slow sideways drift, as structures that lean in the block do.
"""

from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree

from wsistain.phantom.noise import F32, Floats, Kept, draw, fractal, hash_at, lattice, salt_of, smooth_noise, uniform


@dataclass
class Tissue:
    """Fields at n places (any shape), float32.

    inside   : um from the edge of the tissue.
    nest     : um into a tumour nest (in situ ducts included).
    solid    : 0..1, how far the tumour there is made of solid sheets.
    duct     : um into the outer wall of the nearest benign duct or acinus.
    hole     : um into a lumen (duct, gland, vessel).
    vessel   : um into the outer wall of the nearest vessel.
    fat      : um-like into fat.
    necrosis : um-like into necrosis.
    immune   : about -2..3, where lymphocytes gather.
    shrink   : um wide, how far stroma has shrunk away from the nests (negative: not at all).
    psi, chi : um, across and along the collagen fibres.
    """

    inside: F32
    nest: F32
    solid: F32
    duct: F32
    hole: F32
    vessel: F32
    fat: F32
    necrosis: F32
    immune: F32
    shrink: F32
    psi: F32
    chi: F32


FAR_UM = -25.0
NAMES = tuple(f.name for f in fields(Tissue))


@dataclass(frozen=True)
class Habit:
    """What one slide's tissue is like; drawn from the seed."""

    tumour: float
    nest_um: float
    ducts: float
    acini: float
    fat: float
    immune: float
    cleft: float
    angle: float
    glands: float
    necrosis: float


def draw_habit(seed: int) -> Habit:
    """The habit of slide `seed`; shares are offsets of fields with unit variance."""
    u = draw(np.arange(16, dtype=np.uint64), salt_of(seed, "habit"))
    return Habit(
        tumour=float(0.1 + 1.0 * u[0]),
        nest_um=float(80 + 80 * u[1]),
        ducts=float(0.12 + 0.3 * u[2]),
        acini=float(-1.6 + 1.0 * u[3]),
        fat=float(-1.7 + 1.1 * u[4]),
        immune=float(-0.4 + 0.9 * u[5]),
        cleft=float(-0.6 + 1.2 * u[6]),
        angle=float(np.pi * u[7]),
        glands=float(u[8]),
        necrosis=float(-2.1 + 1.0 * u[9]),
    )


def nearest_blob(
    seed: int, name: str, y: Floats, x: Floats, pitch: float, share: float, radii: tuple[float, float], lobes: float
) -> tuple[F32, F32, F32]:
    """(um into the nearest blob, its radius, its own lot in [0, 1)) at each place.

    One blob or none lives in each square of `pitch` um; its radius is drawn from `radii` and its outline is
    lobed by the share `lobes`. Radii up to pitch / 2 are seen whole.
    """
    row, col = np.floor(y / pitch).astype(np.int64), np.floor(x / pitch).astype(np.int64)
    # Fields are interpolated later on, so "nowhere near" is a modest number, not a cliff.
    best = np.full(np.broadcast_shapes(y.shape, x.shape), FAR_UM, np.float32)
    size, lot = np.ones_like(best), np.zeros_like(best)
    salt = salt_of(seed, name)

    def blob(r: NDArray[np.int64], c: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
        ids = hash_at(salt, r, c)
        turn = 6.2832 * draw(ids, salt_of(1, "t"))
        return (
            (r + 0.25 + 0.5 * draw(ids, salt_of(1, "y"))) * pitch,
            (c + 0.25 + 0.5 * draw(ids, salt_of(1, "x"))) * pitch,
            radii[0] + (radii[1] - radii[0]) * draw(ids, salt_of(1, "r")) ** np.float32(1.5),
            np.cos(turn),
            np.sin(turn),
            1 + np.float32(0.5) * draw(ids, salt_of(1, "s")),
            np.float32(0.4) * (1 - 2 * lot_sign(ids)),
            uniform(ids) < share,
            draw(ids, salt_of(1, "lot")),
        )

    look = lattice(row, col)
    for dr in (-1, 0, 1):
        for dc in (-1, 0, 1):
            cy, cx, radius, ct, st, stretch, bias, present, own = look(blob, dr, dc)
            dy, dx = (y - cy).astype(np.float32), (x - cx).astype(np.float32)
            u, v = (ct * dy + st * dx) * stretch, ct * dx - st * dy
            rho = np.sqrt(u * u + v * v) + np.float32(1e-3)
            cos1, sin1 = v / rho, u / rho
            cos3, sin2 = cos1 * (4 * cos1 * cos1 - 3), 2 * sin1 * cos1
            outline = radius * (1 + np.float32(lobes) * (np.float32(0.5) * cos3 + sin2 * bias))
            depth = np.where(present, outline - rho, np.float32(FAR_UM)).astype(np.float32)
            closer = depth > best
            best = np.where(closer, depth, best)
            size = np.where(closer, radius, size)
            lot = np.where(closer, own, lot)
    return best, size, lot


def lot_sign(ids: np.ndarray) -> F32:
    """0 or 1 for each identity, float32."""
    return ((ids >> np.uint64(7)) & np.uint64(1)).astype(np.float32)


def vacuole_um(gap: NDArray[Any], is_fat: NDArray[np.bool_]) -> F32:
    """um into a vacuole from the distances (3, ...) to the three nearest centres, nearest first.

    Walls lie half way between two centres; the corners where three cells meet are rounded, and a fat cell is
    never wider than about 60 um.
    """
    one, two, free = (gap[1] - gap[0]) / 2, (gap[2] - gap[0]) / 2, 32.0 - gap[0]
    soft = -3.0 * np.log(np.exp(-one / 3.0) + np.exp(-two / 3.0) + np.exp(np.clip(-free / 3.0, None, 30))) + 0.6
    return np.where(is_fat[0], soft, np.where(is_fat[1], -one - 0.7, -1e3)).astype(np.float32)


RASTER_UM, RASTER_STEP = 256.0, 4.0


def cleft_um(shrink: F32, nest: F32) -> F32:
    """um into the gap round a nest from which the stroma has shrunk away; negative elsewhere."""
    inside: F32 = np.minimum(shrink, shrink + 0.5 - np.abs(nest + shrink + 0.5))
    return inside


class Raster:
    """Fields on a lattice of `RASTER_STEP` um, read by linear interpolation."""

    def __init__(self, values: NDArray[np.float32], y0: float, x0: float) -> None:
        self.values, self.y0, self.x0 = values, y0, x0

    def read(self, name: str, y: Floats, x: Floats) -> F32:
        """One field at places (y, x) um inside the raster."""
        place = [(y - self.y0) / RASTER_STEP, (x - self.x0) / RASTER_STEP]
        values: F32 = map_coordinates(self.values[NAMES.index(name)], place, output=np.float32, order=1, mode="nearest")
        return values

    def tissue(self, y: Floats, x: Floats) -> Tissue:
        """All fields at places (y, x) um."""
        return Tissue(**{name: self.read(name, y, x) for name in NAMES})

    def slope(self, name: str, y: Floats, x: Floats) -> tuple[F32, F32]:
        """Difference of one field over 4 um in y and in x."""
        return (
            self.read(name, y + 2, x) - self.read(name, y - 2, x),
            self.read(name, y, x + 2) - self.read(name, y, x - 2),
        )

    def grain(self, y: Floats, x: Floats, t: Tissue, along_wall: NDArray[np.bool_]) -> F32:
        """Angle (rad, from +x to +y) of the fibres, or of the wall next to which a place lies."""
        dy, dx = self.slope("psi", y, x)
        for name, near in (("nest", t.nest > -5), ("vessel", t.vessel > -5), ("duct", (t.duct > -5) | along_wall)):
            ey, ex = self.slope(name, y, x)
            dy, dx = np.where(near, ey, dy), np.where(near, ex, dx)
        angle: F32 = (np.arctan2(dy, dx) + np.pi / 2).astype(np.float32)
        return angle


class Anatomy:
    """The tissue of one block; `extent_um` (height, width) bounds it unless `whole`."""

    def __init__(self, seed: int, extent_um: tuple[float, float], *, whole: bool) -> None:
        self.seed, self.extent_um, self.whole = seed, extent_um, whole
        self.habit = draw_habit(seed)
        self._kept: Kept[tuple[int, int], NDArray[np.float32]] = Kept(400)

    def lean(self, y: Floats, x: Floats, z: float) -> tuple[Floats, Floats]:
        """(y, x) at which the fields of depth `z` um are read: structures lean by up to about half their depth."""
        if z == 0:
            return y, x
        dy = 0.35 * z * smooth_noise(salt_of(self.seed, "lean.y"), y, x, 260.0)
        dx = 0.35 * z * smooth_noise(salt_of(self.seed, "lean.x"), y, x, 260.0)
        return y + dy, x + dx

    def _outline(self, y: Floats, x: Floats) -> F32:
        if self.whole:
            return np.full(np.broadcast_shapes(y.shape, x.shape), 1e3, np.float32)
        h, w = self.extent_um
        scale = min(h, w)
        wobble = 0.16 * scale * fractal(self.seed, "outline", y, x, 0.45 * scale, 3) + 14 * fractal(
            self.seed, "ragged", y, x, 70.0, 3, 0.6
        )
        from_edge = np.minimum(np.minimum(y, h - y), np.minimum(x, w - x))
        plateau = 0.30 * scale
        body: F32 = (np.minimum(from_edge, plateau) - 0.13 * scale + 0.55 * wobble).astype(np.float32)
        # The picture's own border is glass, so that a slide never ends inside its tissue.
        rim = from_edge - scale * (0.05 + 0.03 * fractal(self.seed, "rim", y, x, 0.12 * scale, 3))
        outline: F32 = np.minimum(np.minimum(body, rim), from_edge - 4.0).astype(np.float32)
        return outline

    def at(self, y: Floats, x: Floats) -> Tissue:
        """The fields at leaned places (y, x) um (float64, one shape), computed in full."""
        # The outline, and the nests and cords of invasive tumour. Distances are um, positive inside.
        s, k = self.seed, self.habit
        inside = self._outline(y, x)
        wy = y + 22 * smooth_noise(salt_of(s, "warp.y"), y, x, 130.0)
        wx = x + 22 * smooth_noise(salt_of(s, "warp.x"), y, x, 130.0)
        tumour = fractal(s, "tumour", y, x, 900.0, 2) + np.float32(k.tumour)
        solid = np.clip(0.5 + 0.8 * fractal(s, "solid", y, x, 600.0, 2), 0, 1).astype(np.float32)
        nests = fractal(s, "nests", wy, wx, k.nest_um, 2, 0.35)
        cords = np.float32(0.75) - np.abs(fractal(s, "cords", wy, wx, k.nest_um * 1.15, 1)) * 1.9
        edge = 2.2 * smooth_noise(salt_of(s, "edge"), y, x, 17.0) + 1.2 * smooth_noise(salt_of(s, "edge2"), y, x, 8.0)
        level = solid * nests + (1 - solid) * cords + np.clip(1.3 * tumour, -4, 0.9) - 0.25
        nest = (level * np.float32(0.24 * k.nest_um) + edge).astype(np.float32)

        # Ducts, in situ tumour and lobules; invasive nests end short of all of them.
        duct, duct_r, duct_lot = nearest_blob(s, "ducts", wy, wx, 430.0, 0.55 * k.ducts, (45.0, 150.0), 0.28)
        in_situ, in_situ_r, _ = nearest_blob(s, "in situ", wy, wx, 470.0, 0.5 * k.ducts, (60.0, 170.0), 0.2)
        lobule = fractal(s, "lobule", y, x, 420.0, 2) + np.float32(k.acini)
        acinus, acinus_r, _ = nearest_blob(s, "acini", wy, wx, 52.0, 0.92, (15.0, 25.0), 0.18)
        acinus = np.minimum(acinus, lobule * 50)
        benign = np.maximum(duct, acinus)
        nest = np.maximum(np.minimum(nest, -in_situ - 14), in_situ - 1)
        nest = np.minimum(nest, -np.maximum(duct, np.minimum(acinus, lobule * 50 + 12)) - 12)
        nest = np.minimum(nest, -lobule * 40 + 8).astype(np.float32)

        # Lumens: of benign glands, whatever their wall leaves, and of tumour that still forms glands.
        wall = np.where(duct >= acinus, np.minimum(16 + 6 * duct_lot, 0.72 * duct_r), np.minimum(12.5, 0.78 * acinus_r))
        hole = benign - wall + 1.6 * smooth_noise(salt_of(s, "luminal"), y, x, 13.0)
        gland, _, gland_lot = nearest_blob(s, "gland", wy, wx, 64.0, 0.75, (5.0, 19.0), 0.3)
        forms = fractal(s, "forms", y, x, 500.0, 2) + np.float32(2.4 * k.glands - 1.9)
        hole = np.maximum(hole, np.minimum(np.minimum(gland, nest - 9), (forms - gland_lot) * 20))

        # Fat and vessels in the stroma between; a vessel is a hole with a wall.
        fat = (fractal(s, "fat", y, x, 800.0, 3, 0.4) + np.float32(k.fat)) * 80
        fat = np.minimum(np.minimum(fat, -nest - 22), -benign - 12).astype(np.float32)
        vessel, _, _ = nearest_blob(s, "vessels", wy, wx, 170.0, 0.5, (5.5, 30.0), 0.15)
        vessel = np.minimum(vessel, -np.maximum(nest, benign) - 2).astype(np.float32)
        hole = np.maximum(hole, vessel - np.float32(2.2)).astype(np.float32)

        # Necrosis, deep inside large nests.
        dead = (fractal(s, "necrosis", y, x, 420.0, 3) + np.float32(k.necrosis)) * 70
        necrosis = np.minimum(dead, nest - 34)
        # In situ tumour dies in the middle of wide ducts, too far from any vessel.
        necrosis = np.maximum(necrosis, np.minimum(in_situ - 52, (in_situ_r - 85) * 2)).astype(np.float32)

        # Immune cells gather round nests and lobules; stroma shrinks away from epithelium in clefts.
        around = np.exp(-(((nest + 18) / 26) ** 2)) + 0.7 * np.exp(-(((lobule - 0.1) / 0.5) ** 2)) * (lobule > -1)
        immune = fractal(s, "immune", y, x, 190.0, 3) + np.float32(k.immune - 1.1) + 0.55 * around
        gap = fractal(s, "gap", y, x, 90.0, 2) + np.float32(k.cleft - 0.9)
        shrink = (np.float32(3.4) * np.clip(gap, -1, 1.5)).astype(np.float32)

        # Fibres: along them and across, bent, and following the borders of what they enclose.
        bend = 30 * fractal(s, "bend", y, x, 330.0, 2, 0.35) + 4.5 * smooth_noise(salt_of(s, "crimp"), y, x, 46.0)
        follow = 26 * np.exp(-np.clip(-np.maximum(nest, np.maximum(duct, -60)), 0, 200) / 24)
        ca, sa = np.cos(k.angle), np.sin(k.angle)
        psi = (ca * y + sa * x + bend + follow).astype(np.float64)
        chi = (ca * x - sa * y + 20 * smooth_noise(salt_of(s, "chi"), y, x, 150.0)).astype(np.float64)
        return Tissue(
            inside, nest, solid, benign.astype(np.float32), hole, vessel, fat, necrosis,
            immune.astype(np.float32), shrink, psi, chi,
        )  # fmt: skip

    def _raster_square(self, row: int, col: int) -> NDArray[np.float32]:
        n = int(RASTER_UM / RASTER_STEP)
        y = (np.arange(row * n, (row + 1) * n) * RASTER_STEP)[:, None] + np.zeros((1, n))
        x = (np.arange(col * n, (col + 1) * n) * RASTER_STEP)[None, :] + np.zeros((n, 1))
        t = self.at(y, x)
        return np.stack([getattr(t, f.name) for f in fields(t)]).astype(np.float32)

    def near(self, y: Floats, x: Floats) -> "Raster":
        """The fields round leaned places, from a cached raster: cheap to read at many scattered points."""
        n = int(RASTER_UM / RASTER_STEP)
        r0, c0 = int(np.floor((y.min() - 8) / RASTER_UM)), int(np.floor((x.min() - 8) / RASTER_UM))
        r1, c1 = int(np.floor((y.max() + 8) / RASTER_UM)) + 1, int(np.floor((x.max() + 8) / RASTER_UM)) + 1
        whole = np.empty((len(fields(Tissue)), (r1 - r0) * n, (c1 - c0) * n), np.float32)
        for r in range(r0, r1):
            for c in range(c0, c1):
                whole[:, (r - r0) * n : (r - r0 + 1) * n, (c - c0) * n : (c - c0 + 1) * n] = self._kept.get(
                    (r, c), partial(self._raster_square, r, c)
                )
        return Raster(whole, r0 * RASTER_UM, c0 * RASTER_UM)

    def fat_cells(self, y0: float, x0: float, y1: float, x1: float) -> np.ndarray:
        """Centres (n, 2) um (y, x) of the fat cells in and near a window."""
        pitch = 58.0
        r = np.arange(int(np.floor(y0 / pitch)) - 2, int(np.floor(y1 / pitch)) + 3)[:, None]
        c = np.arange(int(np.floor(x0 / pitch)) - 2, int(np.floor(x1 / pitch)) + 3)[None, :]
        ids = hash_at(salt_of(self.seed, "fat cells"), r, c)
        cy = (r + 0.5 * (c & 1) + 0.85 * (draw(ids, salt_of(1, "y")) - 0.5)) * pitch
        cx = (c + 0.85 * (draw(ids, salt_of(1, "x")) - 0.5)) * pitch
        return np.stack([np.broadcast_to(cy, ids.shape).ravel(), np.broadcast_to(cx, ids.shape).ravel()], 1)

    def vacuole(self, y: Floats, x: Floats, fat: F32) -> F32:
        """um into the vacuole of a fat cell at leaned places (flat arrays); far below 0 where there is no fat."""
        depth = np.full(y.shape, -1e3, np.float32)
        where = np.flatnonzero(fat > -70)
        if len(where) == 0:
            return depth
        py, px = y[where], x[where]
        centres, is_fat = self.active_fat(float(py.min()), float(px.min()), float(py.max()), float(px.max()))
        gap, which = (np.asarray(found) for found in cKDTree(centres).query(np.stack([py, px], 1), k=3))
        depth[where] = vacuole_um(gap.T, is_fat[which.T])
        return depth

    def active_fat(self, y0: float, x0: float, y1: float, x1: float) -> tuple[np.ndarray, NDArray[np.bool_]]:
        """Centres (n, 2) um of the squares' fat cells in and near a window, and which of them are fat."""
        centres = self.fat_cells(y0, x0, y1, x1)
        raster = self.near(centres[:, 0], centres[:, 1])
        return centres, raster.read("fat", centres[:, 0], centres[:, 1]) > 0
