"""The folder that pairs of slides are cut into: MIST's layout, one manifest, one line a patch; several pairs share it.

`<root>/<MARKER>/pairs/<slide>/` belongs to one pair and is moved into place when all of it is there; manifest and list of
the marker are made from the pairs' own, so they do not depend on the order, and several processes may write.
"""

import csv
import hashlib
import io
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from wsistain import __version__
from wsistain.errors import OutputError
from wsistain.runtime.files import reporting, write_json, write_text
from wsistain.runtime.lock import locked

Part = Literal["train", "val"]
FORMAT = 1
KIND = "pair"
COLUMNS = (
    "patch", "part", "slide", "patient", "section", "y_l0", "x_l0", "residual_um", "agreement", "stretch",
    "tissue", "tissue_ihc", "fold", "fold_ihc", "focus", "focus_ihc", "dab",
)  # fmt: skip
_VAL_IN = 5
_WAIT_S = 120.0


def part_of_patient(patient: str) -> Part:
    """Where the slides of a patient go: one patient in five to `val`, by a hash of the name, so that no other one moves."""
    digest = hashlib.blake2b(patient.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return "val" if int.from_bytes(digest, "big") % _VAL_IN == 0 else "train"


class MarkerFolder:
    """`<root>/<MARKER>`: where the patches of a marker at one um per px and size lie.

    Raises OutputError where the folder holds patches of another kind, um per px or size.
    """

    def __init__(self, root: Path, marker: str, mpp: float, size: int) -> None:
        self.folder = root / marker
        self.parameters = {"format": FORMAT, "kind": KIND, "marker": marker, "mpp": mpp, "size": size}
        manifest = self.folder / "manifest.json"
        if not manifest.is_file():
            if (self.folder / "TrainValAB").exists():
                raise OutputError(f"{self.folder} holds patches that no manifest describes; choose another --output")
            return
        try:
            found = json.loads(manifest.read_text(encoding="utf-8"))["parameters"]
        except (OSError, ValueError, KeyError, TypeError):
            raise OutputError(f"{manifest} is not a manifest of patches; choose another --output") from None
        if found != self.parameters:
            differ = [k for k in self.parameters if not isinstance(found, dict) or found.get(k) != self.parameters[k]]
            raise OutputError(
                f"{self.folder} holds patches of another {', '.join(differ)}: one folder has one scale and one size; "
                "choose another --output, or the values of its manifest.json"
            )

    def pair(self, slide: str) -> Path:
        """The folder of one pair."""
        return self.folder / "pairs" / slide

    def pictures(self, part: Part, side: Literal["A", "B"]) -> Path:
        """Where the H&E (A) or IHC (B) patches of a part lie."""
        return self.folder / "TrainValAB" / f"{part}{side}"

    @contextmanager
    def staging(self, slide: str, *, overwrite: bool) -> Iterator[Path]:
        """An empty folder to fill, gone again at the end; held, so that no other process makes this pair.

        Raises OutputError where the pair is there already and not to be replaced.
        """
        if self.pair(slide).exists() and not overwrite:
            raise OutputError(f"{self.pair(slide)} is there already; pass --overwrite to make it anew")
        work = self.folder / "pairs" / f".{slide}.part"
        with reporting(self.folder, retry="run again"):
            work.mkdir(parents=True, exist_ok=True)
            with locked(work, f"another process makes {self.pair(slide)}; wait for it"):
                try:
                    _empty(work)
                    yield work
                finally:
                    shutil.rmtree(work, ignore_errors=True)
                    _prune(self.folder)

    def adopt(self, staged: Path, slide: str, part: Part) -> None:
        """Move a finished pair into place: `A/` and `B/` of the staging folder to the part's pictures, the rest to the pair's.

        What an earlier call made of the same slide is removed first.
        """
        with self._alone():
            self._forget(slide)
            for side in ("A", "B"):
                target = self.pictures(part, side)
                target.mkdir(parents=True, exist_ok=True)
                for path in sorted((staged / side).iterdir()):
                    path.replace(target / path.name)
                (staged / side).rmdir()
            home = self.pair(slide)
            home.mkdir(parents=True)
            for path in sorted(staged.iterdir()):
                path.replace(home / path.name)
            self._gather()

    def _forget(self, slide: str) -> None:
        """Remove the patches and the folder of a pair."""
        home = self.pair(slide)
        if not home.exists():
            return
        for row in read_rows(home / "patches.csv"):
            for side in ("A", "B"):
                self.pictures(row["part"], side).joinpath(f"{row['patch']}.jpg").unlink(missing_ok=True)  # type: ignore[arg-type]
        shutil.rmtree(home)

    def _gather(self) -> None:
        """Write the marker's list and manifest from those of all its pairs."""
        rows: list[dict[str, str]] = []
        slides = {}
        for home in sorted(p for p in (self.folder / "pairs").iterdir() if not p.name.startswith(".")):
            rows += read_rows(home / "patches.csv")
            facts = json.loads((home / "pair.json").read_text(encoding="utf-8"))
            slides[home.name] = {key: facts[key] for key in ("part", "patient", "he", "ihc", "n_patches")}
        write_text(self.folder / "patches.csv", rows_as_text(rows))
        values = {"parameters": self.parameters, "wsistain": __version__, "finished": True, "slides": slides}
        write_json(self.folder / "manifest.json", values, sort_keys=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Held for the moment in which a pair is moved into place; waits for other pairs that are."""
        lock, began = self.folder / "pairs" / ".lock", time.monotonic()
        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(locked(lock, f"another process writes to {self.folder}; run again"))
                    break
                except OutputError:
                    if time.monotonic() - began > _WAIT_S:
                        raise
                    time.sleep(0.1)
            yield


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _prune(folder: Path) -> None:
    """Remove folders that a refused pair leaves without a file."""
    for path in (folder / "pairs", folder):
        try:
            path.rmdir()
        except OSError:
            return


def rows_as_text(rows: Sequence[dict[str, Any]]) -> str:
    """Lines of `COLUMNS` as CSV; None is an empty cell, floats have four digits behind the point."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([_cell(row[name]) for name in COLUMNS])
    return text.getvalue()


def _cell(value: Any) -> Any:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else value


def read_rows(path: Path) -> list[dict[str, str]]:
    """Lines of a patches.csv as text by column."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
