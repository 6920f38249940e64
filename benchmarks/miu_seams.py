"""Seams of MIU-Diff on a slide: windows fused during the reverse run, or run alone and blended as pictures.

    python benchmarks/miu_seams.py runs/study/runs/miu_long-s0/weights.safetensors --size 768

The pipeline's tiling makes every case. A tile of one window is a run of its own, so neighbours meet as finished pictures
only; a tile of many windows fuses them at every step. The noise belongs to the place on the slide in all of them.

    cut      tiles of one window side by side
    blended  tiles of one window that overlap, blended as pictures
    fused    the generator's own tiles of many windows; windows fused, tiles blended
    whole    the slide as one tile: windows fused, no tile borders; the reference

`at_borders` is the seam score on the borders of windows (1 is perfect; more is a visible line). `in_bands` is the mean
gradient where two windows overlap over that where one decides: less than 1 is the blur of two pictures that disagree.
`at_tile_borders` and `in_tile_bands` are the same for the pipeline's tiles. Peak memory includes that of the imports,
which is printed beside it.
"""

import math
import sys
from pathlib import Path
from typing import Any

import common
import numpy as np
from norm import level0, psnr


def phantom_slide(folder: Path, px: int, mpp: float, seed: int) -> Path:
    """A phantom H&E slide of `px` x `px` at the weights' um per px, made once."""
    from wsistain.phantom.config import PhantomConfig
    from wsistain.phantom.products import make_slide

    target = folder / f"phantom_{px}_{mpp:g}_{seed}"
    if not (target / "manifest.json").is_file():
        print(f"making {target}", file=sys.stderr)
        make_slide(target, PhantomConfig(height=px, width=px, mpp=mpp, marker="ER", seed=seed), he_only=True)
    return target / "he_a.tiff"


def settings(stride: int, overlap: int) -> list[str]:
    """The arguments of `wsistain run` for a tile grid; blocks and shards are whole tiles."""
    chunk = stride
    while chunk < 256:
        chunk += stride
    pairs = {
        "tiling.stride": stride,
        "tiling.overlap": overlap,
        "tiling.halo": 0,
        "tiling.block": 2 * chunk,
        "output.chunk": chunk,
        "output.shard": chunk,
    }
    return [a for key, value in pairs.items() for a in ("--set", f"{key}={value}")]


def ratio(picture: Any, stride: int, offsets: Any) -> float:
    """Mean |step| onto the lines at `offsets` of every stride over that onto all others; steps on glass are left out."""
    sums = {True: [0, 0], False: [0, 0]}
    for lines in (picture, picture.transpose(1, 0, 2)):
        before, after = lines[:-1].astype(int), lines[1:].astype(int)
        seen = ~((before == 255) & (after == 255)).all(axis=2)
        is_on = np.isin(np.arange(1, len(lines)) % stride, [o % stride for o in offsets])
        for which in (True, False):
            chosen = seen & (is_on == which)[:, None]
            sums[which][0] += int(np.abs(after - before)[chosen].sum())
            sums[which][1] += int(chosen.sum())
    (on, n_on), (off, n_off) = sums[True], sums[False]
    return (on / n_on) / (off / n_off) if n_on and n_off and off else math.nan


def seams(picture: Any, stride: int, overlap: int) -> tuple[float | None, float | None]:
    """Gradient on the borders of a grid over that elsewhere, and the same inside its shared bands over that outside.

    Every line counts, so that windows may have any step; the seam score of slides (`wsistain.tiling.seams`) looks at the
    compression grid of the source alone.
    """
    at_borders = ratio(picture, stride, [0, overlap])
    in_bands = ratio(picture, stride, range(1, overlap)) if 1 < overlap < stride else math.nan
    return (
        None if math.isnan(at_borders) else round(at_borders, 4),
        None if math.isnan(in_bands) else round(in_bands, 4),
    )


def main() -> None:
    """Stain the slide in the four ways and print what shows of the borders."""
    from wsistain.diffusion.windows import Windows
    from wsistain.generators.load import find_generator
    from wsistain.systems.miu_diff import NetworkOptions
    from wsistain.weights.file import read_header

    options = common.parser(__doc__ or "")
    options.add_argument("weights", type=Path, help="weights of miu_diff")
    options.add_argument(
        "--size", type=int, default=768, help="edge of the phantom slide, px at the weights' um per px"
    )
    options.add_argument("--seed", type=int, default=0, help="of the phantom")
    options.add_argument("--tile", type=int, help="stride of the fused case's tiles; the generator's own by default")
    args = options.parse_args()
    spec = find_generator(str(args.weights), "ER")
    sampling = NetworkOptions.model_validate(read_header(Path(spec.weights)).options).sampling
    window, step = sampling.window, sampling.window_stride
    slide = phantom_slide(args.work, args.size, float(spec.mpp or 0.5), args.seed)
    whole = -(-args.size // 64) * 64
    cases = {
        "cut": (window, 0),
        "blended": (step, window - step),
        "fused": (args.tile or spec.stride, spec.overlap),
        "whole": (whole, 0),
    }
    pictures, results = {}, {}
    for name, (stride, overlap) in cases.items():
        arguments = [str(slide), "-w", spec.weights, "--all-tiles", *settings(stride, overlap)]
        facts = common.run_child(arguments, args.work / "miu_seams" / name)
        pictures[name] = level0(Path(facts["output"]))
        tile = stride + overlap
        grid = (window, 0) if name == "cut" else (step, window - step)
        at_borders, in_bands = seams(pictures[name], *grid)
        at_tiles, in_tiles = seams(pictures[name], stride, overlap)
        results[name] = {
            "tile_px": tile,
            "tiles": facts["tiles_generated"],
            "window_runs": facts["tiles_generated"] * len(Windows([(0, 0)], tile, tile, window, step).places()),
            "at_borders": at_borders,
            "in_bands": in_bands,
            "at_tile_borders": at_tiles if stride < args.size else None,
            "in_tile_bands": in_tiles if stride < args.size else None,
            "seconds": facts["seconds"]["total"],
            "peak_rss_mb": facts["peak_rss_mb"],
        }
    for name in cases:
        results[name]["psnr_to_whole_db"] = psnr(pictures[name], pictures["whole"])
    facts = {
        "size_px": args.size,
        "window": window,
        "window_stride": step,
        "import_rss_mb": common.import_rss_mb("wsistain.pipeline.run, torch"),
        "cases": results,
    }
    common.report("miu_seams", facts, args.output)


if __name__ == "__main__":
    main()
