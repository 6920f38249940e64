"""`wsistain weights`: what is installed, what can be fetched, and how to convert what others have published."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from wsistain.config import Direction
from wsistain.runtime.say import say

if TYPE_CHECKING:
    from wsistain.weights.importing import ImportReport

group = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="rich")

HELP = "List, show, fetch, import and hand on the weights of generators."
LIST_HELP = """
List the weights that are built in or installed, and those that can be fetched.

Example:

  wsistain weights list --marker ER
"""
SHOW_HELP = """
Show what is known of weights: system, marker, um per px, training data, licence.

Example:

  wsistain weights show usigan-er

  wsistain weights show runs/cut --card --results report/results.json > README.md
"""
IMPORT_HELP = """
Convert a published checkpoint (CUT, ASP, USIGAN, PSPStain, CycleGAN, Pix2Pix, PyramidP2P, ATST-Net, img2img-turbo,
UNIStainNet, HistDiST, D-VST) to weights that 'run' loads.

Every tensor is matched, or nothing is written. Checkpoints are read without running code.

Example:

  wsistain weights import latest_net_G.pth --as asp-er
  wsistain weights import latest_net_G.pth --as cut --marker ER --mpp 0.4661
"""
FETCH_HELP = """
Download published weights, show their licence and ask, convert them, and say how to run them.

Example:

  wsistain weights fetch usigan-er
"""


BANK_HELP = """
Write into weights what their training pictures look like and what the network sees in them, for the trust map.

Weights of 'train' keep it by themselves. The network's own numbers stay as they are, but the file is another one: stains
made with it before are not of it.

Example:

  wsistain weights bank runs/cut data/MIST/ER/TrainValAB/trainA --output runs/cut-banked.safetensors
"""
SET_HELP = """
Change an option of trained weights that says how they stain, in a copy of the file; nothing is trained again.

Of LPStain: widest_um, the edge (um) of the square over which what is as sure a nucleus takes no DAB; 0: it does. near_um and
own, the standard deviation (um) of the neighbourhood that a place's chance is drawn to, and how much is left of what sets it off.
white_glass, whether clear glass is white or has the laboratory's ground.

Example:

  wsistain weights set runs/lpstain widest_um=13 --output runs/lpstain-narrow.safetensors
"""
PUSH_HELP = """
Prepare a folder for a hub repository: the weights and their model card. Nothing is sent anywhere.

Example:

  wsistain weights push runs/cut --results report/results.json --output hub/cut --repo lab/cut-er
