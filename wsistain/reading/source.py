"""What a reading starts from: finished stains of one slide, and that slide, checked to be the one they were made of."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsistain.errors import ConfigError, OutputError, SlideError, WeightsError
from wsistain.generators.known import Known, asking, known_of
from wsistain.markers import Marker, find_marker
from wsistain.output.reading import StoredStain, read_stain
from wsistain.output.recognise import refuse_virtual
from wsistain.slide.base import Slide
from wsistain.slide.place import local_place
from wsistain.slide.reader import open_slide
from wsistain.weights.file import file_hash
from wsistain.weights.find import find_weights

if TYPE_CHECKING:
    from wsistain.reading.steady import Steady


@dataclass(frozen=True)
class Result:
    """A finished stain to be read. stem: what its files are called, `<slide>.<MARKER>`."""

    stain: StoredStain
    marker: Marker
    stem: str

    @property
    def place_um(self) -> tuple[float, float, float, float]:
        """(y, x, height, width) of the stain, um from the corner of the slide."""
        (y, x), (height, width) = self.stain.origin_um, self.stain.levels[0]
        return y, x, height * self.stain.mpp, width * self.stain.mpp

    def beside(self, ending: str) -> Path:
        """The file with this ending beside the stain."""
        return Path(self.stain.path).with_name(f"{self.stem}.{ending}")


def open_results(paths: Sequence[Path | str]) -> list[Result]:
    """The stains at `paths`, of one slide and of as many markers.

    Raises OutputError for what is no finished stain of ours, ConfigError when they are of several slides or one is there
    twice.
    """
    results = []
    for path in paths:
        place = local_place(str(path)).rstrip("/")
        stain = read_stain(place)
        told = stain.provenance
        if told.get("virtual") is not True or not isinstance(told.get("marker"), str) or not _slide_of(stain):
            raise OutputError(f"{place} does not say of which slide and marker it is; wanted a stain by `wsistain run`")
        name = Path(place).name.removesuffix(".zarr").removesuffix(".ome")
        results.append(Result(stain, find_marker(told["marker"]), name))
    if not results:
        raise ConfigError("there is no stain to read; give the .ome.zarr folder that `wsistain run` wrote")
    prints = {_slide_of(r.stain).get("fingerprint") for r in results}
    if len(prints) > 1:
        raise ConfigError("these stains are of different slides; read the stains of one slide at a time")
    twice = [r.stem for k, r in enumerate(results) if r.stem in {o.stem for o in results[:k]}]
    if twice:
        raise ConfigError(f"two stains are called {twice[0]}; name every stain once")
    return results


def open_he(results: Sequence[Result], slide: str | Path | None) -> Slide:
    """The H&E of which `results` were made, open.

    slide : where it lies; None: where the run found it, or beside the results.

    Raises SlideError when it is not there, or is another one.
    """
    told = _slide_of(results[0].stain)
    name, wanted = str(told.get("name", "")), told.get("fingerprint")
    if slide is None:
        places = _places(results, name)
        slide = next((p for p in places if "://" in str(p) or Path(p).exists()), None)
        if slide is None:
            raise SlideError(
                f"the slide {name!r} of which {results[0].stain.path} was made is neither where the run found it nor beside "
                "the result; say where it is with --slide"
            )
    refuse_virtual(slide)
    config = results[0].stain.provenance.get("config")
    given = config.get("mpp") if isinstance(config, dict) else None
    mpp = told.get("mpp") if told.get("mpp_source") == "given" else given
    reader, series = results[0].stain.provenance.get("reader"), results[0].stain.provenance.get("series")
    opened = open_slide(
        slide,
        mpp=float(mpp) if isinstance(mpp, int | float) else None,
        reader=reader if isinstance(reader, str) else "auto",
        series=series if isinstance(series, int) else None,
    )
    if opened.info.fingerprint != wanted:
        opened.close()
        raise SlideError(
            f"{slide} is not the slide of which {results[0].stain.path} was made (fingerprint {opened.info.fingerprint}, "
            f"wanted {wanted}); name that slide with --slide"
        )
    return opened


def weights_of(result: Result, weights: Path | None = None) -> tuple[Path | None, str]:
    """The file of the weights that made a stain, by its hash; or None, and why there is none.

    weights : where it lies now; None: where the run found it. WeightsError where it names other weights.
    """
    told = result.stain.provenance
    facts = told["weights"] if isinstance(told.get("weights"), dict) else {}
    config = told["config"] if isinstance(told.get("config"), dict) else {}
    if told.get("system") == "identity":
        return None, "nothing was trained"
    try:
        path = weights or find_weights(str(config.get("weights", "")), result.marker.name)
        is_it = path.is_file() and file_hash(path) == facts.get("sha256")
    except (WeightsError, OSError):
        path, is_it = Path(), False
    if not is_it and weights is not None:
        raise WeightsError(
            f"{weights} is not the file that made {result.stain.path}; wanted {facts.get('name')}, SHA-256 {facts.get('sha256')}"
        )
    if not is_it:
        return None, f"the weights {facts.get('name')} are not where the run found them; name them with --weights"
    return path, ""


def known_to(result: Result, weights: Path | None = None, *, ask: bool = True) -> Known:
    """What the weights of a stain know of their training; of other weights than the stain's, or of none, nothing.

    weights : as in `weights_of`. ask : load the network, where the weights keep what it saw.
    """
    path, why = weights_of(result, weights)
    if path is None:
        return Known(why=why)
    facts = result.stain.provenance["weights"]
    known = known_of(str(path), str(facts.get("training_data", "")))
    return asking(known, str(path), result.marker.name) if ask else known


def steady_of(result: Result, weights: Path | None = None) -> "Steady":
    """What asks the generator of a stain how steady its answers are; WeightsError where its weights are not there."""
    from wsistain.reading.steady import Steady

    path, why = weights_of(result, weights)
    if path is None:
        raise WeightsError(f"--trust-jitter asks the network that made {result.stain.path} once more, but {why}")
    return Steady(path, result.marker)


def _slide_of(stain: StoredStain) -> dict[str, Any]:
    found = stain.provenance.get("slide")
    return found if isinstance(found, dict) else {}


def _places(results: Sequence[Result], name: str) -> list[Path | str]:
    """Where the slide may be: where `run.json` says, then beside the results, then in the folder above."""
    places: list[Path | str] = []
    for result in results:
        try:
            place = json.loads(result.beside("run.json").read_text(encoding="utf-8"))["plan"]["slide"]
            places.append(local_place(str(place)))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    folder = Path(results[0].stain.path).absolute().parent
    return [*places, folder / name, folder.parent / name]
