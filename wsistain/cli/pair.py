"""`wsistain pair`: two slides of one block registered, and patches of both."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from wsistain.config import MIST_MPP
from wsistain.runtime.say import note, say

if TYPE_CHECKING:
    from wsistain.pairing.run import PairJob

HELP = """
Register an H&E slide and an IHC slide of one block, and cut patches that lie over each other, in MIST's layout, with what
was measured of each.

Examples:

  wsistain pair he.svs er.svs --marker ER --output data/ours --patient P07

  wsistain pair pairs.tsv --marker ER --output data/ours

A sheet has the columns he and ihc and, where wanted, slide, marker, patient, part, he_mpp and ihc_mpp. Look at
<output>/<MARKER>/pairs/<slide>/page.html before you train on the patches.
"""


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("pair", help=HELP)(pair)


def pair(
    he: Path = typer.Argument(..., metavar="HE", help="H&E slide, or a sample sheet of pairs (.tsv, .csv)."),
    ihc: Path | None = typer.Argument(None, metavar="[IHC]", help="IHC slide of the same block."),
    marker: str = typer.Option("ER", "--marker", "-m", help="What the IHC shows ('wsistain markers' lists them)."),
    output: Path = typer.Option(Path("pairs"), "--output", "-o", help="Folder that receives <MARKER>/TrainValAB."),
    name: str | None = typer.Option(None, "--name", help="Of the pair in files and manifest. Default: the H&E's."),
    patient: str | None = typer.Option(None, "--patient", help="Whose slide it is. Default: the slide's name."),
    part: Literal["auto", "train", "val"] = typer.Option(
        "auto", "--part", help="auto: one patient in five to val, by its name."
    ),
    patch_mpp: float = typer.Option(MIST_MPP, "--patch-mpp", help="um per px of the patches; MIST's by default."),
    patch_size: int = typer.Option(1024, "--patch-size", help="Edge of a patch, px."),
    tissue: float = typer.Option(0.5, "--tissue", help="Patches with less tissue than this share are not cut."),
    he_mpp: float | None = typer.Option(None, "--he-mpp", help="um per px of an H&E slide that does not say."),
    ihc_mpp: float | None = typer.Option(None, "--ihc-mpp", help="um per px of an IHC slide that does not say."),
    transform: Path | None = typer.Option(
        None, "--transform", metavar="FILE.npz", help="An earlier run's transform.npz, instead of registering."
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="Make pairs anew that are there."),
) -> None:
    """Register and cut; see HELP for the help text."""
    from wsistain.batch.pair_sheet import parse_pairs, slide_name
    from wsistain.batch.sheet import ID
    from wsistain.errors import ConfigError
    from wsistain.markers import find_marker
    from wsistain.pairing.run import PairJob

    common: dict[str, Any] = {"mpp": patch_mpp, "size": patch_size, "least_tissue": tissue}
    if ihc is not None:
        name = name or slide_name(he.name)
        if not ID.fullmatch(name):
            raise ConfigError(f"--name {name[:60]!r} is no name; wanted letters, digits, '.', '_' and '-'")
        one = PairJob(
            str(he), str(ihc), find_marker(marker).name, name, patient, part, he_mpp, ihc_mpp, transform=transform,
            **common,
        )  # fmt: skip
        facts = _make(one, output, overwrite)
        say(f"{output / facts['marker'] / 'pairs' / name / 'page.html'}: {_told(facts)}")
        return
    if he.suffix.lower() not in (".tsv", ".csv", ".txt", ".tab"):
        raise ConfigError(f"{he} is alone; name the IHC slide after it, or a sample sheet of pairs (.tsv, .csv)")
    if patient is not None or name is not None or transform is not None:
        raise ConfigError(
            "--patient, --name and --transform are of one pair; a sheet has the columns patient and slide"
        )
    rows = parse_pairs(he, find_marker(marker).name, part)
    of_all = {"he_mpp": he_mpp, "ihc_mpp": ihc_mpp, **common}
    _make_all([PairJob(**{**of_all, **row}) for row in rows], output, overwrite)


def _make(job: "PairJob", output: Path, overwrite: bool) -> dict[str, Any]:
    from wsistain.errors import SlideError
    from wsistain.output.recognise import virtual_stain
    from wsistain.pairing.run import make_pair
    from wsistain.runtime.progress import ProgressBar

    for path in (job.he, job.ihc):
        what = virtual_stain(path)
        if what is not None:
            raise SlideError(f"{path} is {what} that wsistain made; a pair wants two real slides")
    note(f"pair {job.slide}: {job.he} and {job.ihc} ({job.marker}), patches of {job.size} px at {job.mpp:g} um per px")
    with ProgressBar("parts") as show:
        facts = make_pair(job, output, overwrite=overwrite, progress=show)
    for side in ("he", "ihc"):
        for sentence in facts[side]["notes"]:
            note(f"{facts[side]['path']}: {sentence}", err=True)
        if facts[side]["unreadable_tiles"]:
            say(
                f"{facts[side]['path']}: {facts[side]['unreadable_tiles']} native tiles cannot be decoded and are white",
                err=True,
            )
    return facts


def _told(facts: dict[str, Any]) -> str:
    """One line of what became of a pair."""
    sections = ", ".join(_section_told(section, many=facts["ihc"]["pieces"] > 1) for section in facts["sections"])
    return f"{facts['n_patches']} patches ({facts['part']}); {sections}"


def _section_told(section: dict[str, Any], *, many: bool) -> str:
    """How one section lies; which of the IHC slide's it is, where there are several."""
    other = f" is the IHC's {section['ihc_section']}," if many else ":"
    median = section["residual_um"]["median"]
    left = "unknown" if median is None else f"{median:.1f} um"
    face = ", face down" if section["is_mirrored"] else ""
    return f"section {section['section']}{other} turned {section['turn_deg']:z.0f} degrees{face}, residual {left}"


def _make_all(jobs: list["PairJob"], output: Path, overwrite: bool) -> None:
    """Every pair of a sheet; one that fails does not stop the others. Exits 2 where one has failed."""
    from wsistain.errors import WsistainError

    failed = 0
    for job in jobs:
        home = output / job.marker / "pairs" / job.slide
        if home.is_dir() and not overwrite:
            say(f"{job.slide}: there already")
            continue
        try:
            facts = _make(job, output, overwrite)
        except WsistainError as error:
            failed += 1
            say(f"{job.slide}: {error}", err=True)
        else:
            say(f"{job.slide}: {_told(facts)}")
    say(f"{output}: {len(jobs) - failed} of {len(jobs)} pairs")
    if failed:
        raise typer.Exit(2)
