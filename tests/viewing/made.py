"""A small stained case, cells over it, and a way to ask an application without a socket."""

import asyncio
import http.server
import json
import struct
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.pipeline.slides import small_config, write_slide
from wsistain.config import OutputConfig
from wsistain.output.metadata import write_metadata
from wsistain.output.pyramid import finish_pyramid, half
from wsistain.output.store import OutputSpec, create_output, write_block
from wsistain.pipeline.run import run
from wsistain.viewing.app import make_app
from wsistain.viewing.gallery import Gallery
from wsistain.viewing.samples import make_wanted

MPP = 0.5
HEIGHT, WIDTH = 700, 930
TOKEN = "token-of-the-tests"
DOTS = [(y, x) for y in range(150, 560, 70) for x in range(190, 760, 80)]
"""Centres of dark nuclei, (y, x) px, on whole pixels' corners."""

RADIUS = 12


@dataclass(frozen=True)
class Case:
    """Paths of a stained slide: `er` of all of it, `her2` of a region at twice its um per px."""

    folder: Path
    slide: Path
    er: Path
    her2: Path
    picture: np.ndarray


def nuclei_picture() -> np.ndarray:
    """uint8 (HEIGHT, WIDTH, 3): pink tissue with brown nuclei at `DOTS`, glass round it."""
    picture = np.full((HEIGHT, WIDTH, 3), 245, np.uint8)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    tissue = ((y - HEIGHT / 2) / (HEIGHT * 0.42)) ** 2 + ((x - WIDTH / 2) / (WIDTH * 0.42)) ** 2 < 1
    shade = np.random.default_rng(0).integers(0, 30, (HEIGHT, WIDTH))
    picture[tissue] = np.stack([200 + shade * 0, 140 + shade, 180 + shade], axis=2)[tissue]
    for cy, cx in DOTS:
        picture[(y + 0.5 - cy) ** 2 + (x + 0.5 - cx) ** 2 <= RADIUS**2] = (90, 50, 25)
    return picture


def make_case(folder: Path) -> Case:
    picture = nuclei_picture()
    slide = write_slide(folder / "case.tiff", picture, mpp=MPP)
    run(slide, "ER", folder / "out", config=small_config(all_tiles=True))
    her2 = coarse_region(folder / "out" / "case.HER2.ome.zarr", folder / "out" / "case.ER.ome.zarr", picture)
    return Case(folder, slide, folder / "out" / "case.ER.ome.zarr", her2, picture)


def coarse_region(path: Path, like: Path, picture: np.ndarray) -> Path:
    """A result of 1 um per px over the box from (64, 128) to (576, 768) px of the slide, as a run with --roi leaves it."""
    told = json.loads((like / "zarr.json").read_text())["attributes"]["wsistain"]
    pixels = half(picture[64:576, 128:768])
    spec = OutputSpec(
        str(path),
        *pixels.shape[:2],
        2 * MPP,
        block=512,
        storage=OutputConfig(chunk=64, shard=128),
        origin_um=(64 * MPP, 128 * MPP),
    )
    create_output(spec)
    write_block(spec, 0, 0, pixels)
    finish_pyramid(spec)
    write_metadata(spec, {**told, "marker": "HER2", "mpp": 2 * MPP}, "case.HER2 (virtual)")
    return path


def octagon(cy: float, cx: float, radius: float) -> list[tuple[float, float]]:
    """(x, y) corners round a centre, closed."""
    turns = np.linspace(0, 2 * np.pi, 25)
    return [(float(cx + radius * np.cos(t)), float(cy + radius * np.sin(t))) for t in turns]


def wkb(ring: list[tuple[float, float]]) -> bytes:
    return struct.pack("<BIII", 1, 3, 1, len(ring)) + b"".join(struct.pack("<dd", *p) for p in ring)


def write_parquet_cells(path: Path, *, um: bool = True) -> Path:
    """A GeoParquet table of the nuclei of the case; outlines in um or in px."""
    grades = [("negative", "1+", "2+", "3+")[i % 4] for i in range(len(DOTS))]
    scale = MPP if um else 1.0
    rings = [wkb([(x * scale, y * scale) for x, y in octagon(cy, cx, RADIUS)]) for cy, cx in DOTS]
    table = pa.table(
        {
            "id": [1000 + i for i in range(len(DOTS))],
            "y_um": [cy * MPP for cy, _ in DOTS],
            "x_um": [cx * MPP for _, cx in DOTS],
            "class": grades,
            "dab_od": [0.1 * (i % 4) for i in range(len(DOTS))],
            "geometry": rings,
        }
    )
    pq.write_table(table, path)
    return path


def write_geojson_cells(path: Path) -> Path:
    """The same as QuPath exports it: level-0 px."""
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [octagon(cy, cx, RADIUS)]},
            "properties": {"objectType": "cell", "classification": {"name": "1+"}, "measurements": {"dab_od": 0.2}},
        }
        for cy, cx in DOTS
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def gallery_of(case: Case, **named) -> Gallery:
    return Gallery(make_wanted([case.folder / "out"], slides=[case.slide], **named))


def app_of(gallery: Gallery, **options):
    return make_app(gallery, token=TOKEN, hosts=("127.0.0.1", "localhost"), **options)


@contextmanager
def web_server(folder: Path):
    """Address of a plain web server for a folder."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=folder)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self):
        return json.loads(self.body)


def ask(app, target: str, *, method: str = "GET", headers=(), body: bytes = b"", token: str | None = TOKEN) -> Answer:
    """What an application answers to a request; headers as (name, value) in bytes, Host by default."""
    if token is not None:
        target += f"{'&' if '?' in target else '?'}token={token}"
    parts = urlsplit(target)
    return ask_raw(app, parts.path, parts.query.encode(), method, headers or [(b"host", b"127.0.0.1:80")], body)


def ask_raw(app, path: str, query: bytes, method: str, headers, body: bytes = b"") -> Answer:
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "surrogateescape"),
        "query_string": query,
        "root_path": "",
        "headers": list(headers),
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    said = {"status": 0, "headers": [], "body": b""}
    asked = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive():
        return next(asked, {"type": "http.disconnect"})

    async def send(message):
        if message["type"] == "http.response.start":
            said["status"], said["headers"] = message["status"], message["headers"]
        else:
            said["body"] += message.get("body", b"")

    asyncio.run(app(scope, receive, send))
    told = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in said["headers"]}
    return Answer(said["status"], told, said["body"])
