"""`wsistain evaluate`: metrics of weights on patches, of finished slides, and leaderboards."""

from pathlib import Path
from typing import Any, Literal

import typer

from wsistain.config import Layout
from wsistain.runtime.say import say

HELP = """
Measure weights on patches, or finished slides, and write results.json, results.csv, results.md and report.html.

Examples:

  wsistain evaluate --weights runs/cut runs/usigan --data MIST --layout mist --marker ER --split val --output report

  wsistain evaluate runs/cut --output report

  wsistain evaluate --data MIST --marker ER --pictures made/by/others --output report

  wsistain evaluate --slides a.ER.ome.zarr --reference a_ihc.svs --output report

  wsistain evaluate --leaderboard reports --output board

  wsistain evaluate --grid runs/usigan-table-4 --data MIST --output table-4

--weights and --slides take one or several names; a folder of runs stands for all of them. Data, layout and marker that are
not said are those of the first run. Identity and mean-colour
transfer are always in the table. Metrics whose published networks are not at hand are listed with the command that
fetches them.
"""


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("evaluate", help=HELP)(evaluate)


def evaluate(
    more: list[str] | None = typer.Argument(None, metavar="[MORE]...", help="Further names for --weights or --slides."),
    weights: list[str] | None = typer.Option(
        None, "--weights", "-w", help="Weights: file, folder, folder of runs, hub id, or built-in name; repeatable."
    ),
    data: Path | None = typer.Option(None, "--data", "-d", help="Folder of the patch data set."),
    layout: Layout | None = typer.Option(
        None, "--layout", help="How the patches lie there.  [default: that of the run, else mist]"
    ),
    marker: str | None = typer.Option(
        None, "--marker", "-m", help="Marker that is stained.  [default: that of the run, else ER]"
    ),
    split: Literal["train", "val", "test", "slide"] | None = typer.Option(
        None, "--split", help="Which patches; slide: of slides that no weights saw.  [default: val]"
    ),
    output: Path = typer.Option(Path("evaluation"), "--output", "-o", help="Folder of the report."),
    nets: Path | None = typer.Option(
        None, "--nets", help="Folder of published network files.  [default: WSISTAIN_MODELS or the cache]"
    ),
    device: str = typer.Option("auto", "--device", help="auto, cpu, cuda or cuda:N."),
    size: int | None = typer.Option(
        None, "--size", help="Edge of the pictures that are stained and measured (OT-StainNet: 256)."
    ),
    mpp: float | None = typer.Option(None, "--mpp", help="um per px of the patches (slides: of one that has none)."),
    val_share: float | None = typer.Option(
        None, "--val-share", help="Share of patients held out, in ihc4bc.  [default: that of the weights]"
    ),
    split_seed: int | None = typer.Option(
        None, "--split-seed", help="Which patients those are.  [default: that of the weights]"
    ),
    limit: int | None = typer.Option(None, "--limit", help="At most so many patches, evenly spaced."),
    pictures: list[str] | None = typer.Option(
        None,
        "--pictures",
        metavar="FOLDER",
        help="Folder of pictures that another program made, measured too; repeatable. A number: patches shown in the report.",
    ),
    workers: int | None = typer.Option(
        None, "--workers", min=1, max=256, help="Measuring processes.  [default: one a core]"
    ),
    sets: list[str] | None = typer.Option(
        None, "--set", help="How diffusion models stain, as --set sampling.n_steps=300; repeatable."
    ),
    seed: int = typer.Option(0, "--seed", help="Seed of bootstrap and KID subsets."),
    slides: list[str] | None = typer.Option(None, "--slides", help="Finished slides (OUT.ome.zarr); repeatable."),
    reference: str | None = typer.Option(None, "--reference", help="Real IHC slide to register to the virtual one."),
    board: Path | None = typer.Option(None, "--leaderboard", help="Folder of earlier results to put side by side."),
    grid: Path | None = typer.Option(
        None, "--grid", help="Folder of 'wsistain train --grid': its rows as the paper's table (with --data)."
    ),
    any_stain: bool = typer.Option(False, "--any-stain", help="Measure also where the H&E does not look like H&E."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace results that are there."),
) -> None:
    """Measure weights or slides; see HELP for the help text."""
    from wsistain.errors import ConfigError

    # What is not said is that of the run whose weights are named.
    weights, more = _named(weights, more, slides)
    run: dict[str, Any] = _of_run(weights[0]) if weights and not (slides or board or grid) else {}
    data = run.get("data") if data is None else data
    of_marker: str = marker or run.get("marker", "ER")
    # One thing at a time: patches, slides, or earlier results side by side.
    jobs = [name for name, given in (("--data", data), ("--slides", slides), ("--leaderboard", board)) if given]
    if len(jobs) != 1:
        found = " and ".join(jobs) or "none of them"
        raise ConfigError(f"give one of --data (with --weights), --slides or --leaderboard; found {found}")
    if slides:
        _measure_slides(
            [*slides, *(more or [])], reference=reference, output=output, marker=of_marker, mpp=mpp, overwrite=overwrite
        )
    elif board:
        from wsistain.evaluation.leaderboard import leaderboard

        merged = leaderboard(board, output, overwrite=overwrite)
        say(f"{len(merged['systems'])} rows")
    else:
        shown = [int(p) for p in pictures or [] if p.isdigit()]
        is_table = _measure_patches(
            [*(weights or []), *(more or [])],
            data,
            grid,
            output,
            marker=of_marker,
            layout=layout or run.get("layout", "mist"),
            split=split or run.get("split", "val"),
            nets=nets,
            device=device,
            size=size,
            mpp=mpp,
            val_share=val_share,
            split_seed=split_seed,
            limit=limit,
            pictures=shown[-1] if shown else 6,
            given=[p for p in pictures or [] if not p.isdigit()],
            workers=workers,
            seed=seed,
            sampling=_sampling(sets or []),
            any_stain=any_stain,
            overwrite=overwrite,
        )
        if is_table:
            return
    say(f"report: {output / 'report.html'}")


def _named(
    weights: list[str] | None, more: list[str] | None, slides: list[str] | None
) -> tuple[list[str] | None, list[str] | None]:
    """Weights, and the names without an option: runs without `--weights` are weights. ConfigError for what is neither."""
    from wsistain.errors import ConfigError

    if not more or weights or slides:
        return weights, more
    strays = [name for name in more if not Path(name.removesuffix("@best").removesuffix("@last")).exists()]
    if strays:
        raise ConfigError(
            f"{strays[0]!r} belongs to no option, and no run lies there; weights come after --weights, slides after --slides"
        )
    return more, None


def _measure_slides(slides: list[str], **given: Any) -> None:
    """Finished slides, each by itself and against a real one; `given` is for `evaluate_slides`."""
    from wsistain.evaluation.slides import evaluate_slides
    from wsistain.runtime.progress import ProgressBar

    with ProgressBar("rows") as progress:
        report = evaluate_slides(slides, progress=progress, **given)
    say(_slide_line(report))


def _measure_patches(
    weights: list[str], data: Path | None, grid: Path | None, output: Path, *, marker: str, **given: Any
) -> bool:
    """One list of weights, or the rows of a grid, marker by marker, into folders of their own; whether it was a grid.

    `given` is for `evaluation.report.evaluate`.
    """
    from wsistain.errors import ConfigError
    from wsistain.evaluation.report import evaluate as evaluate_patches
    from wsistain.runtime.progress import ProgressBar

    if not weights and grid is None and not given["given"]:
        raise ConfigError("--weights is missing; name weights, or 'identity' for the baselines alone")
    if data is None:
        raise ConfigError("--data is missing; name the folder of the patches")
    root = data

    def measure(names: list[str], of: str, folder: Path) -> dict[str, Any]:
        with ProgressBar("patches") as progress:
            return evaluate_patches(names, root, marker=of, output=folder, progress=progress, **given)

    if grid is None:
        _print_results(measure(weights, marker, output))
        return False
    from wsistain.evaluation.grid_table import evaluate_grid

    if weights:
        raise ConfigError("give --weights or --grid, not both")
    text, missing = evaluate_grid(grid, output, measure)
    say(text)
    say(f"table: {output / 'table.md'}" + (f" ({len(missing)} rows are not trained yet)" if missing else ""))
    return True


def _of_run(name: str) -> dict[str, Any]:
    """What a run's folder says of its data (data, layout, marker, split); {} for a name that is no run."""
    from wsistain.config import TrainConfig, load_config

    folder = Path(name.removesuffix("@best").removesuffix("@last"))
    folder = folder.parent if folder.is_file() else folder
    if not (folder / "config.yaml").is_file() or not (folder / "weights.safetensors").is_file():
        return {}
    cfg = load_config(TrainConfig, folder / "config.yaml")
    split = "val" if cfg.data.split == "official" else "slide"
    first = cfg.marker.split(",")[0].strip()
    return {"data": Path(cfg.data.root).expanduser(), "layout": cfg.data.layout, "marker": first, "split": split}


def _sampling(overrides: list[str]) -> dict[str, Any]:
    """The sampling options among "sampling.key=value"; ConfigError on any other key."""
    from wsistain.config import apply_overrides
    from wsistain.errors import ConfigError

    values = apply_overrides({}, overrides)
    sampling = values.pop("sampling", {})
    if values or not isinstance(sampling, dict):
        raise ConfigError(
            f"--set {next(iter(values), 'sampling')} is not known here; evaluate takes sampling.KEY=VALUE"
        )
    return sampling


def _print_results(results: dict[str, Any]) -> None:
    """The papers' table on the terminal, and one line each for what is missing or unreadable."""
    from rich.console import Console
    from rich.table import Table

    from wsistain.errors import shown
    from wsistain.evaluation.metrics import METRICS
    from wsistain.evaluation.tables import formatted, missing_by_reason

    names = ["ssim", "psnr", "css", "fid", "r_c", "r_p", "area_r", "positive_fraction", "cell_auc"]
    names = [n for n in names if any(n in s["metrics"] for s in results["systems"].values())]
    table = Table(box=None)
    table.add_column("")
    for name in names:
        table.add_column(METRICS[name].label, justify="right")
    for system in results["systems"].values():
        values = (system["metrics"].get(n, {}).get("value") for n in names)
        table.add_row(shown(system["label"]), *(formatted(v, METRICS[n]) for v, n in zip(values, names, strict=True)))
    Console(width=max(100, Console().width)).print(table)
    for warning in results["warnings"]:
        say(f"note: {warning}")
    for labels, reason, _ in missing_by_reason(results):
        say(f"missing: {', '.join(labels)}: {reason} (commands in the report)")
    unreadable = results["data"]["unreadable"]
    if unreadable:
        first = "; ".join(f"{u['name']}: {u['why']}" for u in unreadable[:3])
        say(f"{len(unreadable)} patches could not be used: {first}")


def _slide_line(report: dict[str, Any]) -> str:
    lines = []
    for slide in report["slides"]:
        seam = "–" if slide["seam_score"] is None else f"{slide['seam_score']:.3f}"
        positive = "–" if slide["positive_fraction"] is None else f"{100 * slide['positive_fraction']:.1f} %"
        lines.append(
            f"{slide['name']}: seam score {seam}, positive {positive} of tissue, {slide['tissue_mm2']:.2f} mm2 tissue"
        )
        lines += [f"Note: {note}" for note in slide.get("notes", ())]
    return "\n".join(lines)
