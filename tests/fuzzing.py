"""Mutated input by the thousand: every case in a process of its own, with a limit on memory and on time.

    python -m tests.fuzzing --cases 300 --seed 0 [--data FOLDER_OF_SLIDES] [--kinds slide,weights,...]

A case is well handled when it is accepted or ends in a WsistainError of one sentence, within 30 seconds and 2 GB, and
leaves nothing that looks finished unless it was accepted. Everything else is printed with the file kept. Used by
tests/test_fuzz.py and benchmarks/fuzz.py. The process imports everything once and forks one child a case.
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile

from tests.batch.sheets import read_sheet
from tests.pipeline.slides import small_config, tissue_picture
from wsistain.batch.identity import identify
from wsistain.batch.scan import scan_folder
from wsistain.config import RunConfig, TrainConfig, load_config
from wsistain.errors import WsistainError
from wsistain.pipeline.run import run
from wsistain.slide.base import SlideInfo
from wsistain.slide.reader import open_slide
from wsistain.slide.roi_file import read_roi
from wsistain.slide.tissue import find_tissue

SECONDS = 30
MEMORY = 2 << 30
KINDS = ("slide", "weights", "config", "geojson", "sheet", "checkpoint", "folder")


# ---- seeds: good files, tiny ------------------------------------------------------------------------------------


def slides(folder: Path, data: Path | None) -> list[Path]:
    """Tiny slides of every kind that can be made here, and the smallest of a folder of real ones."""
    picture = tissue_picture(160, 192)
    base = {"tile": (64, 64), "photometric": "rgb", "metadata": None, "resolutionunit": "CENTIMETER"}
    scale = {"resolution": (2e4, 2e4)}
    made = []
    for name, options in {
        "deflate.tiff": {"compression": "zlib"},
        "plain.tif": {},
        "lzw.tiff": {"compression": "lzw"},
        "jpeg.tiff": {"compression": "jpeg"},
        "zstd.tiff": {"compression": "zstd"},
        "big.btf": {"compression": "zlib", "bigtiff": True},
        "aperio.svs": {"compression": "jpeg", "description": "Aperio Image Library v12\r\nx|AppMag = 40|MPP = 0.5"},
        "j2k.svs": {"compression": 33005, "description": "Aperio Image Library v12\r\nx|AppMag = 40|MPP = 0.5"},
    }.items():
        path = folder / name
        big = options.pop("bigtiff", False)
        with tifffile.TiffWriter(path, bigtiff=big) as writer:
            writer.write(picture, **base, **scale, **options)
            writer.write(picture[::2, ::2], **base, resolution=(1e4, 1e4), subfiletype=1, **options)
        made.append(path)
    tifffile.imwrite(
        folder / "ome.ome.tif",
        picture,
        tile=(64, 64),
        photometric="rgb",
        compression="zlib",
        metadata={"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5},
    )
    tifffile.imwrite(folder / "strips.tif", picture, photometric="rgb", rowsperstrip=16, **scale, resolutionunit=3)
    from PIL import Image

    Image.fromarray(picture).save(folder / "picture.png")
    Image.fromarray(picture).save(folder / "picture.jpg")
    made += [folder / n for n in ("ome.ome.tif", "strips.tif", "picture.png", "picture.jpg")]
    (tiff := folder / "for_zarr.tiff").write_bytes((folder / "deflate.tiff").read_bytes())
    run(tiff, "ER", folder, config=small_config(all_tiles=True))
    zarr = (folder / "for_zarr.ER.ome.zarr").rename(folder / "seed.ome.zarr")
    root = json.loads((zarr / "zarr.json").read_text())
    del root["attributes"]["wsistain"]  # as another program writes it: our own stains are refused before they are read
    (zarr / "zarr.json").write_text(json.dumps(root))
    made.append(zarr)
    if data is not None:
        made += sorted(p for p in data.iterdir() if p.is_file() and p.stat().st_size < 200_000)
    return made


def weights(folder: Path) -> list[Path]:
    """A tiny network's weights."""
    import torch

    from wsistain.systems.cut import generator_network
    from wsistain.weights.file import Header, save_weights

    torch.manual_seed(0)
    options = {"n_blocks": 1, "ngf": 2}
    header = Header(system="cut", options=options, markers=["ER"], mpp=0.5, tile_px=64, size_multiple=4, halo_px=40)
    save_weights(folder / "seed.safetensors", header, generator_network(options).state_dict())
    return [folder / "seed.safetensors"]


