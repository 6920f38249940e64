"""How fast `wsistain view` answers on a slide of 50,000 px a side: tiles over HTTP, cold and warm.

    python benchmarks/view.py --output benchmarks/results/view.json

The stain is made of one block of tissue repeated over the middle third of the slide (the rest is glass), written by
wsistain's own writers. Tiles are drawn at random over all levels of Deep Zoom, as many of each level that has them, and
asked for one after another over one connection: `cold` the first time, `warm` the second. Prints one JSON object.
"""

import http.client
import json
import time
from pathlib import Path

import common
import numpy as np

from wsistain.config import OutputConfig
from wsistain.output.metadata import write_metadata
from wsistain.output.pyramid import finish_pyramid
from wsistain.output.store import OutputSpec, create_output, write_block
from wsistain.phantom.quick_slide import render_quick
from wsistain.viewing.gallery import Gallery, make_wanted
from wsistain.viewing.serve import serve

BLOCK = 4096


def make_stain(path: Path, size: int) -> None:
    """A finished stain of `size` px a side."""
    spec = OutputSpec(str(path), size, size, 0.5, block=BLOCK, storage=OutputConfig())
    create_output(spec)
    pixels = render_quick(0, 0, BLOCK, BLOCK, shape=(4 * BLOCK, 4 * BLOCK), mpp=0.5, seed=1)
    rows, cols = spec.block_grid
    for row in range(rows // 3, 2 * rows // 3 + 1):
        for col in range(cols // 3, 2 * cols // 3 + 1):
            height, width = spec.block_size(row, col)
            write_block(spec, row, col, np.ascontiguousarray(pixels[:height, :width]), threads=1)
    finish_pyramid(spec)
    write_metadata(spec, {"marker": "ER", "system": "benchmark"}, "benchmark (virtual)")


def places(frame: dict[str, float], n: int) -> list[tuple[int, int, int]]:
    """(level, column, row) of about n tiles of the middle of the slide, spread over the levels."""
    rng = np.random.default_rng(0)
    top = int(max(frame["width"], frame["height"]) - 1).bit_length()
    found = []
    for level in range(top + 1):
        edge = int(np.ceil(frame["width"] / 2 ** (top - level) / 512))
        low, high = edge // 3, max(edge // 3 + 1, 2 * edge // 3)
        some = rng.integers(low, high, (max(1, n // 8), 2)) if edge > 1 else np.zeros((1, 2), int)
        found += sorted({(level, int(c), int(r)) for c, r in some})
    rng.shuffle(found)
    return [tuple(map(int, place)) for place in found]


def ask(
    connection: http.client.HTTPConnection, token: str, name: str, tiles: list[tuple[int, int, int]], form: str
) -> np.ndarray:
    """Milliseconds of each tile."""
    times = []
    for level, col, row in tiles:
        start = time.perf_counter()
        connection.request("GET", f"/tiles/{name}_files/{level}/{col}_{row}.{form}?token={token}")
        answer = connection.getresponse()
        data = answer.read()
        times.append((time.perf_counter() - start) * 1000)
        if answer.status != 200 or not data:
            raise SystemExit(f"tile {level}/{col}_{row} of {name}: {answer.status} {data[:200]!r}")
    return np.array(times)


def told(times: np.ndarray) -> dict[str, float]:
    return {
        "median_ms": round(float(np.median(times)), 2),
        "p95_ms": round(float(np.quantile(times, 0.95)), 2),
        "worst_ms": round(float(times.max()), 2),
    }


def main() -> None:
    parser = common.parser("How fast wsistain view answers: tiles over HTTP, cold and warm.")
    parser.add_argument("--size", type=int, default=50_000, help="px a side")
    parser.add_argument("--tiles", type=int, default=300)
    options = parser.parse_args()
    path = options.work / f"view{options.size}.ER.ome.zarr"
    if not (path / "zarr.json").is_file():
        make_stain(path, options.size)
    served = serve(Gallery(make_wanted([path])))
    served.start()
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=120)
    connection.request("GET", f"/api/results?token={served.token}")
    result = json.loads(connection.getresponse().read())["results"][0]
    tiles = places(result["picture"], options.tiles)
    facts = {"size_px": options.size, "tiles": len(tiles)}
    for kind, name, form in (("stain", result["id"], "jpg"), ("positivity", f"{result['id']}.positivity", "png")):
        cold = ask(connection, served.token, name, tiles, form)
        facts[kind] = {"cold": told(cold), "warm": told(ask(connection, served.token, name, tiles, form))}
    served.stop()
    common.report("view", facts, options.output)


if __name__ == "__main__":
    main()
