"""The map from an H&E slide to an IHC slide that a registration leaves behind, and the file that holds it.

Places are (y, x) in um from the top left corner of a slide; a pixel of `mpp` um covers [i, i + 1) * mpp and its centre is
at (i + 0.5) * mpp. There is one map for each piece of tissue of the H&E slide, since pieces move on their own:

    place on the IHC = matrix @ (y, x, 1) + field(y, x)

where `field` is given at the nodes of a grid and is bilinear between them (beyond them the nearest node's value holds).
"""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from wsistain.errors import DataError
from wsistain.runtime.files import write_bytes

F64 = NDArray[np.float64]
FORMAT = 1
_ARRAYS = ("matrix", "rigid", "box_um", "origin_um", "field_um")
_MOST_NODES = 64_000_000


@dataclass(frozen=True)
class PieceMap:
    """The map of one piece of tissue.

    matrix    : float64 (2, 3), H&E um to IHC um; its determinant is negative where the section lies face down.
    rigid     : the same before scale, shear and the smooth field.
    box_um    : (y0, x0, y1, x1) of the piece on the H&E slide; patches are cut inside it.
    origin_um : (y, x) on the H&E slide of the grid's first node. step_um : distance of its nodes.
    field_um  : float32 (2, rows, columns), um on the IHC slide in y and in x.
    """

    matrix: F64
    rigid: F64
    box_um: F64
    origin_um: F64
    step_um: float
    field_um: NDArray[np.float32]

    @property
    def is_mirrored(self) -> bool:
        """Whether the IHC section lies face down beside the H&E section."""
        return bool(np.linalg.det(self.matrix[:, :2]) < 0)

    @property
    def turn_deg(self) -> float:
        """By how much the section is turned on the IHC slide, degrees, -180 to 180, after any mirroring of x."""
        m = self.rigid[:, :2] * (np.array([1.0, -1.0]) if self.is_mirrored else 1.0)
        return float(np.rad2deg(np.arctan2(m[1, 0], m[0, 0])))

    def affine(self, y: F64, x: F64) -> tuple[F64, F64]:
        """Places on the IHC slide without the smooth field, um."""
        m = self.matrix
        return m[0, 0] * y + m[0, 1] * x + m[0, 2], m[1, 0] * y + m[1, 1] * x + m[1, 2]

    def map(self, y: F64, x: F64) -> tuple[F64, F64]:
        """Places on the IHC slide, um, of places on the H&E slide, um; any shape."""
        at = np.stack([(y - self.origin_um[0]) / self.step_um, (x - self.origin_um[1]) / self.step_um])
        dy, dx = (
            map_coordinates(plane, at, order=1, mode="nearest", output=np.float64, prefilter=False)
            for plane in self.field_um
        )
        ay, ax = self.affine(y, x)
        return ay + dy, ax + dx

    def stretch(self) -> NDArray[np.float32]:
        """Largest change of length that the field makes at each node, share, float32 (rows, columns), >= 0."""
        planes = [np.gradient(plane, self.step_um) for plane in self.field_um]
        jacobian = np.array(planes).transpose(2, 3, 0, 1) @ np.linalg.inv(self.matrix[:, :2]) + np.eye(2)
        values = np.linalg.svd(jacobian, compute_uv=False)
        return np.asarray(np.abs(values - 1).max(axis=-1), dtype=np.float32)


def save_transform(path: Path, pieces: Sequence[PieceMap], facts: dict[str, Any]) -> None:
    """Write the maps of all pieces in one move; the same maps give the same bytes.

    facts : plain JSON values; kept under the name `facts` beside the arrays.

    OSError passes through.
    """
    arrays: dict[str, Any] = {"facts": np.array(json.dumps({"format": FORMAT, **facts}, sort_keys=True))}
    for number, piece in enumerate(pieces, 1):
        for name in _ARRAYS:
            arrays[f"{name}_{number}"] = getattr(piece, name)
        arrays[f"step_um_{number}"] = np.array(piece.step_um)
    buffer = BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def load_transform(path: Path) -> tuple[list[PieceMap], dict[str, Any]]:
    """The maps of a file and its facts. Raises DataError for whatever is no such file."""
    try:
        with np.load(BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            facts = json.loads(str(arrays["facts"]))
            n = sum(name.startswith("matrix_") for name in arrays.files)
            pieces = [_piece({name: arrays[f"{name}_{k}"] for name in (*_ARRAYS, "step_um")}) for k in range(1, n + 1)]
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(
            f"{path} is not a transform of `wsistain pair` ({str(error)[:120]}); wanted its transform.npz"
        ) from None
    if not isinstance(facts, dict) or facts.get("format") != FORMAT or not pieces:
        raise DataError(f"{path} is a transform of another version of wsistain; register the slides again")
    return pieces, facts


def _piece(values: dict[str, Any]) -> PieceMap:
    """A map from its arrays; ValueError where they are none."""
    shapes = {"matrix": (2, 3), "rigid": (2, 3), "box_um": (4,), "origin_um": (2,)}
    fixed = {name: np.asarray(values[name], np.float64) for name in shapes}
    field, step = np.asarray(values["field_um"], np.float32), float(values["step_um"])
    if any(fixed[name].shape != shape for name, shape in shapes.items()) or field.ndim != 3 or field.shape[0] != 2:
        raise ValueError("arrays of other shapes")
    finite = bool(np.isfinite(field).all()) and all(bool(np.isfinite(a).all()) for a in fixed.values())
    if not step > 0 or field.size > _MOST_NODES or min(field.shape) < 2 or not finite:
        raise ValueError("numbers that are none")
    return PieceMap(**fixed, step_um=step, field_um=field)
