"""The frozen list of an edition: what every picture and cell table looked like when it was first made.

A phantom is made of whole-number hashes and of float32 functions (exp, sin) whose last bit differs between kinds of
processors and releases of numpy; a pixel that lies at the edge of two grey levels may then fall on the other side, and JPEG
spreads that over its square of 8 px. So a picture is held against two things: a hash of its decoded pixels, and means of an
8 x 8 grid and of its channels. Pixels that differ are told; means that differ are another picture, and are refused. One cell
that came or went moves the mean of its square by a level or more.
"""

import hashlib
import io
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wsistain import __version__
from wsistain.benchmark.edition import PARTS, Condition, Edition
from wsistain.data.pictures import read_picture
from wsistain.errors import DataError
from wsistain.evaluation.fidelity import gray601
from wsistain.evaluation.truth import TUMOUR

RGB = NDArray[np.uint8]

GRID = 8
ALIKE = 0.75
"""Grey levels by which a mean may differ from the stored one: half a level of rounding, and as much as half of a lost cell."""

PLACE_PX = 0.01
"""By which the mean place of the cells of a table may differ."""

PICTURES = ("trainA", "trainB", "valA", "valB", "valTruthB")
TABLES = ("valCellsA",)
_HASH_BYTES = 8


@dataclass(frozen=True, eq=False)
class Listed:
    """What is known of the files of one condition, by their path below its group's folder.

    pixels : path to hash of the decoded pixels, 8 bytes; means: path to uint8 (67,), 8 x 8 of the gray and 3 of the channels.
    cells  : path to float64 (5,): cells, tumour cells, positive cells, mean y and x in px.
    seen   : versions and machine with which it was made.
    """

    pixels: Mapping[str, bytes]
    means: Mapping[str, NDArray[np.uint8]]
    cells: Mapping[str, NDArray[np.float64]]
    seen: Mapping[str, str]

    def packed(self) -> bytes:
        """The list as the bytes of an .npz file."""
        file = io.BytesIO()
        names, tables = list(self.pixels), list(self.cells)
        np.savez_compressed(
            file,
            names=np.array(names),
            pixels=np.frombuffer(b"".join(self.pixels[n] for n in names), np.uint8).reshape(len(names), _HASH_BYTES),
            means=np.array([self.means[n] for n in names], np.uint8),
            tables=np.array(tables),
            cells=np.array([self.cells[n] for n in tables], np.float64),
            seen=np.array([f"{key} {value}" for key, value in self.seen.items()]),
        )
        return file.getvalue()

    def digest(self) -> str:
        """One hash for all pictures, hex: what two machines, or two entries, compare."""
        return hashlib.sha256(b"".join(n.encode() + self.pixels[n] for n in sorted(self.pixels))).hexdigest()


def unpacked(content: bytes) -> Listed:
    """A list from the bytes of `Listed.packed`."""
    with np.load(io.BytesIO(content), allow_pickle=False) as found:
        names, tables = found["names"].tolist(), found["tables"].tolist()
        return Listed(
            pixels={n: found_bytes.tobytes() for n, found_bytes in zip(names, found["pixels"], strict=True)},
            means=dict(zip(names, found["means"], strict=True)),
            cells=dict(zip(tables, found["cells"], strict=True)),
            seen=dict(text.split(" ", 1) for text in found["seen"].tolist()),
        )


@cache
def shipped(edition: str, condition: str) -> Listed:
    """The list that this package holds of a condition. DataError where it holds none."""
    path = files("wsistain.benchmark") / "frozen" / edition / f"{condition}.npz"
    if not path.is_file():
        raise DataError(f"this release ships no list of pictures of {condition} of edition {edition}; update wsistain")
    return unpacked(path.read_bytes())


def pixel_hash(picture: RGB) -> bytes:
    """The first 8 bytes of the SHA-256 of a picture's size and pixels, whatever file held them."""
    return hashlib.sha256(repr(picture.shape).encode() + np.ascontiguousarray(picture).tobytes()).digest()[:_HASH_BYTES]


def exact_means(picture: RGB) -> NDArray[np.float64]:
    """Means of the gray over 8 x 8 squares and of the three channels, float (67,); a rest at the edges counts with the last."""
    gray = gray601(picture).astype(np.float64)
    rows, cols = (np.linspace(0, n, GRID + 1).astype(int) for n in gray.shape)
    sums = np.add.reduceat(np.add.reduceat(gray, rows[:-1], axis=0), cols[:-1], axis=1)
    return np.concatenate([(sums / np.outer(np.diff(rows), np.diff(cols))).ravel(), picture.mean(axis=(0, 1))])


