"""Amounts of dye on a window of a section: tissue by tissue, then cells and membranes."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsistain.markers import find_marker
from wsistain.phantom.anatomy import Anatomy, cleft_um, nearest_blob, vacuole_um
from wsistain.phantom.background import draw_background, unspecific
from wsistain.phantom.cells import Cells, TissueBlock
from wsistain.phantom.config import PhantomConfig
from wsistain.phantom.kinds import LUMINAL, TUMOUR
from wsistain.phantom.lumen import contents
from wsistain.phantom.nearest_centres import nearest_centres
from wsistain.phantom.noise import F32, Floats, Grain, Texture, draw, fractal, salt_of, smooth_noise
from wsistain.phantom.nuclei import NuclearMaps, paint_nuclei
from wsistain.phantom.sections import Section
from wsistain.phantom.stroma import foamy, straight, wavy
from wsistain.phantom.uneven import frayed, ring_of

MARGIN_UM = 16.0
NODE_UM = 4.0
# Density of the chromogen on the membrane by ring score; it jumps where rings become complete (2+).
RING_LEVELS = (0.0, 0.7, 1.499, 1.5, 2.4, 3.0)
RING_OD = (0.0, 0.03, 0.12, 0.34, 0.62, 1.05)


@dataclass
class Stained:
    """float32 (h, w) amounts by dye, of the H&E and of the IHC of the same window."""

    he: dict[str, F32]
    ihc: dict[str, F32]


def ramp(value: F32, width: float) -> F32:
    """0 below -width / 2, 1 above width / 2, straight between."""
    out: F32 = np.clip(value * np.float32(1 / width) + np.float32(0.5), 0, 1)
    return out


def cubic_rows(first: int, count: int, step: int) -> tuple[F32, int, int]:
    """(weights (count, nodes), first node, nodes): Catmull-Rom interpolation of nodes every `step` px."""
    place = np.arange(first, first + count) / step
    left = np.floor(place).astype(np.int64)
    f = (place - left)[:, None]
    w = np.concatenate(
        [
            -0.5 * f + f**2 - 0.5 * f**3,
            1 - 2.5 * f**2 + 1.5 * f**3,
            0.5 * f + 2 * f**2 - 1.5 * f**3,
            -0.5 * f**2 + 0.5 * f**3,
        ],
        axis=1,
    )
    k0, k1 = int(left[0]) - 1, int(left[-1]) + 2
    matrix = np.zeros((count, k1 - k0 + 1), np.float32)
    for j in range(4):
        matrix[np.arange(count), left - 1 + j - k0] = w[:, j]
    return matrix, k0, k1 - k0 + 1


class Window:
    """Fields and textures of one window, at every pixel."""

    def __init__(self, painter: "Painter", section: Section, y: int, x: int, h: int, w: int) -> None:
        self.y, self.x, self.shape = y, x, (h, w)
        mpp = painter.mpp
        step = max(1, round(NODE_UM / mpp))
        self.rows, r0, nr = cubic_rows(y, h, step)
        self.cols, c0, nc = cubic_rows(x, w, step)
        gy = ((np.arange(r0, r0 + nr) * step + 0.5) * mpp)[:, None] + np.zeros((1, nc))
        gx = ((np.arange(c0, c0 + nc) * step + 0.5) * mpp)[None, :] + np.zeros((nr, 1))
        by, bx = section.to_block(gy, gx)
        self.nodes_y, self.nodes_x = painter.anatomy.lean(by, bx, section.z_mid)
        self.raster = painter.anatomy.near(self.nodes_y, self.nodes_x)
        self.tissue = self.raster.tissue(self.nodes_y, self.nodes_x)
        self.tear, self.fold = section.tear(gy, gx), section.fold(gy, gx)
        self.y_um = ((np.arange(y, y + h) + 0.5) * mpp)[:, None]
        self.x_um = ((np.arange(x, x + w) + 0.5) * mpp)[None, :]
        self.shift_y, self.shift_x = self.nodes_y - gy, self.nodes_x - gx
        self.is_glass = bool((self.tissue.inside < -12).all())

    def up(self, nodes: NDArray[Any]) -> F32:
        """float32 (h, w) from values at the nodes."""
        return self.rows @ (nodes.astype(np.float32) @ self.cols.T)

    def field(self, name: str) -> F32:
        """One field of the tissue at every pixel."""
        return self.up(getattr(self.tissue, name))

    def fibre_turn(self) -> F32:
        """Angle of the collagen at every pixel, from +x to +y, rad (doubled while it is interpolated: fibres have no head)."""
        dy, dx = self.raster.slope("psi", self.nodes_y, self.nodes_x)
        twice = 2 * (np.arctan2(dy, dx) + np.pi / 2)
        angle: F32 = np.float32(0.5) * np.arctan2(self.up(np.sin(twice)), self.up(np.cos(twice)))
        return angle

    def places(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Leaned block place (y, x) of every pixel, um, float64."""
        return self.y_um + self.up(self.shift_y), self.x_um + self.up(self.shift_x)


