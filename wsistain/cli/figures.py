"""`wsistain figures`: the papers' figures of one's own patches and weights."""

from pathlib import Path
from typing import Literal

import typer

from wsistain.config import Layout
from wsistain.runtime.say import say

HELP = """
Draw the papers' figures of your own patches: t-SNE of H&E and IHC features (USIGAN, Fig. 3), R_c against R_p (Fig. 6),
focal density and masks of the DAB, the transport plan, and the attention map.

Examples:

  wsistain figures --data MIST --marker ER --weights runs/usigan runs/cut --results report --output figures

  wsistain figures --data MIST --marker ER --only masks --output figures

What lacks something (a network, weights, a report) is left out and said; named with --only it is an error.
"""


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("figures", help=HELP)(figures)


def figures(
    more: list[str] | None = typer.Argument(None, metavar="[MORE]...", help="Further names for --weights."),
    data: Path = typer.Option(..., "--data", "-d", help="Folder of the patch data set."),
    weights: list[str] | None = typer.Option(
        None, "--weights", "-w", help="Weights: file, folder, folder of runs, hub id, or built-in name; repeatable."
    ),
    results: Path | None = typer.Option(None, "--results", help="Report of 'wsistain evaluate', for R_c against R_p."),
    layout: Layout = typer.Option("mist", "--layout", help="How the patches lie there."),
    marker: str = typer.Option("ER", "--marker", "-m", help="Marker that is stained."),
    split: Literal["train", "val", "test"] = typer.Option("val", "--split", help="Which patches."),
    only: str | None = typer.Option(None, "--only", help="Some of tsne,correlations,masks,plan,attention."),
    output: Path = typer.Option(Path("figures"), "--output", "-o", help="Folder of the pictures."),
    nets: Path | None = typer.Option(
        None, "--nets", help="Folder of published network files.  [default: WSISTAIN_MODELS or the cache]"
    ),
    device: str = typer.Option("auto", "--device", help="auto, cpu, cuda or cuda:N."),
    mpp: float | None = typer.Option(None, "--mpp", help="um per px of the patches."),
    patches: int = typer.Option(4, "--patches", min=1, max=200, help="Patches of masks, plan and attention."),
    points: int = typer.Option(200, "--points", min=4, help="Pairs of the t-SNE."),
    seed: int = typer.Option(0, "--seed", help="Seed of the t-SNE."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Draw into a folder that holds pictures already."),
) -> None:
    """Draw figures; see HELP for the help text."""
    from wsistain.errors import ConfigError, OutputError
    from wsistain.evaluation.chosen import Wanted, choose_patches
    from wsistain.evaluation.figures import FIGURES, Wish, draw_figures
    from wsistain.evaluation.rows import find_candidates
    from wsistain.generators.network import choose_device
    from wsistain.markers import find_marker
    from wsistain.runtime.files import local_path

    known = find_marker(marker)
    names = [n.strip() for n in only.split(",") if n.strip()] if only else list(FIGURES)
    folder = local_path(output)
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise OutputError(f"{folder} is not empty; choose another --output or pass --overwrite")
    candidates = find_candidates([*(weights or []), *(more or [])], known.name)
    chosen = choose_patches(Wanted(data, layout, known, split, mpp=mpp), candidates)
    wish = Wish(chosen, known, candidates, folder, results, nets, str(choose_device(device)), patches, points, seed)
    drawn = draw_figures(wish, names)
    for warning in chosen.warnings:
        say(f"note: {warning}")
    for figure in drawn:
        say(f"{figure.name}: " + (f"not drawn: {figure.why_not}" if figure.why_not else _files(figure.files)))
    lacking = [figure for figure in drawn if figure.why_not]
    if only and lacking:
        raise ConfigError(f"{lacking[0].name} could not be drawn: {lacking[0].why_not}")


def _files(paths: tuple[Path, ...]) -> str:
    return f"{paths[0]}" + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
