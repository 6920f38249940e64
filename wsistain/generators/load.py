"""From a name to a generator that stains: built-in generators, and networks loaded from weights."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsistain import __version__
from wsistain.errors import ConfigError, WeightsError
from wsistain.generators.spec import PRECISIONS, RGB, Generator, GeneratorSpec
from wsistain.generators.tiling import default_overlap, default_stride
from wsistain.markers import find_marker, known_markers

if TYPE_CHECKING:
    from wsistain.weights.file import Header


_NO_PROBABILITY = (
    "{} stains and tells no probability: of the systems only lpstain does; leave --probability out, or name weights of it "
    "with --weights"
)


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


def find_generator(
    weights: str, marker: str, *, direction: str = "he-to-ihc", sampling: Mapping[str, Any] | None = None
) -> GeneratorSpec:
    """What is known of the generator that `weights` (see `wsistain.weights.find`) means for `marker`, without loading it.

    sampling : options of a diffusion model's staining that take the place of those in the weights' header.

    Raises WeightsError when the weights are for another marker or direction, ConfigError on sampling options that they
    do not have.
    """
    # A built-in generator has no file; nothing of weights is imported for it.
    marker = find_marker(marker).name
    if weights == "identity":
        if sampling:
            raise ConfigError("identity has no sampling options")
        return _identity_spec(marker)
    from wsistain.weights.file import file_hash, read_header
    from wsistain.weights.find import find_weights

    # The file, if it is for this marker and direction and asks for nothing unknown.
    path = find_weights(weights, marker, direction)
    header = read_header(path)
    if marker not in header.markers:
        raise WeightsError(
            f"{path} stains {', '.join(header.markers)}, not {marker}; choose other weights or --marker {header.markers[0]}"
        )
    if header.direction != direction:
        raise WeightsError(f"{path} goes {header.direction}; wanted {direction} (see --direction)")
    precision = header.options.get("precision", "float32")
    if precision not in PRECISIONS:
        raise WeightsError(f"{path} asks for precision {precision!r}; wanted one of {', '.join(PRECISIONS)}")
    if sampling:
        _check_sampling(header, sampling, str(path))

    # Its header as a spec. The tiling is that of a network that sees no further than its tile; `make_spec` refines it.
    overlap = default_overlap(header.tile_px)
    return GeneratorSpec(
        name="demo" if weights == "demo" else header.system,
        weights=str(path.resolve()),
        weights_hash=file_hash(path),
        marker=marker,
        panel=len(header.markers),
        mpp=header.mpp,
        tile_px=header.tile_px,
        radius=header.halo_px,
        stride=default_stride(header.tile_px, overlap),
        overlap=overlap,
        halo=0,
        size_multiple=header.size_multiple,
        norm=header.norm,
        precision=precision,
        training_data=header.training_data,
        licence=header.licence,
        note=header.note,
        sampling=json.dumps(sampling, sort_keys=True) if sampling else "",
    )


def _check_sampling(header: "Header", sampling: Mapping[str, Any], where: str) -> None:
    """ConfigError where the weights take no such options, or not these values."""
    from wsistain.systems import find_stainer
    from wsistain.systems.base import Sampled

    module = find_stainer(header.system)
    if not isinstance(module, Sampled):
        raise ConfigError(f"{where} ({header.system}) has no sampling options: only diffusion models do")
    module.check_sampling(header.options, sampling)


def build_generator(
    spec: GeneratorSpec,
    *,
    device: str = "auto",
    precision: str = "auto",
    compiled: bool = False,
    beside: Sequence[Generator] = (),
) -> Generator:
    """The generator that `spec` describes, ready to stain. Loads torch only where a network is needed.

    beside : generators on the same device; a network of several markers that one of them holds is shared with it.
    """
    if spec.weights == "identity":
        if spec.probability:
            raise ConfigError(_NO_PROBABILITY.format("identity"))
        return IdentityGenerator(spec)
    from wsistain.generators.network import NetworkGenerator
    from wsistain.networks.facts import ManyMarkers, Seeded, TellsChance
    from wsistain.weights.file import load_network

    for other in beside:
        if (
            isinstance(other, NetworkGenerator)
            and isinstance(other.network, ManyMarkers)
            and replace(other.spec, marker=spec.marker) == spec
        ):
            return other.for_marker(spec)
    network, _ = load_network(Path(spec.weights), json.loads(spec.sampling) if spec.sampling else None)
    if spec.probability and not isinstance(network, TellsChance):
        raise ConfigError(_NO_PROBABILITY.format(f"{spec.name} ({Path(spec.weights).name})"))
    if spec.seed is not None and isinstance(network, Seeded):
        network.seed = spec.seed
    return NetworkGenerator(
        network,
        spec,
        device=device,
        precision=spec.precision if precision == "auto" else precision,
        compiled=compiled,
    )


def load_generator(
    weights: str | Path, marker: str | None = None, *, device: str = "auto", **options: Any
) -> Generator:
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
            raise WeightsError(f"name the marker that {name} should stain: one of {', '.join(known_markers())}")
        from wsistain.weights.file import read_header

        marker = read_header(path).markers[0]
    return build_generator(find_generator(name, marker), device=device, **options)
