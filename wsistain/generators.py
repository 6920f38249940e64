"""What stains tiles at run time: built-in generators, and networks loaded from weights.

A generator takes uint8 tiles and gives uint8 tiles, so that the pipeline never sees a tensor and a generator without
a network never imports torch.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsistain import __version__
from wsistain.errors import WeightsError
from wsistain.markers import MARKERS, find_marker

if TYPE_CHECKING:
    pass

RGB = NDArray[np.uint8]
DEMO_NOTE = "DEMONSTRATION only: trained on synthetic tissue, not on patients' slides"


@dataclass(frozen=True)
class GeneratorSpec:
    """What the pipeline must know of a generator before it is loaded; picklable, so workers load it themselves.

    name          : for people and provenance, e.g. "usigan".
    weights       : path of the weights file, or the built-in's name.
    weights_hash  : SHA-256 of the file; of name and version for a built-in without one.
    marker        : name of the marker that is stained.
    mpp           : um per px at which it stains; None: the slide's own level 0.
    tile_px       : edge of the tiles that it was trained on, px.
    radius        : of its receptive field with fixed norm statistics, px; None where unknown or without bound.
    stride        : step of the tile grid that suits it, px. overlap, halo: as in `Tiling`.
    size_multiple : tile edges must be multiples of this.
    norm          : as in the weights' `Header`.
    training_data : what it was trained on.
    note          : a sentence that is printed with every run and kept in the provenance; may be empty.
    seed          : of the noise of a diffusion model; None: the one in the weights.
    """

    name: str
    weights: str
    weights_hash: str
    marker: str
    mpp: float | None
    tile_px: int
    radius: int | None
    stride: int
    overlap: int
    halo: int
    size_multiple: int
    norm: str
    training_data: str = "none"
    licence: str = "Apache-2.0"
    note: str = ""
    seed: int | None = None


class Generator(Protocol):
    """Stains tiles. Thread-safe; the result for a tile depends on the tile and its position alone."""

    spec: GeneratorSpec
    device: str

    def stain(self, tiles: RGB, positions: Sequence[tuple[int, int]]) -> RGB:
        """Stained tiles, uint8 (n, h, w, 3) like `tiles`; `positions` are the (y, x) of their corners, output px."""
        ...


class IdentityGenerator:
    """Returns the H&E; for checks and benchmarks."""

    device = "cpu"

    def __init__(self, spec: GeneratorSpec) -> None:
        self.spec = spec

    def stain(self, tiles: RGB, positions: Sequence[tuple[int, int]]) -> RGB:
        """The tiles themselves."""
        return tiles


def _builtin_hash(name: str) -> str:
    return hashlib.sha256(f"{name} {__version__}".encode()).hexdigest()


def _identity_spec(marker: str) -> GeneratorSpec:
    return GeneratorSpec(
        name="identity",
        weights="identity",
        weights_hash=_builtin_hash("identity"),
        marker=marker,
        mpp=None,
        tile_px=1024,
        radius=0,
        stride=1024,
        overlap=128,
        halo=0,
        size_multiple=1,
        norm="frozen",
        note="identity: this is the H&E itself, not a stain",
    )


def shipped_folder() -> Path:
    """Folder of the weights that are part of the package."""
    return Path(__file__).parent / "shipped"


def _demo_file(marker: str) -> Path:
    return shipped_folder() / f"demo-{marker.lower()}.safetensors"


def find_weights(name: str, marker: str, direction: str = "he-to-ihc") -> Path:
    """The weights file that `name` means for `marker`.

    `name` is a file, a folder (with `<anything>.safetensors` for the marker, `weights.safetensors` of a training run
    included), an installed or shipped name, or a hub id (`owner/repository`, looked up in the local hub cache).
    Raises WeightsError with what was looked for.
    """
    from wsistain.weights import SUFFIX, read_header

    if name == "demo":
        return _demo_file(marker)
    path = Path(name)
    if path.is_file():
        return path
    if path.is_dir():
        files = sorted(path.glob(f"*{SUFFIX}"))
        headers = {f: read_header(f) for f in files}
        fitting = [f for f, h in headers.items() if marker in h.markers and h.direction == direction]
        if len(fitting) == 1:
            return fitting[0]
        if not files:
            raise WeightsError(f"the folder {name} holds no {SUFFIX} file")
        found = ", ".join(f"{f.name} ({'/'.join(h.markers)}, {h.direction})" for f, h in list(headers.items())[:3])
        problem = "none" if not fitting else f"{len(fitting)} files"
        raise WeightsError(
            f"{problem} of the weights in {name} fit marker {marker} {direction}: found {found}; name the file"
        )
    installed = _installed(name, marker)
    if installed is not None:
        return installed
    raise WeightsError(
        f"weights {name!r} were not found: no such file or folder, not built in (demo, identity), not installed; "
        "see 'wsistain weights list'"
    )


def _installed(name: str, marker: str) -> Path | None:
    from wsistain.catalogue import installed_folder
    from wsistain.weights import SUFFIX

    candidates = [installed_folder() / f"{name}{SUFFIX}", installed_folder() / f"{name}-{marker.lower()}{SUFFIX}"]
    if "/" in name and not Path(name).is_absolute() and ".." not in name:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        for file in (f"{marker}{SUFFIX}", f"{marker.lower()}{SUFFIX}", f"weights{SUFFIX}"):
            try:
                hit = try_to_load_from_cache(name, file)
            except HFValidationError:
                break
            if isinstance(hit, str):
                candidates.append(Path(hit))
    return next((c for c in candidates if c.is_file()), None)


def _default_overlap(tile_px: int) -> int:
    # a quarter of the training tile: the ramp of a per-tile normalised network must be wide to hide its tone drift
    return min(128, max(16, tile_px // 4 // 16 * 16))


def _stride_for(tile_px: int, overlap: int) -> int:
    """Largest power of two whose core is at most a quarter larger than the training tile (statistics stay close)."""
    stride = 64
    while stride * 2 + overlap <= 1.3 * tile_px and stride < 2048:
        stride *= 2
    return stride


def find_generator(weights: str, marker: str, *, direction: str = "he-to-ihc") -> GeneratorSpec:
    """What is known of the generator that `weights` (see `find_weights`) means for `marker`, without loading it.

    Raises WeightsError when the weights are for another marker or direction.
    """
    marker = find_marker(marker).name
    if weights == "identity":
        return _identity_spec(marker)
    from wsistain.weights import file_hash, read_header

    path = find_weights(weights, marker, direction)
    header = read_header(path)
    if marker not in header.markers:
        raise WeightsError(
            f"{path} stains {', '.join(header.markers)}, not {marker}; choose other weights or --marker {header.markers[0]}"
        )
    if header.direction != direction:
        raise WeightsError(f"{path} goes {header.direction}; wanted {direction} (see --direction)")
    overlap = _default_overlap(header.tile_px)
    return GeneratorSpec(
        name="demo" if weights == "demo" else header.system,
        weights=str(path.resolve()),
        weights_hash=file_hash(path),
        marker=marker,
        mpp=header.mpp,
        tile_px=header.tile_px,
        radius=header.halo_px,
        stride=_stride_for(header.tile_px, overlap),
        overlap=overlap,
        halo=0,
        size_multiple=header.size_multiple,
        norm=header.norm,
        training_data=header.training_data,
        licence=header.licence,
        note=header.note,
    )


def build_generator(
    spec: GeneratorSpec, *, device: str = "auto", precision: str = "auto", compiled: bool = False
) -> "Generator":
    """The generator that `spec` describes, ready to stain. Loads torch only where a network is needed."""
    if spec.weights == "identity":
        return IdentityGenerator(spec)
    from wsistain.stainer import NetworkGenerator
    from wsistain.weights import load_network

    network, header = load_network(Path(spec.weights))
    if spec.seed is not None and hasattr(network, "seed"):
        network.seed = spec.seed  # type: ignore[assignment]
    return NetworkGenerator(
        network,
        spec,
        device=device,
        precision=precision,
        compiled=compiled,
        precision_hint=header.options.get("precision"),
    )


def load_generator(
    weights: str | Path, marker: str | None = None, *, device: str = "auto", **options: Any
) -> "Generator":
    """A generator from a file, folder, hub id or built-in name (`demo`, `identity`).

    marker : needed unless the weights are a file for one marker only.
    device : "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:N".

    >>> load_generator("identity", "ER").stain(np.zeros((1, 4, 4, 3), np.uint8), [(0, 0)]).shape
    (1, 4, 4, 3)
    """
    name = str(weights)
    if marker is None:
        path = Path(name)
        if not path.is_file():
            raise WeightsError(f"name the marker that {name} should stain: one of {', '.join(MARKERS)}")
        from wsistain.weights import read_header

        marker = read_header(path).markers[0]
    return build_generator(find_generator(name, marker), device=device, **options)


EXACT_STRIDE, WIDE_EXACT_STRIDE = 512, 1024
"""Powers of two, since a block is a whole number of strides; the wide one for radii past `WIDE_RADIUS`."""

WIDE_RADIUS = 128
FADE_PX = 32


def exact_tiling(spec: GeneratorSpec) -> GeneratorSpec:
    """The spec with the tiling that makes a network with fixed statistics exact: a halo of its receptive field.

    Nothing is left for the overlap to hide but the edge of tissue, so it is narrow. A wide halo gets
    a longer stride, or most of the work would be thrown away. A spec whose radius is unknown comes back as it is.
    """
    if spec.radius is None:
        return spec
    stride = EXACT_STRIDE if spec.radius <= WIDE_RADIUS else WIDE_EXACT_STRIDE
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