def checkpoints(folder: Path) -> list[Path]:
    """A generator as the authors of CUT save it, in both forms of torch files."""
    import torch

    from tests.authors_checkpoints import resnet

    made = resnet(1, 2, spectral=False, blur=True).state_dict()
    for name, is_zip in (("seed.pth", True), ("old.pth", False)):
        torch.save(made, folder / name, _use_new_zipfile_serialization=is_zip)
    return [folder / "seed.pth", folder / "old.pth"]


RUN_YAML = """weights: identity
mpp: 0.5
norm: auto
norm_tiles: 64
tiling: {stride: 64, overlap: 16, halo: 0, block: 256}
output: {ngff: "0.5", chunk: 64, shard: 128, zstd_level: 1}
"""
TRAIN_YAML = """system: cut
marker: ER
data: {layout: mist, root: data/MIST, crop_px: 256, mpp: 0.5}
epochs: 2
options: {lr: 2.0e-4}
"""
SHEET = "slide\tpath\tmarkers\tmpp\ncase_1\tin/a.svs\tER,PR\t0.25\ncase-2\ts3://b/c.tiff\t\t\n"


def geojson() -> str:
    """A drawing as QuPath exports it."""
    ring = [[10, 10], [150, 12], [140, 120], [20, 110], [10, 10]]
    hole = [[40, 40], [60, 40], [60, 60], [40, 40]]
    shapes = [
        {"type": "Polygon", "coordinates": [ring, hole]},
        {"type": "MultiPolygon", "coordinates": [[ring], [hole]]},
        {"type": "Point", "coordinates": [1, 2]},
    ]
    features = [{"type": "Feature", "geometry": s, "properties": {"objectType": "annotation"}} for s in shapes]
    return json.dumps({"type": "FeatureCollection", "features": features})


# ---- mutations --------------------------------------------------------------------------------------------------

