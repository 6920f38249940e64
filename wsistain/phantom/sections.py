"""Two sections of one block: how a place on the glass maps into the block and back, and where the glass is torn."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsistain.phantom.cells import LAYER_UM
from wsistain.phantom.config import PhantomConfig
from wsistain.phantom.noise import F32, Floats, draw, hash_at, salt_of, smooth_noise, uniform

_SCAR_PITCH_UM = 3000.0


@dataclass(frozen=True)
class Section:
    """One section: depths z0..z1 um in the block and a smooth map from glass to block.

    block = R(-turn) (glass - centre - shift) + centre + deform(glass), all in um, (y, x).
    """

    seed: int
    name: str
    z0: float
    z1: float
    centre: tuple[float, float]
    shift: tuple[float, float]
    turn: float
    deform_um: float
    tears: float
    folds: float

    @property
    def z_mid(self) -> float:
        """Depth of the middle plane, um."""
        return 0.5 * (self.z0 + self.z1)

    def _deform(self, y: Floats, x: Floats) -> tuple[Floats, Floats]:
        if self.deform_um == 0:
            return np.zeros_like(y), np.zeros_like(x)
        out = []
        for axis in ("y", "x"):
            wide = smooth_noise(salt_of(self.seed, f"deform wide {axis}"), y, x, 1900.0)
            near = smooth_noise(salt_of(self.seed, f"deform near {axis}"), y, x, 420.0)
            out.append(self.deform_um * (0.85 * wide + 0.5 * near).astype(np.float64) / np.sqrt(2))
        return out[0], out[1]

    def to_block(self, y: Floats, x: Floats) -> tuple[Floats, Floats]:
        """Block place of glass places (y, x), um, float64."""
        if self.name == "a":
            return y, x
        cy, cx = self.centre
        dy, dx = y - cy - self.shift[0], x - cx - self.shift[1]
        c, s = np.cos(self.turn), np.sin(self.turn)
        vy, vx = self._deform(y, x)
        return c * dy - s * dx + cy + vy, s * dy + c * dx + cx + vx

    def from_block(self, y: Floats, x: Floats) -> tuple[Floats, Floats]:
        """Glass place of block places: the inverse of `to_block`, by fixed-point steps (error far below 0.01 um)."""
        if self.name == "a":
            return y, x
        cy, cx = self.centre
        c, s = np.cos(self.turn), np.sin(self.turn)
        gy, gx = y, x
        for _ in range(8 if self.deform_um else 1):
            vy, vx = self._deform(gy, gx)
            dy, dx = y - cy - vy, x - cx - vx
            gy, gx = c * dy + s * dx + cy + self.shift[0], -s * dy + c * dx + cx + self.shift[1]
        return gy, gx

    def _scar(self, name: str, expected: float, y: Floats, x: Floats, width: float) -> F32:
        """um into the nearest long thin mark (positive inside); `expected` of them on 10 mm2."""
        depth = np.full(np.broadcast_shapes(y.shape, x.shape), -1e3, np.float32)
        if expected == 0:
            return depth
        p = _SCAR_PITCH_UM
        share = expected * p * p * 1e-7
        for r in range(int(np.floor(y.min() / p)) - 1, int(np.floor(y.max() / p)) + 2):
            for c in range(int(np.floor(x.min() / p)) - 1, int(np.floor(x.max() / p)) + 2):
                bits = hash_at(salt_of(self.seed, name), np.array([r]), np.array([c]))
                if float(uniform(bits)[0]) >= share:
                    continue
                u = [float(draw(bits, salt_of(1, f"scar {k}"))[0]) for k in range(6)]
                dy, dx = y - (r + u[0]) * p, x - (c + u[1]) * p
                turn, half = np.pi * u[2], 200 + 650 * u[3]
                along = np.cos(turn) * dy + np.sin(turn) * dx
                across = (
                    -np.sin(turn) * dy
                    + np.cos(turn) * dx
                    + 25 * smooth_noise(salt_of(self.seed, name + ".bend"), y, x, 160.0)
                )
                taper = 1 - (along / half) ** 2
                wide = width * (0.5 + u[4]) * np.clip(taper, 0, 1)
                inside = np.where(taper > 0, wide - np.abs(across), -1e3)
                depth = np.maximum(depth, inside.astype(np.float32))
        return depth

    def tear(self, y: Floats, x: Floats) -> F32:
        """um into a tear of the section at glass places; positive: no tissue there."""
        return self._scar("tear", self.tears, y, x, 16.0)

    def fold(self, y: Floats, x: Floats) -> F32:
        """um into a fold of the section at glass places; positive: tissue lies double."""
        return self._scar("fold", self.folds, y, x, 11.0)


def make_sections(config: PhantomConfig) -> dict[str, Section]:
    """Sections "a" and "b" of a configuration."""
    pair, t = config.pair, config.thickness_um
    u = draw(np.arange(4, dtype=np.uint64), salt_of(config.seed, "sections"))
    centre = (0.5 * config.height * config.mpp, 0.5 * config.width * config.mpp)
    way = 2 * np.pi * float(u[0])
    far = pair.shift_um * (0.5 + 0.5 * float(u[1]))
    turn = np.deg2rad(pair.rotation_deg) * (1 if u[2] < 0.5 else -1) * (0.5 + 0.5 * float(u[3]))
    # Both sections lie equally far from the middle of a layer of cells, so that both cut as many.
    rest = pair.distance_um - LAYER_UM * round(pair.distance_um / LAYER_UM)
    z_a = -rest / 2
    a = Section(config.seed, "a", z_a - t / 2, z_a + t / 2, centre, (0.0, 0.0), 0.0, 0.0, 0.0, 0.0)
    z = z_a + pair.distance_um
    shift = (far * float(np.sin(way)), far * float(np.cos(way)))
    b = Section(
        config.seed, "b", z - t / 2, z + t / 2, centre, shift, float(turn), pair.deform_um, pair.tears, pair.folds
    )
    return {"a": a, "b": b}


def chord(z: NDArray[Any], half: NDArray[Any], z0: float, z1: float) -> F32:
    """um of the depths z0..z1 that lie within `half` of `z`."""
    inside: F32 = np.clip(np.minimum(z + half, z1) - np.maximum(z - half, z0), 0, None).astype(np.float32)
    return inside
