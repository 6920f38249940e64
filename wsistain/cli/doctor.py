"""`wsistain doctor`: what is here and whether it works, for those who install and those who ask for help."""

import typer

from wsistain.errors import OutputError
from wsistain.runtime.say import say

HELP = """
Look at this installation: libraries, devices, readers, free disk, published networks; and stain one test tile.

The exit code is 2 where something that every run needs does not work. Put what it prints into a report of a fault.

Examples:

  wsistain doctor

  wsistain doctor --device cuda
"""

_LIBRARIES = (
    "torch",
    "numpy",
    "zarr",
    "tensorstore",
    "tifffile",
    "imagecodecs",
    "openslide-python",
    "tiffslide",
    "dask",
    "pydantic",
)
_EXTRAS = {
    "train": ("accelerate", "diffusers", "transformers", "peft", "ot"),
    "batch": ("snakemake",),
    "view": ("starlette", "uvicorn"),
    "remote": ("aiohttp", "s3fs", "gcsfs"),
    "dicom": ("pydicom",),
}
"""What each extra brings, as it is imported."""

_LEAST_FREE = 20 << 30


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("doctor", help=HELP)(doctor)


def doctor(device: str = typer.Option("auto", "--device", help="auto, cpu, cuda, cuda:N: for the test tile.")) -> None:
    """Look at this installation; see HELP for the help text."""
    checks = [
        ("wsistain", _versions),
        ("extras", _extras),
        ("devices", _devices),
        ("readers", _readers),
        ("disk", _disk),
        ("markers", _markers),
        ("networks", _networks),
        ("test tile", lambda: _tile(device)),
    ]
    failed = []
    for name, check in checks:
        try:
            lines = check()
        except Exception as error:  # noqa: BLE001, whatever is broken here is what one came to hear of
            failed.append(name)
            lines = [f"FAILED: {type(error).__name__}: {error}"]
        for k, line in enumerate(lines):
            say(f"{name if k == 0 else '':10s} {line}")
    if failed:
        raise OutputError(f"this does not work here: {', '.join(failed)}; see above")
    say("all that a run needs works")


def _versions() -> list[str]:
    import platform
    from importlib.metadata import version

    from wsistain import __version__

    found = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    return [f"{__version__} on Python {platform.python_version()}, {platform.platform()}", found]


def _extras() -> list[str]:
    from importlib.util import find_spec

    lines = []
    for extra, modules in _EXTRAS.items():
        missing = [name for name in modules if find_spec(name) is None]
        lines.append(
            f"{extra}: "
            + ("there" if not missing else f"not whole ({', '.join(missing)}); pip install 'wsistain[{extra}]'")
        )
    return lines


def _devices() -> list[str]:
    import os

    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    lines = [f"processor: {cores} cores for this process, torch uses {torch.get_num_threads()} threads"]
    for k in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(k)
        lines.append(f"cuda:{k}: {facts.name}, {facts.total_memory / 2**30:.0f} GiB")
    if len(lines) == 1:
        lines.append(f"no GPU that torch {torch.__version__} can use (CUDA build: {torch.version.cuda or 'no'})")
    return lines


def _readers() -> list[str]:
    """Every reader on a made slide of the simplest kind."""
    import tempfile
    from contextlib import closing
    from pathlib import Path

    import numpy as np
    import openslide
    import tifffile

    from wsistain.slide.reader import open_slide

    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    lines = [f"OpenSlide's library {openslide.__library_version__}"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tif"
        tifffile.imwrite(
            path, pixels, tile=(128, 128), photometric="rgb", resolution=(20000, 20000), resolutionunit="CENTIMETER"
        )
        for reader in ("tiff", "openslide", "tiffslide"):
            with closing(open_slide(path, reader=reader)) as slide:
                same = np.array_equal(slide.read_level(0, 0, 0, 256, 256), pixels)
            if not same:
                raise OutputError(f"{reader} reads other pixels than were written")
            lines.append(f"{reader}: reads a tiled TIFF exactly")
    return lines


def _disk() -> list[str]:
    import shutil
    from pathlib import Path

    free = shutil.disk_usage(Path.cwd()).free
    hint = "" if free > _LEAST_FREE else "; a slide of 10 gigapixels takes about 10 GB"
    return [f"{free / 1e9:.0f} GB free in {Path.cwd()}{hint}"]


def _markers() -> list[str]:
    from wsistain.markers import known_markers, user_file

    return [f"{', '.join(known_markers())}; {f'with those of {user_file()}' if user_file() else 'none of your own'}"]


def _networks() -> list[str]:
    from wsistain.published.places import NET_FILES, find_net

    here = [name for name in NET_FILES if find_net(name) is not None]
    return [f"{', '.join(here) or 'none'} of {len(NET_FILES)} published ones ('wsistain nets list')"]


def _tile(device: str) -> list[str]:
    import time

    import numpy as np

    from wsistain.generators.load import load_generator

    generator = load_generator("demo", "ER", device=device)
    edge = 256
    he = np.full((1, edge, edge, 3), (205, 150, 190), np.uint8)
    he[:, 64:192, 64:192] = (90, 60, 140)
    generator.stain(he, [(0, 0)])  # the first one makes ready
    start = time.perf_counter()
    stained = generator.stain(he, [(0, 0)])
    seconds = time.perf_counter() - start
    if stained.shape != he.shape or np.ptp(stained) == 0:
        raise OutputError("the stain of a test tile is empty")
    return [f"{edge} px stained on {generator.device} in {1e3 * seconds:.0f} ms with the demonstration weights"]