EXTREME = (0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 1000, 32767, 32768, 65535, 1 << 16, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
WORDS = (
    *("null", "true", "-1", "0", "1e999", "-1e308", "nan", ".inf", "99999999999999999999", "[]", "{}", "[[]]", '""'),
    *("!!python/object/apply:os.system [x]", "&a [*a]", "../../etc/passwd", "\\u0000", "\t", "\n", ",", ":", "ER", "{"),
)


def mutate_bytes(raw: bytes, r: random.Random) -> bytes:
    """Flips, extreme numbers, cuts, holes, moved and doubled pieces; most near the start, where headers are."""
    data = bytearray(raw)
    for _ in range(r.choice((1, 1, 1, 2, 4, 16))):
        if not data:
            break
        reach = len(data) if r.random() < 0.5 else min(len(data), 600)
        at = r.randrange(reach) if r.random() < 0.7 else max(0, len(data) - 1 - r.randrange(reach))
        match r.randrange(8):
            case 0 | 1:
                data[at] ^= 1 << r.randrange(8)
            case 2:
                data[at] = r.randrange(256)
            case 3:
                size, form = r.choice(((2, "H"), (4, "I"), (8, "Q")))
                data[at : at + size] = struct.pack(r.choice("<>") + form, r.choice(EXTREME) & ((1 << 8 * size) - 1))
            case 4:
                del data[at:]
            case 5:
                data[at : at + r.randrange(1, 400)] = b""
            case 6:
                n = r.randrange(1, 200)
                data[at : at + n] = bytes([r.choice((0, 255))]) * n
            case 7:
                n = r.randrange(1, 200)
                data[at:at] = data[r.randrange(len(data)) :][:n]
    return bytes(data)


def mutate_text(text: str, r: random.Random) -> bytes:
    """Words put in, taken out and exchanged; or bytes."""
    if r.random() < 0.3:
        return mutate_bytes(text.encode(), r)
    for _ in range(r.choice((1, 1, 2, 5))):
        parts = list(text)
        at = r.randrange(len(parts) + 1)
        match r.randrange(4):
            case 0:
                parts[at:at] = r.choice(WORDS)
            case 1:
                parts[at : at + r.randrange(1, 12)] = r.choice(WORDS)
            case 2:
                parts[at:] = ""
            case 3:
                parts[at:at] = r.choice("[{(-&*!\"'") * r.choice((1, 50, 3000))
        text = "".join(parts)
    return text.encode("utf-8", "surrogatepass")


def mutate_json(node: object, r: random.Random) -> object:
    """A JSON tree with one value exchanged for something else."""
    odd = (None, True, -1, 0, 1.5, 1e308, 10**18, "", "x" * 70000, "../../x", [], {}, [[[]]], ["ER"] * 3, "\0")
    if isinstance(node, dict) and node and r.random() < 0.9:
        key = r.choice(list(node))
        if r.random() < 0.1:
            return {k: v for k, v in node.items() if k != key}
        return {**node, key: mutate_json(node[key], r)}
    if isinstance(node, list) and node and r.random() < 0.8:
        at = r.randrange(len(node))
        return [*node[:at], mutate_json(node[at], r), *node[at + 1 :]]
    return r.choice(odd)


def mutate_weights(raw: bytes, r: random.Random) -> bytes:
    """Bytes of the file, or values of its header with everything else intact."""
    if r.random() < 0.4:
        return mutate_bytes(raw, r)
    size = struct.unpack("<Q", raw[:8])[0]
    head = json.loads(raw[8 : 8 + size])
    if r.random() < 0.8:
        ours = json.loads(head["__metadata__"]["wsistain"])
        head["__metadata__"]["wsistain"] = json.dumps(mutate_json(ours, r))
    else:
        head = mutate_json(head, r)
    text = json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + raw[8 + size :]


def mutated(kind: str, seeds: dict[str, list], folder: Path, r: random.Random) -> Path:
    """A mutated file (or OME-Zarr) of a kind."""
    seed = r.choice(seeds[kind])
    if kind in ("slide", "folder") and seed.is_dir():
        target = folder / "case.zarr"
        shutil.copytree(seed, target)
        file = r.choice(sorted(p for p in target.rglob("*") if p.is_file()))
        raw = file.read_bytes()
        if file.suffix == ".json" and r.random() < 0.7:
            file.write_text(json.dumps(mutate_json(json.loads(raw), r)))
        else:
            file.write_bytes(mutate_bytes(raw, r))
        return target
    if kind == "checkpoint":
        target = folder / "case.pth"
        target.write_bytes(mutate_bytes(seed.read_bytes(), r))
        return target
    if kind in ("slide", "folder"):
        target = folder / f"case{''.join(seed.suffixes)[-9:]}"
        target.write_bytes(mutate_bytes(seed.read_bytes(), r))
        return target
    if kind == "weights":
        target = folder / "case.safetensors"
        target.write_bytes(mutate_weights(seed.read_bytes(), r))
        return target
    name, text = seed
    target = folder / name
    tree = kind == "geojson" and r.random() < 0.6
    target.write_bytes(json.dumps(mutate_json(json.loads(text), r)).encode() if tree else mutate_text(text, r))
    return target


# ---- what is done with a case -----------------------------------------------------------------------------------


def use_slide(path: Path, out: Path) -> None:
    """Open, look, read a window of each level, stain."""
    slide = open_slide(path, mpp=0.5 if path.name.startswith("case.p") or path.suffix == ".jpg" else None)
    try:
        find_tissue(slide)
        for level, (h, w) in enumerate(slide.info.level_sizes):
            slide.read_level(level, max(h // 2 - 40, -3), max(w // 2 - 40, -3), 80, 80)
        pixels = max(h * w for h, w in slide.info.level_sizes)
    finally:
        slide.close()
    if pixels < 4_000_000:
        run(path, "ER", out, config=small_config(mpp=slide.info.mpp))


def use_weights(path: Path, out: Path) -> None:
    """Find, build, stain a tile."""
    from wsistain.generators.load import build_generator, find_generator

    spec = find_generator(str(path), "ER")
    generator = build_generator(spec, device="cpu")
    generator.stain(np.full((1, 64, 64, 3), 200, np.uint8), [(0, 0)])


def use_config(path: Path, out: Path) -> None:
    """Validate as what it is."""
    load_config(RunConfig if "run" in path.name else TrainConfig, path)


def use_geojson(path: Path, out: Path) -> None:
    """Read the shapes and draw them."""
    info = SlideInfo("x", (160, 192), 0.5, "given", ((160, 192),), (1.0,), (64, 64), "x", "x", "0")
    roi = read_roi(path)
    roi.mask(info, 4.0, (40, 48))


def use_sheet(path: Path, out: Path) -> None:
    """Read the sheet; nothing in it may lead out of the output folder."""
    for entry in read_sheet(path, ["ER"]):
        place = (out / f"{entry.slide}.{entry.tag}.done").resolve()
        if out.resolve() not in place.parents:
            raise RuntimeError(f"{entry} leads to {place}")


def use_checkpoint(path: Path, out: Path) -> None:
    """Import it."""
    from wsistain.weights.importing import import_checkpoint

    import_checkpoint(path, "cut", marker="ER", mpp=0.5, output=out / "made.safetensors")


def use_folder(path: Path, out: Path) -> None:
    """Look through the folder as a batch does: the file is a slide or has a reason, and nothing is raised."""
    entries, refused = scan_folder(path.parent, ["ER"])
    if not any(found.path == str(path) for found in (*identify(entries, out), *refused)):
        raise RuntimeError(f"{path} has no row")
    if refused and not all(one.reason for one in refused):
        raise RuntimeError(f"no reason: {refused}")


USES: dict[str, Callable[[Path, Path], None]] = {
    "slide": use_slide,
    "weights": use_weights,
    "config": use_config,
    "geojson": use_geojson,
    "sheet": use_sheet,
    "checkpoint": use_checkpoint,
    "folder": use_folder,
}


def in_child(kind: str, path: Path, out: Path, report: Path) -> int:
    """Exit code of a child that uses a file: 0 accepted, 2 refused in a sentence, else a fault (negative: a signal)."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
            try:
                USES[kind](path, out)
                code = 0
            except WsistainError as error:
                code = 2 if str(error).strip() and len(str(error)) < 2000 else 1
                report.write_text(f"{type(error).__name__}: {error}")
        except BaseException:  # noqa: BLE001 - the harness reports whatever came through
            report.write_text(traceback.format_exc())
        finally:
            os._exit(code)
    _, status, usage = os.wait4(pid, 0)
    if usage.ru_utime + usage.ru_stime > SECONDS:
        return 124
    return os.waitstatus_to_exitcode(status)


def fuzz(cases: int, seed: int, kinds: list[str], data: Path | None, keep: Path) -> dict:
    """Run the cases; counts by kind and end, and the faults with the files that cause them in `keep`."""
    counts: Counter[str] = Counter()
    faults = []
    slowest = 0.0
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        seeds: dict[str, list] = {
            "config": [("run.yaml", RUN_YAML), ("train.yaml", TRAIN_YAML)],
            "geojson": [("case.geojson", geojson())],
            "sheet": [("case.tsv", SHEET), ("case.csv", SHEET.replace(",", "+").replace("\t", ","))],
        }
        (home / "seeds").mkdir()
        if {"slide", "folder"} & set(kinds):
            # In a process of its own: what is written there loads TensorStore, and no child forked off after that may.
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                seeds["slide"] = seeds["folder"] = pool.apply(slides, (home / "seeds", data))
        if "checkpoint" in kinds:
            seeds["checkpoint"] = checkpoints(home / "seeds")
        if "weights" in kinds:
            seeds["weights"] = weights(home / "seeds")
        for number in range(cases):
            kind = kinds[number % len(kinds)]
            r = random.Random(f"{seed}/{number}")
            folder = home / "case"
            folder.mkdir()
            path, out, report = mutated(kind, seeds, folder, r), folder / "out", folder / "report.txt"
            start = time.monotonic()
            code = in_child(kind, path, out, report)
            slowest = max(slowest, time.monotonic() - start)
            finished = out.exists() and any(out.rglob("zarr.json")) and code != 0
            if code not in (0, 2) or finished:
                why = report.read_text() if report.is_file() else f"signal or limit ({code})"
                faults.append({"case": number, "kind": kind, "code": code, "finished": finished, "why": why[-1500:]})
                keep.mkdir(parents=True, exist_ok=True)
                shutil.move(path, keep / f"{seed}_{number}_{path.name}")
            counts[f"{kind} {'accepted' if code == 0 else 'refused' if code == 2 else 'FAULT'}"] += 1
            shutil.rmtree(folder)
    return {
        "cases": cases,
        "seed": seed,
        "counts": dict(sorted(counts.items())),
        "slowest_s": slowest,
        "faults": faults,
    }


def main() -> None:
    """Print the result as JSON; exit 1 when there were faults."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--cases", type=int, default=300)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--kinds", default=",".join(KINDS))
    options.add_argument("--data", type=Path)
    options.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "wsistain-fuzz")
    args = options.parse_args()
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    result = fuzz(args.cases, args.seed, args.kinds.split(","), args.data, args.keep)
    print(json.dumps(result, indent=1))
    sys.exit(bool(result["faults"]))


if __name__ == "__main__":
    main()