@lru_cache(maxsize=1)
def textures() -> tuple[Grain, Grain, Texture, Texture, Texture]:
    """(fibril, bundle, fine, coarse, cloud): fine and coarse are for chromatin; made once a process."""
    return (
        Grain("fibril", 0.8, 14.0, 2.6),
        Grain("bundle", 1.6, 11.0, 3.5),
        Texture("fine", 0.9, 2.2),
        Texture("coarse", 1.9, 2.0),
        Texture("cloud", 3.0, 3.0),
    )


class Painter:
    """Paints windows of the sections of one block."""

    def __init__(self, config: PhantomConfig, anatomy: Anatomy, block: TissueBlock) -> None:
        self.mpp, self.seed, self.version = config.mpp, config.seed, config.version
        self.marker = find_marker(config.marker)
        self.column = [m.name for m in block.markers].index(self.marker.name)
        self.background = draw_background(config.seed, self.marker.name)
        self.anatomy, self.block = anatomy, block
        self.fibril, self.bundle, self.fine, self.coarse, self.cloud = textures()
        # All slides share the textures, each read from its own corner.
        self.corner = 200 * draw(np.arange(2, dtype=np.uint64), salt_of(config.seed, "corner")).astype(np.float64)

    def cells_on(
        self, section: Section, y0: float, x0: float, y1: float, x1: float, *, reach: float
    ) -> tuple[Cells, NDArray[Any], NDArray[Any]]:
        """(cells, y, x) that the section cuts, in or within `reach` of a glass window, um."""
        ey, ex = np.meshgrid(
            np.linspace(y0 - reach, y1 + reach, 9), np.linspace(x0 - reach, x1 + reach, 9), indexing="ij"
        )
        by, bx = section.to_block(ey, ex)
        top, left, bottom, right = (float(v) for v in (by.min(), bx.min(), by.max(), bx.max()))
        cells = self.block.cells(top - 4, left - 4, bottom + 4, right + 4, section.z0, section.z1)
        gy, gx = section.from_block(cells.y, cells.x)
        keep = (gy >= y0 - reach) & (gy < y1 + reach) & (gx >= x0 - reach) & (gx < x1 + reach)
        if len(cells) and (section.tears or section.folds):
            keep &= section.tear(gy, gx) < 0
        return cells.take(keep), gy[keep], gx[keep]

    def paint(self, section: Section, y: int, x: int, h: int, w: int) -> Stained | None:
        """Dye on the window at (y, x) px, (h, w); None where there is no tissue at all."""
        win = Window(self, section, y, x, h, w)
        if win.is_glass:
            return None
        m = self.mpp
        cells, cy, cx = self.cells_on(section, y * m, x * m, (y + h) * m, (x + w) * m, reach=MARGIN_UM)
        y_px, x_px = cy / m - 0.5 - y, cx / m - 0.5 - x
        py, px = win.places()
        ty, tx, z = py + self.corner[0], px + self.corner[1], section.z_mid
        clump = self.coarse.near((ty + 37 * z) / 0.46, (tx + 11 * z) / 0.46)
        grain = self.fine.near((ty + 17 * z) / 0.37, (tx - 23 * z) / 0.37)
        level = cells.level[:, self.column]
        nuclear = level if self.marker.compartment == "nuclear" else np.zeros_like(level)
        turn = (cells.turn - np.float32(section.turn)).astype(np.float32)
        nuclei = paint_nuclei(cells, y_px, x_px, turn, section.z0, section.z1, m, clump, grain, nuclear)
        ground = self._ground(win, py, px, grain)
        around, border, plump = self._membranes(win, ground, cells, y_px, x_px, clump)
        lumen = None
        if self.version != "v0":
            hole = np.minimum(ground["hole"], -ground["vacuole"])  # a vacuole that cuts a lumen is empty too
            lumen = contents(self.seed, win, py, px, hole, ground["vessel"], ground["cloud"], grain)
        return self._mix(win, ground, nuclei, around, border, plump, grain, lumen)

    def _ground(self, win: Window, py: Floats, px: Floats, grain: F32) -> dict[str, F32]:
        """Shares and densities of the tissues between the nuclei, at every pixel."""
        turn = win.fibre_turn()
        ty, tx = py + self.corner[0], px + self.corner[1]
        bundle = self.bundle.at(turn, ty / 1.3, tx / 1.3)
        fibril = self.fibril.near(turn, ty / 0.55, tx / 0.55)
        cloud = self.cloud.at(ty / 2.1, tx / 2.1)
        sway = self.cloud.at((tx + 71) / 1.6, (ty - 53) / 1.6)
        inside = win.field("inside") + 2.5 * bundle + 1.5 * cloud
        hole, nest, duct = win.field("hole"), win.field("nest"), win.field("duct")
        cleft = cleft_um(win.field("shrink"), nest)
        vacuole, film = self._vacuole(win, py, px), np.zeros_like(grain)
        if self.version != "v0":
            vacuole, film = frayed(self.seed, win, vacuole, bundle, cloud)
        epithelium = np.maximum(ramp(nest, 1.6), ramp(duct, 1.4))
        gap = np.maximum(ramp(cleft + 0.8 * cloud, 1.4), ramp(win.up(win.tear) + 2 * bundle, 2.0))
        open_ = np.maximum(ramp(hole, 1.2), gap)
        loose = win.up(fractal(self.seed, "oedema", win.nodes_y, win.nodes_x, 230.0, 3))
        body = ramp(inside, 1.6) * (1 - open_) * (1 - ramp(vacuole, 1.0) * (1 - film))
        dead = ramp(win.field("necrosis") + 5 * cloud, 9.0) * epithelium
        if self.version == "v0":
            collagen, foam = straight(bundle, fibril, grain, loose, epithelium), np.ones_like(grain)
        else:
            collagen = wavy(self.seed, win, turn, ty, tx, self.bundle, self.fibril, self.cloud, grain, loose)
            foam = foamy(self.seed, win, ty, tx, self.cloud)
        vessel = win.field("vessel")
        wall = np.exp(-(((vessel - 0.6) / 1.5) ** 2)) * (1 - epithelium)
        collagen = collagen * (1 - np.float32(0.5) * wall) + np.float32(0.85) * wall
        membrane = np.exp(-((np.minimum(np.abs(duct + 0.4), np.abs(nest + 0.6)) / 0.9) ** 2))
        blood = self._blood(win, py, px, vessel, hole) * ramp(inside - 6, 4) * (vacuole < -3)
        return {
            "body": body, "epithelium": epithelium, "dead": dead, "collagen": collagen, "membrane": membrane,
            "blood": blood, "vessel": vessel, "foam": foam, "cloud": cloud, "sway": sway, "wall": np.maximum(nest, duct), "hole": hole, "vacuole": vacuole, "immune": win.field("immune"), "lumen": ramp(hole, 3.0) * ramp(inside, 2.0),
        }  # fmt: skip

    def _blood(self, win: Window, py: Floats, px: Floats, vessel: F32, hole: F32) -> F32:
        """Red cells in the lumens of vessels."""
        blood = np.zeros(win.shape, np.float32)
        where = np.flatnonzero((vessel > 2.0) & (hole > -0.5))
        if len(where):
            depth, _, lot = nearest_blob(
                self.seed, "red", py.ravel()[where], px.ravel()[where], 6.0, 0.8, (2.6, 3.4), 0.06
            )
            blood.ravel()[where] = np.clip(depth * 0.9, 0, 1) * (0.30 + 0.16 * lot)
        return blood

    def _vacuole(self, win: Window, py: Floats, px: Floats) -> F32:
        """um into the vacuole of a fat cell, exact at every pixel."""
        vacuole = np.full(win.shape, -1e3, np.float32)
        if not (win.tissue.fat > -70).any():
            return vacuole
        where = np.flatnonzero(win.field("fat") > -60)
        if len(where) == 0:
            return vacuole
        centres, is_fat = self.anatomy.active_fat(float(py.min()), float(px.min()), float(py.max()), float(px.max()))
        if not is_fat.any():
            return vacuole
        none = np.zeros(len(centres), np.float32)
        gap, which = nearest_centres(centres, none, py, px, win.y, win.x, where, 4, 3)
        vacuole.ravel()[where] = vacuole_um(gap, is_fat[which])
        return vacuole

    def _membranes(
        self, win: Window, ground: dict[str, F32], cells: Cells, y_px: Floats, x_px: Floats, clump: F32
    ) -> tuple[F32, F32, F32]:
        """Of epithelium (chromogen on membranes or in cytoplasm, share of the pixel on a border between cells, apocrine
        tone of the cell).
        """
        around, border, tone = (np.zeros(win.shape, np.float32) for _ in range(3))
        pick = np.isin(cells.kind, (TUMOUR, LUMINAL))
        where = np.flatnonzero(ground["epithelium"] > 0)
        if pick.sum() < 4 or len(where) == 0:
            return around, border, tone
        some = cells.take(pick)
        centres = np.stack([y_px[pick], x_px[pick]], 1) * self.mpp
        h, w = win.shape
        # Borders between cells are not straight: the places are shaken by a few tenths of a um.
        yy = (np.arange(h) * self.mpp)[:, None] + np.float32(0.9) * ground["cloud"]
        xx = (np.arange(w) * self.mpp)[None, :] + np.float32(0.7) * ground["sway"]
        radius = np.sqrt(some.a * some.b)
        d, which = nearest_centres(centres, radius, yy, xx, win.y, win.x, where, 4, 2)
        own, gap, outer = which[0], (d[1] - d[0]) / 2, np.float32(6.5) - d[0]
        nest, hole, sway = (ground[name].ravel()[where] for name in ("wall", "hole", "sway"))
        rim = np.minimum(np.abs(nest - np.float32(0.9)), np.abs(hole + np.float32(0.9)))
        edge = np.minimum(np.minimum(gap, np.abs(outer)), rim)
        border.ravel()[where] = np.exp(-((edge / np.float32(0.55)) ** 2)) * (outer > -1)
        tone.ravel()[where] = np.where(outer > -2, some.plump[own], 0)
        if self.marker.compartment == "nuclear":
            return around, border, tone
        level = some.level[:, self.column][own]
        if self.marker.compartment == "membranous":
            od = np.interp(level, RING_LEVELS, RING_OD).astype(np.float32)
            whole = ramp(level - np.float32(1.35) + np.float32(0.45) * clump.ravel()[where], 0.5)
            width, dense = np.float32(0.72) + np.float32(0.16) * sway, np.ones_like(sway)
            if self.version != "v0":
                width, dense = ring_of(some.ids[own], some.ids[which[1]], hole, sway, clump.ravel()[where])
            shape = np.exp(-((edge / width) ** 2)) * (outer > -1.2)
            around.ravel()[where] = od * (np.float32(0.15) + np.float32(0.85) * whole) * shape * dense
        else:
            coarse = np.clip(1 + np.float32(0.30) * clump.ravel()[where], 0.3, 1.7)  # granules, and gaps between them
            around.ravel()[where] = level * coarse * ramp(outer + np.float32(0.6), 1.2)
        return around, border, tone

    def _mix(
        self, win: Window, g: dict[str, F32], nuclei: NuclearMaps, around: F32, border: F32, plump: F32, grain: F32,
        lumen: tuple[F32, F32] | None,
    ) -> Stained:  # fmt: skip
        """The amounts of each dye from what lies at each pixel."""
        # What lies at each pixel, and how thick the section is there.
        body, epi, dead = g["body"], g["epithelium"], g["dead"]
        stroma = (1 - epi) * body
        live = epi * (1 - dead) * body
        bare = 1 - np.float32(0.8) * nuclei.cover
        py, px = win.nodes_y, win.nodes_x
        thick = (
            1
            + 0.05 * win.up(smooth_noise(salt_of(self.seed, "thick"), py, px, 340.0))
            + 0.9 * ramp(win.up(win.fold), 3.0)
        )

        # Eosin: fibres, cytoplasm, dead cells, membranes; less of it behind a nucleus.
        tone = np.clip(1 + np.float32(0.18) * g["cloud"] + np.float32(0.16) * grain, 0.3, 1.8)
        if lumen is not None:
            tone = tone * g["foam"]
        loose = ramp(g["immune"] - np.float32(0.9), 1.2)
        eosin = stroma * g["collagen"] * (np.float32(0.34) - np.float32(0.12) * loose)
        eosin += (
            live
            * tone
            * (np.float32(0.21) + np.float32(0.05) * np.clip(plump, -1.6, 1.6))
            * (1 - np.float32(0.25) * border)
        )
        eosin += dead * body * np.float32(0.32) * np.clip(1 + 0.35 * g["cloud"] + 0.3 * grain, 0.2, 2)
        eosin += np.float32(0.10) * g["membrane"] * body
        eosin = eosin * bare + np.float32(0.05) * nuclei.cover * body + np.float32(0.10) * nuclei.nucleoli
        if lumen is None:
            eosin += g["lumen"] * np.clip(g["cloud"] - 0.9, 0, 1) * np.float32(0.10)

        # Haematoxylin outside nuclei, a trace, then in them.
        plain = (
            stroma * np.float32(0.02)
            + live * (np.float32(0.085) * tone - np.float32(0.03) * border)
            + dead * body * np.float32(0.05)
        )
        plain += loose * stroma * np.float32(0.03)
        shown = body if not np.any(body < 0) else np.clip(body, 0, 1)
        nuclear = nuclei.h * np.clip(shown * 1.5, 0, 1)
        haem = plain * bare + nuclear + np.float32(0.16) * nuclei.nucleoli * shown
        if lumen is not None:
            eosin, haem = eosin + lumen[0], haem + lumen[1]

        # The H&E.
        he = {"haematoxylin": haem * thick, "eosin": eosin * thick, "blood": g["blood"] * thick}

        # The IHC: chromogen where the marker lies, a background, and a counterstain weaker under it.
        dab = nuclei.dab * np.clip(shown * 1.5, 0, 1)
        if self.marker.compartment != "nuclear":
            hidden = 0.45 if self.marker.compartment == "membranous" else 0.85  # by the nucleus over or under it
            dab = dab + around * live * (1 - np.float32(hidden) * nuclei.cover)
        fibres = stroma * g["collagen"]
        under = nuclear * (1 - np.float32(0.6) * np.clip(nuclei.dab, 0, 1))
        if lumen is None:
            back = np.float32(0.012) * (fibres + live) + np.float32(0.05) * dead * body
            haem_ihc = np.float32(0.62) * under
            haem_ihc += np.float32(0.040) * fibres + np.float32(0.045) * live * tone * bare
        else:
            back = unspecific(self.seed, win, self.background, fibres, live * tone * bare, dead * body, lumen[0])
            haem_ihc = np.float32(0.52) * under + np.float32(0.6) * lumen[1]
            haem_ihc += np.float32(0.055) * fibres + np.float32(0.070) * live * tone * bare
        ihc = {
            "haematoxylin": haem_ihc * thick,
            "chromogen": (dab + back) * thick,
            "blood": np.float32(0.25) * g["blood"],
        }
        if lumen is not None:
            ihc["chromogen"] += np.float32(self.background.blood) * g["blood"]
        return Stained(he, ihc)
