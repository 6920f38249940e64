"""The files of a phantom: slides with cell tables, and patches in MIST's layout with the truth beside them."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wsistain import __version__
from wsistain.config import MIST_MPP, Pairing, PhantomVersion
from wsistain.errors import ConfigError
from wsistain.markers import parse_markers
from wsistain.phantom.config import PhantomConfig, definition
from wsistain.phantom.manifest import claimed, digest, refuse_other_version
from wsistain.phantom.noise import draw, salt_of
from wsistain.phantom.processes import mapper, phantom_of, quiet
from wsistain.phantom.render import PRODUCTS, Product
from wsistain.phantom.tables import Attainable, Name, cell_table, write_table, write_tables
from wsistain.phantom.tiff import write_pyramid
from wsistain.phantom.together import Together
from wsistain.runtime.files import local_path, write_bytes, write_json
from wsistain.runtime.jpeg import encode_jpeg
from wsistain.runtime.progress import OnProgress
from wsistain.slide.inside import phantom_text

RGB = NDArray[np.uint8]
BLOCK_PX, WIDE_PX = 1024, 16_384
FORMAT = 1


def _windows_of(job: tuple[PhantomConfig, tuple[Product, ...], int, int, int, int]) -> dict[str, RGB]:
    config, products, *window = job
    phantom = phantom_of(config)
    return {product: phantom.render(product, *window) for product in products}


def _table_of(job: tuple[PhantomConfig, Name, int, int, int, int]) -> pa.Table:
    config, section, y, x, h, w = job
    table = cell_table(phantom_of(config), section, y, x, h, w)
    for axis, origin in (("y_px", y), ("x_px", x)):
        k = table.column_names.index(axis)
        table = table.set_column(k, axis, pa.array(table[axis].to_numpy() + origin))
    return table


def _write_pictures(
    folder: Path, config: PhantomConfig, products: tuple[Product, ...], run: Any, progress: OnProgress
) -> None:
    """Write the pyramids of some products of one section, painting each block once."""
    block = BLOCK_PX if config.width <= WIDE_PX else BLOCK_PX // 2

    def strips() -> Iterator[dict[Product, RGB]]:
        for y in range(0, config.height, block):
            h = min(block, config.height - y)
            jobs = [(config, products, y, x, h, min(block, config.width - x)) for x in range(0, config.width, block)]
            made = {p: np.empty((h, config.width, 3), np.uint8) for p in products}
            for job, blocks in zip(jobs, run(_windows_of, jobs), strict=True):
                for p in products:
                    made[p][:, job[3] : job[3] + job[5]] = blocks[p]
            yield made
            del made
            progress(", ".join(f"{p}.tiff" for p in products), y + h, config.height)

    # Each product's writer takes its part of a strip as it is painted, so that no block is painted twice.
    together = Together(products, strips())

    def write(product: Product) -> Path:
        return write_pyramid(
            folder / f"{product}.tiff", config.shape, config.mpp, _never, quality=config.quality, downsample=4,
            block_px=block, block_width=config.width, map_blocks=lambda *_: iter([together.take(product)]),
            description=told_inside(config, "slide", product),
        )  # fmt: skip

    together.run({p: partial(write, p) for p in products})


def told_inside(config: PhantomConfig, kind: str, product: str) -> str:
    """What a picture says of itself, so that it is known as synthetic without the manifest."""
    return phantom_text({"format": FORMAT, "kind": kind, "product": product, **config.facts()})


def _never(y: int, x: int, h: int, w: int) -> RGB:
    raise RuntimeError(f"the window {(y, x, h, w)} was asked for outside its strip")


def _write_cells(path: Path, config: PhantomConfig, section: Name, run: Any, progress: OnProgress) -> None:
    """Write the cell table of one section, a row group for each block."""
    step = BLOCK_PX
    jobs = [
        (config, section, y, x, min(step, config.height - y), min(step, config.width - x))
        for y in range(0, config.height, step)
        for x in range(0, config.width, step)
    ]
    done = 0

    def count(_: pa.Table) -> None:
        nonlocal done
        done += 1
        progress(path.name, done, len(jobs))

    write_tables(iter(run(_table_of, jobs)), path, count)


def make_slide(
    folder: str | Path,
    config: PhantomConfig,
    *,
    workers: int = 1,
    progress: OnProgress = quiet,
    overwrite: bool = False,
    he_only: bool = False,
) -> dict[str, Any]:
    """The manifest of a finished phantom slide.

    Writes he_a.tiff, ihc_b.tiff (weak pair), ihc_a.tiff (aligned truth), cells_a.parquet, cells_b.parquet and
    manifest.json into `folder`; with `he_only` he_a.tiff and manifest.json alone, and the truth stays unknown until a
    later call makes the rest. Files that are finished already are kept when the manifest's parameters agree. The bytes do
    not depend on `workers`. Raises OutputError (other parameters there, not writable, being made by another process).
    """
    folder = local_path(folder)
    parameters = {"format": FORMAT, "kind": "slide", **config.facts()}
    with claimed(folder, parameters, overwrite=overwrite) as manifest:
        _write_slide(folder, config, workers, progress, overwrite, he_only)
        facts = {**_slide_facts(folder, config, he_only), "parameters": parameters}
        write_json(manifest, facts, sort_keys=True)
    return facts


def _write_slide(
    folder: Path, config: PhantomConfig, workers: int, progress: OnProgress, overwrite: bool, he_only: bool
) -> None:
    """Write the pictures and cell tables that are not there yet."""
    with mapper(workers) as run:
        # The two pictures of section A share its tissue, so they are made together.
        together: tuple[tuple[Product, ...], ...] = (("he_a",),) if he_only else (("he_a", "ihc_a"), ("ihc_b",))
        for products in together:
            missing = tuple(p for p in products if overwrite or not (folder / f"{p}.tiff").is_file())
            if missing:
                _write_pictures(folder, config, missing, run, progress)
        for section in () if he_only else ("a", "b"):
            path = folder / f"cells_{section}.parquet"
            if overwrite or not path.is_file():
                _write_cells(path, config, section, run, progress)


def _slide_facts(folder: Path, config: PhantomConfig, he_only: bool) -> dict[str, Any]:
    """What the manifest says of a finished slide, besides its parameters."""
    reach = Attainable(config.marker)
    names = [*(f"{p}.tiff" for p in PRODUCTS), "cells_a.parquet", "cells_b.parquet"]
    files = {name: digest(folder / name) for name in (names[:1] if he_only else names)}
    if not he_only:
        table = pq.ParquetFile(folder / "cells_a.parquet")
        for k in range(table.num_row_groups):
            reach.add(table.read_row_group(k))
    return {
        "wsistain": __version__,
        "finished": True,
        "files": files,
        "her2_score": phantom_of(config).clone.her2_score,
        "truth": None if he_only else reach.facts(),
    }


@dataclass(frozen=True)
class PatchJob:
    """One patch: where it is cut and where its files go (relative to the marker's TrainValAB)."""

    config: PhantomConfig
    base: Path
    part: str
    slide: str
    y: int
    x: int
    size: int
    fresh: bool

    @property
    def stem(self) -> str:
        """MIST's name without suffix: <slide>_<column>_<row>."""
        return f"{self.slide}_{self.x // self.size}_{self.y // self.size}"

    def files(self) -> dict[str, Path]:
        """Product or section -> path."""
        pictures = {"he_a": f"{self.part}A", "ihc_b": f"{self.part}B"}
        if self.part == "val":
            pictures["ihc_a"] = "valTruthB"
        found = {k: self.base / v / f"{self.stem}.jpg" for k, v in pictures.items()}
        for section in ("a", "b"):
            found[section] = self.base / f"{self.part}Cells{section.upper()}" / f"{self.stem}.parquet"
        return found


def _jpeg(rgb: RGB, config: PhantomConfig, product: str) -> bytes:
    comment = told_inside(config, "patches", product).encode("ascii")
    return encode_jpeg(rgb, config.quality, subsampling="4:2:0", comment=comment)


def _make_patch(job: PatchJob) -> int:
    """Number of files written for one patch; those already there are kept."""
    made = 0
    phantom = phantom_of(job.config)
    for key, path in job.files().items():
        if path.is_file() and not job.fresh:
            continue
        made += 1
        if key in ("a", "b"):
            write_table(cell_table(phantom, key, job.y, job.x, job.size, job.size), path)  # type: ignore[arg-type]
            continue
        rgb = phantom.render(key, job.y, job.x, job.size, job.size)  # type: ignore[arg-type]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, _jpeg(rgb, job.config, key))
    return made


def choose_places(config: PhantomConfig, size: int, count: int) -> list[tuple[int, int]]:
    """`count` corners (y, x), px, of patches on the slide's patch grid: those with tissue and tumour first, in a seeded order."""
    rows, cols = config.height // size, config.width // size
    step = (np.arange(6) + 0.5) * size / 6
    gy, gx = np.meshgrid(
        np.add.outer(np.arange(rows) * size, step).ravel() * config.mpp,
        np.add.outer(np.arange(cols) * size, step).ravel() * config.mpp,
        indexing="ij",
    )
    fields = phantom_of(config).anatomy.at(gy, gx)

    def share(field: NDArray[np.float32]) -> list[float]:
        parts: list[float] = (field > 0).reshape(rows, 6, cols, 6).mean(axis=(1, 3)).ravel().tolist()
        return parts

    tissues, tumours = share(fields.inside), share(fields.nest)
    lots = draw(np.arange(rows * cols, dtype=np.uint64), salt_of(config.seed, "places"))
    ranked = []
    for k in range(rows * cols):
        y, x, tissue, tumour = k // cols * size, k % cols * size, tissues[k], tumours[k]
        # As in MIST: patches full of tissue, most of them with tumour; then whatever has the most of both.
        good = tissue >= 0.85 and tumour >= 0.25
        ranked.append((not good, 0.0 if good else -tissue - tumour, float(lots[k]), y, x))
    ranked.sort()
    return sorted((y, x) for *_, y, x in ranked[:count])


def _slides(parts: dict[str, int], slides: int) -> list[tuple[str, int]]:
    """(part, patches) of each slide: as many slides for validation as its share, at least one of each part."""
    total = sum(parts.values())
    n_val = min(max(1, round(slides * parts["val"] / total)), slides - 1) if parts["val"] else 0
    plan = []
    for part, n in (("train", slides - n_val), ("val", n_val)):
        for k in range(n):
            plan.append((part, parts[part] // n + (k < parts[part] % n)))
    return [(part, count) for part, count in plan if count]


def _plan(base: Path, parameters: dict[str, Any], fresh: bool) -> list[PatchJob]:
    """Every patch of one marker, slide by slide."""
    p = parameters
    jobs: list[PatchJob] = []
    for k, (part, count) in enumerate(_slides({"train": p["train"], "val": p["val"]}, p["slides"])):
        side = int(np.ceil(np.sqrt(count * 3))) + 2
        config = PhantomConfig(
            height=side * p["size"], width=side * p["size"], mpp=p["mpp"], marker=p["marker"],
            seed=int(salt_of(p["seed"], f"slide {p['marker']} {k}") >> np.uint64(2)), visibility=p["visibility"],
            contrast=p["contrast"], pairing=p["pairing"], quality=p["quality"], version=p["version"],
        )  # fmt: skip
        slide = f"{p['marker']}{p['seed']}S{k:03d}"
        for y, x in choose_places(config, p["size"], count):
            jobs.append(PatchJob(config, base, part, slide, y, x, p["size"], fresh))
    return jobs


def make_patches(
    root: str | Path,
    *,
    markers: str = "ER",
    train: int = 100,
    val: int = 20,
    size: int = 1024,
    slides: int = 10,
    seed: int = 0,
    mpp: float = MIST_MPP,
    visibility: float = 0.85,
    contrast: float = 1.0,
    pairing: Pairing = "mist",
    quality: int = 90,
    version: PhantomVersion = "v0",
    workers: int = 1,
    progress: OnProgress = quiet,
    overwrite: bool = False,
) -> dict[str, dict[str, Any]]:
    """The finished manifest of each marker.

    Writes `<root>/<MARKER>/TrainValAB/{trainA,trainB,valA,valB}` as MIST has it (JPEG, `<slide>_<x>_<y>.jpg`,
    training and validation from different slides) plus `valTruthB` (the aligned truth) and the cell tables
    `{train,val}Cells{A,B}/<patch>.parquet`, and `<root>/<MARKER>/manifest.json`. Finished files are kept when the
    manifest's parameters agree. Raises ConfigError on counts that do not fit, OutputError as `make_slide`, and where another
    marker's patches below `root` are of another version.
    """
    if train < 0 or val < 0 or train + val < 1 or slides < 1 + bool(train and val) or size % 16 or size < 64:
        raise ConfigError(
            f"train {train} and val {val} patches of {size} px from {slides} slides cannot be made; wanted at least one "
            "patch, a size that is a multiple of 16 from 64 on, and different slides for train and val"
        )
    # Every marker's folder is claimed before the first patch is made: one that holds something else stops them all.
    result: dict[str, dict[str, Any]] = {}
    wanted = parse_markers(markers)
    refuse_other_version(local_path(root), version, {m.name for m in wanted})
    with ExitStack() as claims:
        manifests: dict[Path, dict[str, Any]] = {}
        for marker in wanted:
            parameters = {
                "format": FORMAT, "kind": "patches", "marker": marker.name, "train": train, "val": val, "size": size,
                "slides": slides, "seed": seed, "mpp": mpp, "visibility": visibility,
                "contrast": contrast, "pairing": pairing, "quality": quality, "version": version,
                **definition(marker.name),
            }  # fmt: skip
            folder = local_path(root) / marker.name
            manifests[claims.enter_context(claimed(folder, parameters, overwrite=overwrite))] = parameters
        # The manifest is written last: what has a finished one is finished.
        for manifest, parameters in manifests.items():
            name, folder = parameters["marker"], manifest.parent
            jobs = _plan(folder / "TrainValAB", parameters, overwrite)
            with mapper(workers) as run:
                for done, _ in enumerate(run(_make_patch, jobs), start=1):
                    progress(f"{name} patches", done, len(jobs))
            result[name] = _summary(folder, parameters, jobs)
            write_json(manifest, result[name], sort_keys=True)
    return result


def _summary(folder: Path, parameters: dict[str, Any], jobs: list[PatchJob]) -> dict[str, Any]:
    reach = {part: Attainable(parameters["marker"]) for part in ("train", "val")}
    files: dict[str, str] = {}
    slides: dict[str, dict[str, Any]] = {}
    for job in jobs:
        for path in job.files().values():
            files[path.relative_to(folder).as_posix()] = digest(path)
        reach[job.part].add(pq.read_table(job.files()["a"]))
        if job.slide not in slides:
            score = phantom_of(job.config).clone.her2_score
            slides[job.slide] = {"part": job.part, "her2_score": score, **job.config.facts()}
    return {
        "parameters": parameters,
        "wsistain": __version__,
        "finished": True,
        "truth": {part: r.facts() for part, r in reach.items()},
        "slides": slides,
        "files": files,
    }