"""


def register(app: typer.Typer) -> None:
    """Add the command group to `app`."""
    group.command("list", help=LIST_HELP)(list_weights)
    group.command("show", help=SHOW_HELP)(show)
    group.command("import", help=IMPORT_HELP)(import_weights)
    group.command("fetch", help=FETCH_HELP)(fetch)
    group.command("push", help=PUSH_HELP)(push)
    group.command("bank", help=BANK_HELP)(bank)
    group.command("set", help=SET_HELP)(set_)
    app.add_typer(group, name="weights", help=HELP)


def _print_rows(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    say(title)
    widths = [max(len(r[i]) for r in (columns, *rows)) for i in range(len(columns))]
    for row in (columns, *rows):
        say("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def list_weights(
    marker: str | None = typer.Option(None, "--marker", "-m", help="Only those that stain this marker."),
) -> None:
    """List weights; see LIST_HELP."""
    from wsistain.errors import WeightsError
    from wsistain.markers import find_marker
    from wsistain.published.catalogue import CATALOGUE, installed_files, installed_folder
    from wsistain.weights.file import read_header
    from wsistain.weights.find import shipped_folder

    wanted = find_marker(marker).name if marker else None
    rows: list[tuple[str, ...]] = []
    if wanted is None:
        rows.append(("identity", "-", "every", "-", "none: returns the H&E"))
    shipped = {p.stem: p for p in sorted(shipped_folder().glob("*.safetensors"))}
    damaged = []
    for name, path in {**shipped, **installed_files()}.items():
        try:
            header = read_header(path)
        except WeightsError as error:
            damaged.append(f"  {name}: {error}")
            continue
        if wanted is None or wanted in header.markers:
            rows.append((name, header.system, ",".join(header.markers), f"{header.mpp:g}", header.training_data))
    _print_rows("Here:", ("name", "system", "marker", "um/px", "training data"), rows)
    for line in damaged:
        say(line)
    entries = [
        e for e in CATALOGUE.values() if e.name not in installed_files() and (wanted is None or wanted in e.markers)
    ]
    columns = ("name", "system", "marker", "um/px", "how", "licence")
    _print_rows(
        "\nPublished by others (wsistain weights show NAME):",
        columns,
        [
            (e.name, e.system, e.marker, f"{e.mpp:g}" if e.mpp else "?", "fetch" if e.hub else "browser", e.licence)
            for e in entries
        ],
    )
    say(f"\nInstalled weights lie in {installed_folder()}")


def show(
    name: str = typer.Argument(..., help="A name of 'weights list', a weights file, or the folder of a run."),
    card: bool = typer.Option(False, "--card", help="Print a model card (Markdown, as Hugging Face's hub wants it)."),
    results: Path | None = typer.Option(None, "--results", help="results.json of 'evaluate', for the card."),
) -> None:
    """Show weights; see SHOW_HELP."""
    from wsistain.errors import WeightsError

    if results is not None and not card:
        raise WeightsError("--results is for the card: pass --card too")
    if card:
        from wsistain.weights.card import model_card

        say(model_card(_file_of(name), results))
        return
    from wsistain.published.catalogue import CATALOGUE, find_published
    from wsistain.weights.file import read_header

    path = _here(name)
    if path is not None:
        header = read_header(path)
        facts: dict[str, object] = {"file": path, **header.model_dump(exclude={"format", "familiar", "features"})}
        for what, kept in (("familiar", header.familiar), ("features", header.features)):
            facts[what] = "not kept" if kept is None else f"{len(kept.bank)} squares of training pictures"
        ending = f"wsistain run SLIDE --marker {header.markers[0]} --weights {name}"
    else:
        entry = find_published(name)
        facts = {k: v for k, v in vars(entry).items() if v is not None and v != "" and k != "dataset"}
        facts["mpp"] = entry.mpp if entry.mpp is not None else "not stated: pass --mpp"
        ending = (
            f"wsistain weights fetch {name}"
            if CATALOGUE[name].hub
            else f"save the generator's checkpoint with a browser, then: wsistain weights import FILE --as {name}"
        )
    for key, value in facts.items():
        say(f"{key:>18}  {', '.join(map(str, value)) if isinstance(value, list) else value}")
    say(ending)


def _here(name: str) -> Path | None:
    """The file of weights that `name` means here, None where it means none; WeightsError for a run that lacks it."""
    from wsistain.published.catalogue import installed_files
    from wsistain.weights.find import chosen_of_run, run_weights, shipped_folder

    chosen, shipped = chosen_of_run(name), shipped_folder() / f"{name}.safetensors"
    found = next((path for path in (Path(name), run_weights(Path(name))) if path.is_file()), chosen)
    return found or installed_files().get(name, shipped if shipped.is_file() else None)


def _file_of(name: str) -> Path:
    """The file of weights that are here: a file, the folder of a run, an installed or shipped name. Raises WeightsError."""
    from wsistain.errors import WeightsError

    found = _here(name)
    if found is None:
        raise WeightsError(
            f"there are no weights {name} here; name a file, the folder of a run, or a name of 'weights list'"
        )
    return found


def bank(
    name: str = typer.Argument(
        ..., metavar="WEIGHTS", help="A weights file, the folder of a run, or an installed name."
    ),
    pictures: Path = typer.Argument(..., help="Folder of H&E pictures that they were trained on, at their um per px."),
    output: Path | None = typer.Option(None, "--output", "-o", help="Another file. Default: the weights themselves."),
) -> None:
    """Add a bank; see BANK_HELP."""
    from wsistain.training.bank import add_bank

    path = _file_of(name)
    looks, features = add_bank(path, pictures, output)
    say(f"{output or path}: {looks} squares by their looks, {features} by what the network sees")


def set_(
    name: str = typer.Argument(
        ..., metavar="WEIGHTS", help="A weights file, the folder of a run, or an installed name."
    ),
    changes: list[str] = typer.Argument(..., metavar="KEY=VALUE...", help="What is to be changed."),
    output: Path = typer.Option(..., "--output", "-o", help="The file to write."),
) -> None:
    """Set options; see SET_HELP."""
    from wsistain.weights.adjust import set_options

    set_options(_file_of(name), changes, output)
    say(f"{output}: {', '.join(changes)}")


def push(
    name: str = typer.Argument(..., help="A weights file, the folder of a run, or a name of 'weights list'."),
    output: Path = typer.Option(..., "--output", "-o", help="Folder to prepare."),
    repository: str = typer.Option(
        "OWNER/NAME", "--repo", help="Hub repository that it is for; only named, not written to."
    ),
    results: Path | None = typer.Option(None, "--results", help="results.json of 'evaluate', for the card."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Write into a folder that is not empty."),
) -> None:
    """Prepare a hub folder; see PUSH_HELP."""
    from wsistain.weights.card import hub_folder

    say(
        f"{hub_folder(_file_of(name), output, results=results, overwrite=overwrite)}: weights.safetensors and README.md, the card"
    )
    say("read the card, add what it cannot know, and upload it yourself:")
    say(f"hf upload {repository} {output}")


def _report(name: str, report: "ImportReport") -> None:
    from wsistain.weights.file import read_header

    header = read_header(report.path)
    folded = f", {report.n_folded} spectrally normalised kernels folded" if report.n_folded else ""
    say(f"{report.n_tensors} tensors matched{folded}, none missing")
    if report.surplus:
        say(f"{len(report.surplus)} left out because the network computes them itself: {', '.join(report.surplus)}")
    say(f"licence: {header.licence}")
    say(f"run: wsistain run SLIDE --marker {header.markers[0]} --weights {name}")
    say(f"weights: {report.path}")


def import_weights(
    file: Path = typer.Argument(
        ..., help="Checkpoint of the generator, such as latest_net_G.pth; of HistDiST its folder."
    ),
    name: str = typer.Option(
        ..., "--as", help="Published weights ('weights list') or a system (cut, asp, histdist, dvst, ...)."
    ),
    marker: str | None = typer.Option(None, "--marker", "-m", help="What it stains."),
    mpp: float | None = typer.Option(None, "--mpp", help="um per px that it was trained at."),
    tile: int | None = typer.Option(None, "--tile", help="Edge of the tiles that it stains in one pass, px."),
    licence: str | None = typer.Option(None, "--licence", help="Licence of the weights, in words."),
    training_data: str | None = typer.Option(None, "--training-data", help="What it was trained on, in words."),
    direction: Direction = typer.Option("he-to-ihc", "--direction", help="What is stained into what."),
    prompt: str | None = typer.Option(None, "--prompt", help="Text that a turbo checkpoint was trained with."),
    reference: Path | None = typer.Option(
        None, "--reference", help="A patch of the wanted stain, whose tone D-VST takes."
    ),
    output: Path | None = typer.Option(
        None, "--output", "-o", help="File to write; default: where 'run' finds it by name."
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace weights of that name."),
) -> None:
    """Import a checkpoint; see IMPORT_HELP."""
    from wsistain.data.pictures import read_picture
    from wsistain.weights.importing import import_checkpoint

    report = import_checkpoint(
        file,
        name,
        marker=marker,
        mpp=mpp,
        tile_px=tile,
        licence=licence,
        training_data=training_data,
        direction=direction,
        prompt=prompt,
        reference=read_picture(reference) if reference is not None else None,
        output=output,
        overwrite=overwrite,
    )
    _report(str(report.path) if output else report.path.stem, report)


def fetch(
    name: str = typer.Argument(..., help="Published weights ('weights list')."),
    accept_license: bool = typer.Option(False, "--accept-license", help="Accept the licence without being asked."),
    mpp: float | None = typer.Option(None, "--mpp", help="um per px that it was trained at, where it is not known."),
    file: str | None = typer.Option(None, "--file", help="The checkpoint among the published files."),
    folder: Path | None = typer.Option(
        None, "--from", help="A folder with the published files, instead of the network."
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace weights of that name."),
) -> None:
    """Fetch weights; see FETCH_HELP."""
    import sys

    from wsistain.errors import OutputError, WeightsError
    from wsistain.published.catalogue import find_published, installed_folder
    from wsistain.published.fetch import fetch_checkpoint
    from wsistain.weights.file import SUFFIX

    entry = find_published(name)
    if entry.hub is None and folder is None:
        fetch_checkpoint(entry)  # says where to go
    if (installed_folder() / f"{name}{SUFFIX}").exists() and not overwrite:
        raise OutputError(f"{name} is installed already; pass --overwrite to fetch it again")
    if entry.mpp is None and mpp is None:
        raise WeightsError(f"{name}: {entry.note or 'its um per px is not known'}; pass --mpp")
    say(f"{entry.method}, {entry.marker}, trained on {entry.training_data}")
    say(f"licence: {entry.licence}\npublished at {entry.page}")
    if not accept_license:
        if not sys.stdin.isatty():
            raise WeightsError(f"the licence of {name} has to be accepted: pass --accept-license")
        if not typer.confirm("Do you accept this licence?"):
            raise WeightsError(f"the licence of {name} was not accepted; nothing was fetched")
    checkpoint = fetch_checkpoint(entry, folder=folder, file=file)

    from wsistain.weights.importing import import_checkpoint

    _report(name, import_checkpoint(checkpoint, name, mpp=mpp, overwrite=overwrite))
