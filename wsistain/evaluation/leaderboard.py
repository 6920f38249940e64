"""Results of several folders in one table, where they were measured on the same patches."""

import json
from pathlib import Path
from typing import Any

from wsistain.errors import DataError, OutputError
from wsistain.evaluation.report import write_results
from wsistain.evaluation.tables import Results
from wsistain.runtime.files import local_path

_SAME = ("marker", "layout", "n_pairs", "n_slides", "sizes", "limit", "pictures_sha256")


def read_results(path: Path) -> Results:
    """A results.json of `evaluate`; DataError when it cannot be read or is something else."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(results["systems"], dict) or not isinstance(results["data"], dict):
            raise KeyError("systems")
        return {**results}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path} holds no results of 'wsistain evaluate' ({type(error).__name__}: {error})") from None


def merge_results(named: dict[str, Results]) -> Results:
    """One set of results from several, by the name of their folder; baselines are kept once.

    A system of a name that is taken already gets its folder's name before its own. Raises DataError where the sets
    were not measured on the same patches at the same size.
    """
    if not named:
        raise DataError("there are no results to put side by side")
    first_name, first = next(iter(named.items()))
    merged: dict[str, Any] = {**first, "systems": {}, "missing": {}, "networks": {}, "notes": [], "warnings": []}
    # Rows stand side by side only if they were measured on the same pictures.
    for folder, results in named.items():
        differing = [k for k in _SAME if results["data"].get(k) != first["data"].get(k)]
        if not differing and not _are_hashed(results, first) and _of_pictures(results) != _of_pictures(first):
            differing = ["identity, which is a matter of the pictures alone,"]
        if differing or results["measured_at"] != first["measured_at"]:
            what = ", ".join(differing).replace("pictures_sha256", "names or pixels") or "size"
            raise DataError(f"{folder} and {first_name} were not measured on the same pictures ({what} differ)")
        for name, system in results["systems"].items():
            if system["kind"] == "baseline":
                merged["systems"].setdefault(name, system)
                continue
            taken = name in merged["systems"]
            merged["systems"][f"{folder}/{name}" if taken else name] = {
                **system,
                "label": f"{folder}/{system['label']}" if taken else system["label"],
            }
        merged["missing"] |= results["missing"]
        merged["networks"] |= results["networks"]
        merged["warnings"] += [w for w in results.get("warnings", []) if w not in merged["warnings"]]
        merged["notes"] += [n for n in results["notes"] if n not in merged["notes"]]
    return merged


def _are_hashed(*several: Results) -> bool:
    """Whether each report has the hash of its pictures, which decides alone: numbers differ in the last digit by machine."""
    return all(results["data"].get("pictures_sha256") for results in several)


def _of_pictures(results: Results) -> Any:
    """What a report says of the H&E itself: of two without hashes, those on the same pictures agree."""
    metrics = results["systems"].get("identity", {}).get("metrics", {})
    return {name: metrics.get(name, {}).get("value") for name in ("ssim", "psnr")}


def leaderboard(folder: str | Path, output: str | Path, *, overwrite: bool = False) -> Results:
    """One table of all results below `folder` (`*/results.json`, also deeper), written as `evaluate` writes it.

    Raises DataError when there are none, or they do not belong together; OutputError when `output` holds results.
    """
    folder, output = Path(folder), local_path(output)
    if (output / "results.json").exists() and not overwrite:
        raise OutputError(f"{output} holds results already; choose another --output or pass --overwrite")
    paths = [p for p in sorted(folder.rglob("results.json")) if p.parent.resolve() != output.resolve()]
    if not paths:
        raise DataError(f"there is no results.json below {folder}; run 'wsistain evaluate --output' there first")
    merged = merge_results({p.parent.relative_to(folder).as_posix(): read_results(p) for p in paths})
    write_results(merged, output, [])
    return merged
