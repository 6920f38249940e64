"""How the tiles of a generator lie: what suits its training, what makes it exact, and what the user wants."""

import math
from dataclasses import replace

from wsistain.generators.spec import GeneratorSpec

EXACT_STRIDES = ((128, 512), (384, 1024), (math.inf, 2048))
"""(radii up to, px; stride): powers of two, since a block is a whole number of strides."""

FADE_PX = 32


def default_overlap(tile_px: int) -> int:
    # A quarter of the training tile: the ramp of a per-tile normalised network must be wide to hide its tone drift.
    return min(128, max(16, tile_px // 4 // 16 * 16))


def default_stride(tile_px: int, overlap: int) -> int:
    """Largest power of two whose core is at most a quarter larger than the training tile (statistics stay close)."""
    stride = 64
    while stride * 2 + overlap <= 1.3 * tile_px and stride < 2048:
        stride *= 2
    return stride


def exact_tiling(spec: GeneratorSpec) -> GeneratorSpec:
    """The spec with the tiling that makes a network with fixed statistics exact: a halo of its receptive field.

    Nothing is left for the overlap to hide but the edge of tissue, so it is narrow. A wide halo gets
    a longer stride, or most of the work would be thrown away. A spec whose radius is unknown comes back as it is.
    """
    if spec.radius is None:
        return spec
    stride = next(stride for widest, stride in EXACT_STRIDES if spec.radius <= widest)
    if stride % spec.size_multiple:
        stride = spec.stride
    return replace(spec, stride=stride, overlap=FADE_PX, halo=spec.radius)


def with_tiling(spec: GeneratorSpec, *, stride: int | None, overlap: int | None, halo: int | None) -> GeneratorSpec:
    """The spec with the user's tiling in place of the generator's own, where given."""
    return replace(
        spec,
        stride=spec.stride if stride is None else stride,
        overlap=spec.overlap if overlap is None else overlap,
        halo=spec.halo if halo is None else halo,
    )
