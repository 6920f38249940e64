"""How much of a finished stain is positive: what `evaluate --slides` says of it, without its pictures.

The definition is that of `wsistain.optics.scoring`: pixels of the tissue, at level 0. What was counted once is kept
beside the batch, so that a call that finds everything done does not read every slide again.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from wsistain.errors import OutputError
from wsistain.markers import Marker
from wsistain.optics.scoring import NONE, StainCounts, count_stain, stain_od
from wsistain.runtime.ahead import in_order, thread_pool
from wsistain.runtime.files import write_json
from wsistain.slide.reader import open_slide
from wsistain.slide.tissue import find_tissue

WINDOW_PX = 2048  # a shard


def count_slide(stain: Path, marker: Marker) -> StainCounts:
    """Pixels of the tissue of a finished stain, by strength; memory does not grow with the slide. Raises SlideError."""
    slide = open_slide(stain)
    try:
        tissue, (height, width) = find_tissue(slide), slide.info.size_l0

        def windows() -> Iterator[tuple[int, int, int, int]]:
            for y in range(0, height, WINDOW_PX):
                for x in range(0, width, WINDOW_PX):
                    h, w = min(WINDOW_PX, height - y), min(WINDOW_PX, width - x)
                    if tissue.covers(y, x, h, w):
                        yield y, x, h, w

        def count(window: tuple[int, int, int, int]) -> StainCounts:
            inside = tissue.window(*window)
            return count_stain(stain_od(slide.read_level(0, *window), marker.chromogen), marker.cutoffs, inside)

        threads = min(8, os.cpu_count() or 1)
        with thread_pool(threads, "score") as pool:
            return sum(in_order(pool, count, windows(), threads + 1), NONE)
    finally:
        slide.close()


class Kept:
    """Counts of finished stains, in a file; one that was stained again or is read at other cut-offs counts anew."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, list[int]] = {}
        try:
            rows = json.loads(path.read_bytes())
            self.known = {str(key): [int(n) for n in row] for key, row in rows.items() if len(row) == 4}
        except (OSError, ValueError, TypeError, AttributeError):
            self.known = {}  # it only spares work

    def count(self, stain: Path, marker: Marker) -> StainCounts:
        """`count_slide`, from the file where it is known. Raises OutputError, SlideError."""
        digest = hashlib.sha256(json.dumps([marker.cutoffs, marker.chromogen.od]).encode())
        try:
            digest.update(next(p for p in (stain / "zarr.json", stain / ".zattrs") if p.is_file()).read_bytes())
        except (OSError, StopIteration):
            raise OutputError(f"{stain} is not finished; run again with --resume") from None
        key = f"{stain.name} {digest.hexdigest()}"
        if key in self.known:
            n, *reached = self.known[key]
            return StainCounts(n, (reached[0], reached[1], reached[2]))
        found = count_slide(stain, marker)
        self.known[key] = [found.n, *found.reached]
        write_json(self.path, self.known)
        return found
