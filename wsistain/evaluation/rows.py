"""What is compared: weights to be loaded, and the two baselines that need no training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsistain.errors import DataError, WeightsError

if TYPE_CHECKING:
    from wsistain.data.layouts import PatchRef
    from wsistain.generators.spec import Generator, GeneratorSpec
    from wsistain.weights.file import TrainedOn

RGB = NDArray[np.uint8]

BASELINES = ("identity", "mean_colour", "real")
MPP_TOLERANCE = 0.1
"""Patches are resampled for a generator whose um per px differs from theirs by more than this share."""

_MEAN_PICTURES = 64


class Stainer(Protocol):
    """One row of the tables."""

    name: str

    def facts(self) -> dict[str, Any]:
        """What the results say of it."""
        ...

    def stain(self, he: RGB, size: int | None = None) -> RGB:
        """The virtual IHC of a patch, uint8 (h, w, 3), or (size, size, 3) where a size is given; thread-safe."""
        ...


def resized(picture: RGB, size: int | None) -> RGB:
    """`picture` with edges of `size` px; as it is without."""
    from wsistain.data.pictures import resize

    return picture if size is None else resize(picture, size, size)


class Identity:
    """The H&E itself: what a metric says of a picture without any stain."""

    name = "identity"

    def facts(self) -> dict[str, Any]:
        return {"kind": "baseline", "note": "the H&E itself"}

    def stain(self, he: RGB, size: int | None = None) -> RGB:
        return resized(he, size)


class MeanColour:
    """H&E moved to the mean colour of real IHC: no content is learned, only the tint.

    he_mean, ihc_mean : float (3,), mean RGB over a set of patches.
    source            : which patches, for the record.
    """

    name = "mean_colour"

    def __init__(self, he_mean: NDArray[np.float64], ihc_mean: NDArray[np.float64], source: str) -> None:
        self.he_mean, self.ihc_mean, self.source = he_mean, ihc_mean, source
        shift = ihc_mean - he_mean
        self._table = np.rint(np.arange(256)[:, None] + shift).clip(0, 255).astype(np.uint8)

    def facts(self) -> dict[str, Any]:
        return {
            "kind": "baseline",
            "note": f"each channel shifted by the difference of set means of {self.source}",
            "he_mean": self.he_mean.round(2).tolist(),
            "ihc_mean": self.ihc_mean.round(2).tolist(),
        }

    def stain(self, he: RGB, size: int | None = None) -> RGB:
        he = resized(he, size)
        return np.stack([self._table[he[..., c], c] for c in range(3)], axis=2)


def mean_colour(refs: "Sequence[PatchRef]", source: str) -> MeanColour:
    """The mean-colour baseline from at most 64 evenly spaced patches of `refs` (unreadable ones are passed over).

    Raises DataError when none can be read.
    """
    from wsistain.data.patches import read_pair

    chosen = [refs[i] for i in np.unique(np.linspace(0, len(refs) - 1, _MEAN_PICTURES).astype(int))]
    means: list[NDArray[np.float64]] = []
    for ref in chosen:
        try:
            pair = read_pair(ref)
        except DataError:
            continue
        means.append(np.stack([p.reshape(-1, 3).mean(axis=0) for p in pair if p is not None]))
    if not means:
        raise DataError(f"none of {len(chosen)} patches of {source} can be read")
    he_mean, ihc_mean = np.mean(means, axis=0)
    return MeanColour(he_mean, ihc_mean, f"{len(means)} patches of {source}")


class Network:
    """A generator on patches: the whole patch in one pass, padded by reflection to the network's size multiple.

    patch_mpp : um per px of the patches, None where it is not known: they are then taken to be at the generator's.
    """

    def __init__(self, name: str, generator: "Generator", patch_mpp: float | None) -> None:
        self.name = name
        self._generator = generator
        self._spec: GeneratorSpec = generator.spec
        wanted = self._spec.mpp
        scale = patch_mpp / wanted if patch_mpp and wanted else 1.0
        self.scale = scale if abs(scale - 1) > MPP_TOLERANCE else 1.0
        self._seen: set[tuple[int, int]] = set()

    def facts(self) -> dict[str, Any]:
        spec = self._spec
        return {
            "kind": "weights",
            "system": spec.name,
            "weights": spec.weights,
            "weights_sha256": spec.weights_hash,
            "mpp": spec.mpp,
            "training_data": spec.training_data,
            "licence": spec.licence,
            "note": spec.note,
            "patches_resampled_by": round(self.scale, 4),
            "stained_px": [f"{h} x {w}" for h, w in sorted(self._seen)],
        }

    def stain(self, he: RGB, size: int | None = None) -> RGB:
        """The virtual IHC, of the size of `he` (resampled to the generator's um per px and back where they differ).

        size : edge of what is wanted. A network to whose scale that size belongs is given H&E of it, and its own output
               comes back; any other stains at its scale and what it returns is resized.
        """
        from wsistain.data.pictures import resize

        height, width = he.shape[:2]
        m = self._spec.size_multiple
        seen = tuple(max(round(n * self.scale), 1) for n in (height, width))
        if size is not None and all(abs(n / size - 1) <= MPP_TOLERANCE for n in seen):
            seen = (size, size)
        self._seen.add((seen[0], seen[1]))
        tile = resize(he, *seen)
        padding = [(0, -n % m) for n in tile.shape[:2]]
        padded = np.pad(tile, [*padding, (0, 0)], mode="symmetric")
        stained = self._generator.stain(padded[None], [(0, 0)])[0]
        out = (height, width) if size is None else (size, size)
        return resize(np.ascontiguousarray(stained[: tile.shape[0], : tile.shape[1]]), *out)


@dataclass(frozen=True)
class Candidate:
    """Weights that were found and fit the marker; `name` is unique in the table.

    trained_on : what their header says of layout, scale and split; None where it says nothing.
    slides     : hashes of the names of the slides that they were trained on; empty where that is not known.
    """

    name: str
    spec: "GeneratorSpec"
    trained_on: "TrainedOn | None" = None
    slides: frozenset[str] = frozenset()

    def load(self, device: str, patch_mpp: float | None) -> Network:
        """The generator, ready to stain patches of `patch_mpp` um per px."""
        from wsistain.generators.load import build_generator

        return Network(self.name, build_generator(self.spec, device=device), patch_mpp)


def _runs_in(folder: Path) -> list[Path]:
    """The weights of a folder of runs, by the run's name."""
    from wsistain.weights.find import run_weights

    return [run_weights(path.parent) for path in sorted(folder.glob("*/weights.safetensors"))]


def find_candidates(
    weights: Sequence[str | Path], marker: str, sampling: Mapping[str, Any] | None = None
) -> list[Candidate]:
    """The weights that `weights` name, each a file, folder, folder of runs, hub id or built-in, in that order.

    sampling : options of diffusion models, as in `find_generator`.

    A folder of runs stands for all its runs that stain `marker`. Raises WeightsError when there is none, or when
    one that is named does not fit. `identity` may be named; it is in the table anyway.
    """
    from wsistain.generators.load import find_generator
    from wsistain.weights.file import read_header
    from wsistain.weights.find import BEST, LAST

    found: list[Candidate] = []
    names: set[str] = set()
    for given in weights:
        text, path = str(given), Path(given)
        if text == "identity":
            continue
        # A folder with no weights of its own is looked at as a folder of runs.
        runs = _runs_in(path) if path.is_dir() and not list(path.glob("*.safetensors")) else []
        if runs:
            fitting = [r for r in runs if marker in read_header(r).markers]
            if not fitting:
                raise WeightsError(f"none of the {len(runs)} runs in {path} stains {marker}")
            specs = [(r.parent.name, find_generator(str(r), marker, sampling=sampling)) for r in fitting]
        else:
            spec = find_generator(text, marker, sampling=sampling)
            file = Path(spec.weights)
            shown = file.parent.name if file.name in (LAST, BEST) else file.stem
            specs = [(text if text == "demo" else shown, spec)]
        for shown, spec in specs:
            name, k = shown, 2
            # A name is a row of the table: two that are alike, or like a baseline, would become one.
            while name in names or name in BASELINES:
                name, k = f"{shown}-{k}", k + 1
            names.add(name)
            header = read_header(Path(spec.weights))
            found.append(Candidate(name, spec, header.trained_on, frozenset(header.slides)))
    return found
