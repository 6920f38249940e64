"""Seams and fidelity of `--norm tile | slide | field`: what the default rests on.

    python benchmarks/norm.py SLIDE --weights W.safetensors

The reference is one pass over the whole region with instance norm over the whole of it, which is what the network would
show if it could see everything at once. Without --weights, a narrow ResNet-6 with random values: the hard case.
"""

import math
from pathlib import Path

import common
import numpy as np


def main() -> None:
    """Print seam score, PSNR to the one-pass reference and seconds for each mode, and for a hard cut without blending."""
    options = common.parser(__doc__ or "")
    options.add_argument("slide", type=Path, nargs="?", help="default: a synthetic slide")
    options.add_argument("--weights", type=Path)
    options.add_argument("--size", type=int, default=2048, help="edge of the synthetic slide, px")
    options.add_argument("--ngf", type=int, default=16)
    args = options.parse_args()
    slide = args.slide or common.slide(args.work, args.size, args.size)
    weights = args.weights or common.random_resnet(args.work, ngf=args.ngf, tile_px=256)
    reference = one_pass(slide, weights)
    results = {"slide": slide.name, "weights": weights.name}
    cases = {
        "hard cut": ["--norm", "tile", "--set", "tiling.overlap=0", "--set", "tiling.stride=256"],
        "tile": ["--norm", "tile"],
        "slide": ["--norm", "slide"],
        "field": ["--norm", "field"],
    }
    for name, extra in cases.items():
        facts = common.run_child([str(slide), "-w", str(weights), "--all-tiles", *extra], args.work / "norm")
        results[name] = {
            "seam_score": facts["seam_score"],
            "psnr_to_one_pass_db": psnr(level0(Path(facts["output"])), reference),
            "seconds": facts["seconds"]["total"],
            "seconds_for_statistics": facts["seconds"]["norm"],
        }
    common.report("norm", results, args.output)


def one_pass(slide: Path, weights: Path) -> np.ndarray:
    """The whole slide through the network at once, instance norm over all of it: uint8 (h, w, 3)."""
    from wsistain.generators.load import build_generator, find_generator
    from wsistain.slide.reader import open_slide
    from wsistain.slide.resample import choose_sampling, read_window

    spec = find_generator(str(weights), "ER")
    opened = open_slide(slide)
    sampling = choose_sampling(opened.info, spec.mpp)
    height, width = (-(-n // 4) * 4 for n in sampling.shape)
    pixels = read_window(opened, sampling, 0, 0, height, width)
    stained = build_generator(spec, device="cpu").stain(pixels[None], [(0, 0)])[0]
    return stained[: sampling.shape[0], : sampling.shape[1]]


def level0(path: Path) -> np.ndarray:
    """Level 0 of an output, uint8 (h, w, 3)."""
    from wsistain.output.reading import open_level, read_window

    array = open_level(path, 0)
    return read_window(array, 0, 0, *array.shape[1:])


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 pictures, dB; 99 where they are equal."""
    error = float(np.mean((a.astype(np.float32) - b) ** 2))
    return 99.0 if error == 0 else round(10 * math.log10(255**2 / error), 2)


if __name__ == "__main__":
    main()
