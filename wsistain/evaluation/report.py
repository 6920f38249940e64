"""`evaluate`: every metric of the papers for any number of weights on one set of patches, written as four files."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsistain import __version__
from wsistain.data.layouts import PatchRef
from wsistain.data.sides import check_sides, evenly
from wsistain.errors import ConfigError, DataError, OutputError
from wsistain.evaluation.chosen import Chosen, Wanted, choose_patches, spread
from wsistain.evaluation.deep import DeepMetrics, load_deep, phv
from wsistain.evaluation.distribution import asp_subset, frechet_distance, kernel_distance
from wsistain.evaluation.given import GivenPictures
from wsistain.evaluation.metrics import LONG_NAMES, METRICS
from wsistain.evaluation.page import to_html
from wsistain.evaluation.patches import Pass, PatchResult, Unusable, run_pass
from wsistain.evaluation.real import refuse_virtual
from wsistain.evaluation.rows import BASELINES, Candidate, Identity, Stainer, find_candidates, mean_colour
from wsistain.evaluation.summary import Estimate, SlideBootstrap, summarise
from wsistain.evaluation.tables import Results, pairs_to_csv, to_csv, to_markdown
from wsistain.evaluation.truth import PhantomTruth, cell_table, gather_cells, read_truth, truth_facts
from wsistain.markers import Marker, find_marker
from wsistain.runtime.files import local_path, reporting, write_text
from wsistain.runtime.progress import OnProgress

Table = dict[str, Estimate]


def evaluate(
    weights: str | Path | Sequence[str | Path],
    data_root: str | Path,
    *,
    layout: str = "mist",
    marker: str = "ER",
    split: str = "val",
    output: str | Path | None = None,
    nets: str | Path | None = None,
    device: str = "auto",
    size: int | None = None,
    mpp: float | None = None,
    val_share: float | None = None,
    split_seed: int | None = None,
    limit: int | None = None,
    pictures: int = 6,
    workers: int | None = None,
    seed: int = 0,
    sampling: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: OnProgress | None = None,
    given: Sequence[str | Path] = (),
    any_stain: bool = False,
) -> dict[str, Any]:
    """The results of `weights`, identity and mean-colour transfer on one split of a patch data set.

    weights   : one or many of: file, folder, folder of runs, hub id, built-in name. May be empty: baselines only.
    data_root : folder of the data set in `layout` (mist, bci, bci_ab, ihc4bc, ab).
    output    : folder that receives results.json, results.csv, results.md, report.html and pairs.csv; None: no files.
    nets      : folder of published network files for PHV, FID, KID and LPIPS; None: the default places.
    size      : edge in px at which all pictures are measured; None: as they are. A network of that scale stains H&E of
                that size, and what it returns is measured.
    mpp       : um per px of the patches; None: what a manifest, the data set or the weights say.
    val_share : share of the patients that is held out where the data set has no split (ihc4bc), and `split_seed` which;
                None: those of the weights, else 0.1 and 0.
    limit     : at most so many patches, evenly spaced in the list; None: all.
    pictures  : patches shown in the report.
    workers   : measuring processes; None: one a core; 1: none are started.
    sampling  : how diffusion models stain, in place of what their weights say.
    progress  : called with (what, patches done, of how many).
    given     : folders of pictures that another program made of the patches, one row of the tables each.
    any_stain : measure also where the H&E is plainly none.

    The dictionary is what results.json holds. Metrics whose networks are not at hand are listed under "missing" with
    the command that fetches them. Raises DataError, WeightsError, ConfigError or OutputError.
    """
    # Patches, weights, networks of the metrics: what is missing or in the way shows before anything is measured.
    started = time.monotonic()
    known = find_marker(marker)
    folder = None if output is None else local_path(output)
    if folder is not None:
        _refuse_existing(folder, overwrite)
    if size is not None and size < 64:
        raise ConfigError(f"size {size} is too small; wanted at least 64 px")
    named = [weights] if isinstance(weights, str | Path) else list(weights)
    candidates = find_candidates(named, known.name, sampling)
    wanted = Wanted(Path(data_root), layout, known, split, limit, mpp, val_share, split_seed)
    chosen = choose_patches(wanted, candidates)
    refs, patch_mpp = chosen.refs, chosen.mpp
    if not any_stain:
        refuse_virtual([refs[k].he for k in evenly(len(refs))])
    doubt = check_sides(refs, known, any_stain=None if any_stain else "pass --any-stain")
    truth = read_truth(refs, known, split)
    deep = load_deep(None if nets is None else Path(nets), _device(device))

    # The baselines share the pass of the first weights; each further generator is loaded for a pass of its own.
    runs = Runs(refs, known, deep, truth, size, workers, progress, pictures)
    theirs = _given(given, refs, [c.name for c in candidates])
    baselines: list[Stainer] = [Identity(), _mean_colour(chosen), *theirs]
    runs.add(baselines, candidates[:1], device, patch_mpp)
    for candidate in candidates[1:]:
        runs.add([], [candidate], device, patch_mpp)

    # The tables, and what they were measured on.
    results = results_of(runs, deep, truth, known, seed)
    results["data"] |= {
        "layout": layout,
        "split": split,
        "root": str(data_root),
        "patch_mpp": patch_mpp,
        "val_share": chosen.val_share,
        "split_seed": chosen.split_seed,
        "limit": limit,
    }
    of_pictures = (told for row in theirs for told in row.doubts(refs))
    results["warnings"] = [*([doubt] if doubt else []), *chosen.warnings, *of_pictures, *deep.warnings]
    results["measured_at"] = f"measured at {size} px" if size else "measured at full size"
    results["seconds"] = round(time.monotonic() - started, 1)
    results = {name: finite(value) for name, value in results.items()}
    if folder is not None:
        write_results(results, folder, pair_rows(runs), runs.sheets())
    return results


def _given(folders: Sequence[str | Path], refs: Sequence[PatchRef], taken: Sequence[str]) -> list[GivenPictures]:
    rows: list[GivenPictures] = []
    names = {*taken, *BASELINES, "real", "truth", "he"}
    for folder in map(Path, folders):
        shown, k = folder.resolve().name, 2
        name = shown
        while name in names:
            name, k = f"{shown}-{k}", k + 1
        names.add(name)
        rows.append(GivenPictures(name, folder, refs))
    return rows


def finite(value: Any) -> Any:
    """`value` with every float that JSON cannot hold turned into None."""
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _device(device: str) -> str:
    from wsistain.generators.network import choose_device

    return str(choose_device(device))


def _refuse_existing(folder: Path, overwrite: bool) -> None:
    if (folder / "results.json").exists() and not overwrite:
        raise OutputError(f"{folder} holds results already; choose another --output or pass --overwrite")
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file, wanted a folder for the results")


def _mean_colour(chosen: Chosen) -> Stainer:
    """The mean-colour baseline from the training split; from the evaluated patches where there is none."""
    if chosen.train:
        return mean_colour(chosen.train, "the training split")
    return mean_colour(chosen.refs, "the evaluated split itself")


class Runs:
    """All passes over one list of patches, and what they brought."""

    def __init__(
        self,
        refs: Sequence[PatchRef],
        marker: Marker,
        deep: DeepMetrics,
        truth: PhantomTruth | None,
        size: int | None,
        workers: int | None,
        progress: OnProgress | None,
        pictures: int,
    ) -> None:
        self._refs, self.deep, self.size, self._workers, self._progress = list(refs), deep, size, workers, progress
        self._truth, self._marker = truth, marker
        self._shown = frozenset(refs[i].name for i in spread(len(refs), pictures))
        self.facts: dict[str, dict[str, Any]] = {}
        self.results: list[PatchResult] = []
        self.unusable: list[Unusable] = []

    def add(self, stainers: list[Stainer], candidates: Sequence[Candidate], device: str, mpp: float | None) -> None:
        """One pass with `stainers` and the generators of `candidates`, which are loaded for this pass only."""
        rows = [*stainers, *(c.load(device, mpp) for c in candidates)]
        names = " and ".join(s.name for s in rows)
        cells = self._truth.places if self._truth else {}
        work = Pass(rows, self._marker, self.deep, self._shown, cells, self.size, mpp)
        report = self._progress
        started = time.monotonic()
        results, unusable = run_pass(
            self._refs,
            work,
            workers=self._workers,
            progress=None if report is None else (lambda done, n: report(names, done, n)),
        )
        if not results:
            first = "; ".join(f"{u.name}: {u.why}" for u in unusable[:3])
            raise DataError(f"none of {len(unusable)} patches can be used: {first}")
        for row in rows:
            self.facts[row.name] = {**row.facts(), "pass_seconds": round(time.monotonic() - started, 1)}
            if row.name == "mean_colour":  # after the other baselines
                self.facts["real"] = {"kind": "baseline", "note": "the real IHC of the neighbouring section"}
        # The first pass decides which patches can be used; the others go over just those.
        if not self.results:
            self.results, self.unusable = results, unusable
            self._refs = [r.ref for r in results]
            return
        if unusable:
            raise DataError(f"{unusable[0].name} could be read before and cannot now ({unusable[0].why})")
        for kept, new in zip(self.results, results, strict=True):
            kept.measures.systems |= new.measures.systems
            kept.measures.cell_od |= new.measures.cell_od
            kept.features |= new.features
            kept.pictures |= new.pictures

    def sheets(self) -> list[PatchResult]:
        """The patches with pictures."""
        return [r for r in self.results if r.pictures]

    def column(self, system: str, metric: str) -> NDArray[np.float64]:
        """A per-picture metric of one system, float (n,)."""
        return np.array([r.measures.systems[system].get(metric, np.nan) for r in self.results])

    def real(self, metric: str) -> NDArray[np.float64]:
        """A per-picture number of the real IHC, float (n,)."""
        return np.array([r.measures.real.get(metric, np.nan) for r in self.results])

    def features(self, system: str, net: str) -> NDArray[np.float32]:
        """Features of one network, float (n, d)."""
        return np.stack([r.features[system][net] for r in self.results])


def results_of(runs: Runs, deep: DeepMetrics, truth: PhantomTruth | None, marker: Marker, seed: int) -> Results:
    """The tables of all rows of `runs`, and what they were measured on."""
    # What all systems share: slides, levels, the real pictures' numbers, and the phantom's cells.
    slides = [r.ref.slide for r in runs.results]
    levels = sorted({r.ref.level for r in runs.results if r.ref.level is not None})
    everything = np.arange(len(slides))
    real = {k: runs.real(k) for k in runs.results[0].measures.real}
    cells = (
        gather_cells(truth, [r.ref for r in runs.results], [r.measures.cell_od for r in runs.results])
        if truth
        else None
    )

    # One table a system over everything, and one a level.
    systems: dict[str, Any] = {}
    for name, facts in runs.facts.items():
        columns = _columns(runs, name, deep)
        table = _table(runs, name, columns, real, everything, slides, deep, seed)
        if cells is not None:
            table |= cell_table(cells, name, slides, marker, seed=seed)
        by_level = {}
        for level in levels:
            pick = np.array([i for i, r in enumerate(runs.results) if r.ref.level == level])
            by_level[level] = _table(runs, name, columns, real, pick, [slides[i] for i in pick], deep, seed)
        systems[name] = {
            "label": LONG_NAMES.get(name, name),
            **facts,
            "metrics": _json_table(table),
            "levels": {level: _json_table(t) for level, t in by_level.items()},
            "slides": _by_slide(slides, columns, real),
            "psnr_infinite": int(np.isinf(columns.get("psnr", np.zeros(0))).sum()),
        }

    # Made for what it says about intervals, not for its draws.
    boot = SlideBootstrap(slides, draws=1)
    sizes = sorted({r.size for r in runs.results})
    return {
        "wsistain_version": __version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": {
            "marker": marker.name,
            "marker_definition": marker.facts(),
            "n_pairs": len(slides),
            "n_slides": len({s for s in slides if s is not None}),
            "levels": {level: sum(r.ref.level == level for r in runs.results) for level in levels},
            "sizes": [f"{h} x {w}" for h, w in sizes],
            "pictures_sha256": hashlib.sha256("".join(sorted(r.digest for r in runs.results)).encode()).hexdigest(),
            "unreadable": [{"name": u.name, "why": u.why} for u in runs.unusable],
        },
        "systems": systems,
        "truth": truth_facts(truth, cells) if truth is not None and cells is not None else None,
        "missing": _missing(deep),
        "networks": deep.files,
        "metrics": {name: asdict(m) for name, m in METRICS.items()},
        "notes": _notes(runs, boot, len(slides)),
    }


def _columns(runs: Runs, name: str, deep: DeepMetrics) -> dict[str, NDArray[np.float64]]:
    """Every per-picture number of one system."""
    columns = {m: runs.column(name, m) for m in runs.results[0].measures.systems[name]}
    if deep.phv_net is not None and name != "real":
        widths = [w * runs.features(name, "phv").shape[1] // 3840 for w in (256, 512, 1024, 2048)]
        values = phv(runs.features(name, "phv"), runs.features("real", "phv"), widths=widths)
        columns |= {f"phv_{k + 1}": values[:, k] for k in range(4)}
        columns["phv_avg"] = values.mean(axis=1)
    return columns


def _table(
    runs: Runs,
    name: str,
    columns: Mapping[str, NDArray[np.float64]],
    real: Mapping[str, NDArray[np.float64]],
    pick: NDArray[np.int64],
    slides: Sequence[str | None],
    deep: DeepMetrics,
    seed: int,
) -> Table:
    """All statistics of the pictures `pick` of one system."""
    table = summarise(
        {k: v[pick] for k, v in columns.items()}, {k: v[pick] for k, v in real.items()}, slides, seed=seed
    )
    n = len(pick)
    if name == "real":
        return table
    if n >= 2 and deep.fid_net is not None:
        ours, theirs = runs.features(name, "fid")[pick], runs.features("real", "fid")[pick]
        table["fid"] = Estimate(frechet_distance(theirs, ours), None, None, n)
        mean, spread = kernel_distance(theirs, ours, subset_size=1000, seed=seed)
        table["kid"] = Estimate(1000 * mean, None, None, n, 1000 * spread)
    if n >= 2 and deep.kid_net is not None:
        ours, theirs = (asp_subset(runs.features(s, "kid_asp")[pick]) for s in (name, "real"))
        mean, spread = kernel_distance(theirs, ours, seed=seed)
        table["kid_asp"] = Estimate(1000 * mean, None, None, len(ours), 1000 * spread)
    return table


def _json_table(table: Table) -> dict[str, Any]:
    return {name: table[name].as_json() for name in METRICS if name in table}


def _by_slide(
    slides: Sequence[str | None], columns: Mapping[str, NDArray[np.float64]], real: Mapping[str, NDArray[np.float64]]
) -> dict[str, dict[str, float | int | None]]:
    """Mean positive fraction, H-score and SSIM of every slide, for the plots."""
    rows: dict[str, dict[str, float | int | None]] = {}
    for slide in sorted({s for s in slides if s is not None}):
        here = np.array([s == slide for s in slides])
        values = {
            "positive_fraction": columns["positive_fraction"][here].mean(),
            "real_positive_fraction": real["positive_fraction"][here].mean(),
            "h_score": columns["h_score"][here].mean(),
            "real_h_score": real["h_score"][here].mean(),
            **({"ssim": columns["ssim"][here].mean()} if "ssim" in columns else {}),
        }
        rows[slide] = {"n": int(here.sum()), **{k: float(v) for k, v in values.items()}}
    return rows


def _missing(deep: DeepMetrics) -> dict[str, Any]:
    missing = {}
    for name, lack in deep.missing.items():
        for metric in [m for m in METRICS if m == name or (name == "phv" and m.startswith("phv_"))]:
            missing[metric] = {"reason": lack.reason, "commands": list(lack.commands)}
    return missing


def _notes(runs: Runs, boot: SlideBootstrap, n: int) -> list[str]:
    notes = []
    if boot.why_not:
        notes.append(f"No confidence intervals: {boot.why_not}.")
    else:
        notes.append("95 % intervals: bootstrap over slides, 1000 draws (200 for cells); FID and KID have none.")
    if runs.unusable:
        notes.append(f"{len(runs.unusable)} patches could not be used; they are listed in results.json.")
    if n < 2048:
        notes.append(f"FID of {n} pictures is biased upward (2048 dimensions): compare it at equal n only.")
    for name, facts in runs.facts.items():
        seen = facts.get("stained_px", [])
        if runs.size is not None and seen and seen != [f"{runs.size} x {runs.size}"]:
            notes.append(
                f"{name} stains at {facts['mpp']} um per px: it was given patches of {', '.join(seen)} px, and what it "
                f"returned was resized to {runs.size} px."
            )
        elif runs.size is None and facts.get("patches_resampled_by", 1.0) != 1.0:
            notes.append(
                f"{name} stains at {facts['mpp']} um per px: patches were resampled by {facts['patches_resampled_by']} "
                "for it and back."
            )
        if facts.get("note") and facts["kind"] == "weights":
            notes.append(f"{name}: {facts['note']}")
    return notes


def pair_rows(runs: Runs) -> list[dict[str, Any]]:
    """One row a picture and system with every per-picture number, for pairs.csv."""
    rows = []
    for result in runs.results:
        known = {"name": result.ref.name, "slide": result.ref.slide or "", "level": result.ref.level or ""}
        real = {f"real_{k}": v for k, v in result.measures.real.items()}
        for system, values in result.measures.systems.items():
            rows.append({**known, "system": system, **values, **real})
    return rows


def write_results(
    results: Results, folder: Path, rows: Sequence[Mapping[str, Any]], shown: Sequence[PatchResult] = ()
) -> None:
    """Write the files of a report; results.json comes last, so that a folder that has it is complete.

    Raises OutputError when the folder cannot be written.
    """
    texts = {
        "pairs.csv": pairs_to_csv(rows),
        "results.csv": to_csv(results),
        "results.md": to_markdown(results),
        "report.html": to_html(results, rows, shown),
        "results.json": json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
    }
    with reporting(folder, retry="run again"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_text(folder / name, text)