def cell_facts(path: Path, marker: str) -> NDArray[np.float64]:
    """Cells, tumour cells, positive cells and their mean place in a cell table, float (5,). Raises DataError."""
    try:
        table = pq.read_table(path, columns=["type", "y_px", "x_px", f"positive_{marker}"])
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DataError(f"the cell table {path} cannot be read ({str(error).splitlines()[0]})") from None
    y, x = table["y_px"].to_numpy(), table["x_px"].to_numpy()
    place = (y.mean(), x.mean()) if len(y) else (0.0, 0.0)
    tumour = table["type"].to_pylist().count(TUMOUR)
    return np.array([len(y), tumour, table[f"positive_{marker}"].to_numpy().sum(), *place], np.float64)


def files_of(root: Path, condition: Condition, folders: Iterable[str]) -> dict[str, Path]:
    """Path below the group's folder, without the ending, to file: everything in `folders` of both parts."""
    group = root / condition.group
    found = {}
    for part in PARTS:
        base = condition.folder(root, part) / condition.marker / "TrainValAB"
        for folder in folders:
            for path in sorted((base / folder).glob("*.*")) if (base / folder).is_dir() else ():
                found[path.relative_to(group).with_suffix("").as_posix()] = path
    return found


def listed_now(root: Path, condition: Condition) -> Listed:
    """The list of what lies there now, made as the frozen one was."""
    pictures = files_of(root, condition, PICTURES)
    pixels, means = {}, {}
    for name, path in pictures.items():
        picture = read_picture(path)
        pixels[name], means[name] = pixel_hash(picture), np.rint(exact_means(picture)).astype(np.uint8)
    cells = {n: cell_facts(p, condition.marker) for n, p in files_of(root, condition, TABLES).items()}
    return Listed(pixels, means, cells, machine())


def machine() -> dict[str, str]:
    """What decides the last bit of a pixel here."""
    import imagecodecs
    import scipy

    return {
        "wsistain": __version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "imagecodecs": imagecodecs.__version__,
        "machine": platform.machine(),
    }


def check(edition: Edition, root: Path, condition: Condition, wanted: Listed) -> list[str]:
    """Names of the pictures whose pixels differ by rounding alone; every other difference is a DataError that names it."""
    pictures, tables = files_of(root, condition, PICTURES), files_of(root, condition, TABLES)
    _same_names(edition, root, condition, pictures, wanted.pixels, "pictures")
    _same_names(edition, root, condition, tables, wanted.cells, "cell tables")
    rounded: list[str] = []
    other: list[str] = []
    for name, path in pictures.items():
        picture = read_picture(path)
        if pixel_hash(picture) == wanted.pixels[name]:
            continue
        far = float(np.abs(exact_means(picture) - wanted.means[name]).max())
        (rounded if far <= ALIKE else other).append(name)
    for name, path in tables.items():
        found = cell_facts(path, condition.marker)
        if (found[:3] != wanted.cells[name][:3]).any() or np.abs(found[3:] - wanted.cells[name][3:]).max() > PLACE_PX:
            other.append(name)
    if other:
        seen, here = _told(wanted.seen), _told(machine())
        raise DataError(
            f"{len(other)} of {len(pictures) + len(tables)} files of {condition.name} are not those of edition {edition.name} "
            f"({', '.join(other[:3])}) below {root / condition.group}; remove that folder and make it again, and if they differ "
            f"still, use the versions that the list was made with ({seen}; here {here})"
        )
    return rounded


def _same_names(
    edition: Edition, root: Path, condition: Condition, found: Mapping[str, Any], wanted: Mapping[str, Any], what: str
) -> None:
    lost, more = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if not lost and not more:
        return
    parts = [
        f"{len(names)} {how} ({', '.join(names[:3])})"
        for names, how in ((lost, "missing"), (more, "too many"))
        if names
    ]
    raise DataError(
        f"the {what} of {condition.name} below {root / condition.group} are not those of edition {edition.name}: "
        f"{', '.join(parts)}; run 'wsistain benchmark make' on it again, or remove what does not belong there"
    )


def _told(facts: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())
