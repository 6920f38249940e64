"""`wsistain phantom slide` and `wsistain phantom patches`: synthetic tissue whose truth is known."""

from pathlib import Path

import typer

from wsistain.config import Pairing, PhantomVersion
from wsistain.runtime.say import note, say

SLIDE = """
Make one synthetic slide, three times: H&E, the IHC of the next section (weak pair), and the IHC of the same
section (aligned truth), with tables of every cell.

Example:

  wsistain phantom slide out/phantom --size 4096 --marker ER --seed 7
"""
PATCHES = """
Make synthetic training patches in MIST's layout, with the aligned truth of the validation set in valTruthB.

Example:

  wsistain phantom patches data/phantom --markers ER,PR --train 200 --val 40 --slides 12 --seed 1 --workers 2
"""


def register(app: typer.Typer) -> None:
    """Add the two commands to `app`, under `phantom`."""
    group = typer.Typer(no_args_is_help=True, help="Synthetic tissue whose cells, markers and alignment are known.")
    group.command("slide", help=SLIDE)(slide)
    group.command("patches", help=PATCHES)(patches)
    app.add_typer(group, name="phantom")


def _size(text: str) -> tuple[int, int]:
    """(height, width) from "4096" or "WxH"."""
    from wsistain.errors import ConfigError

    parts = text.lower().split("x")
    if len(parts) not in (1, 2) or not all(p.strip().isdigit() for p in parts):
        raise ConfigError(f"--size {text!r} is not a size; wanted one number of px such as 4096, or WIDTHxHEIGHT")
    width, height = int(parts[0]), int(parts[-1])
    return height, width


def slide(
    root: Path = typer.Argument(..., metavar="DIR", help="Folder to fill; made if absent."),
    size: str = typer.Option("4096", "--size", help="Edge, px, or WIDTHxHEIGHT."),
    marker: str = typer.Option("ER", "--marker", help="What the IHC shows ('wsistain markers' lists them)."),
    seed: int = typer.Option(0, "--seed", help="Same seed, same bytes."),
    mpp: float = typer.Option(0.5, "--mpp", help="um per px."),
    visibility: float = typer.Option(0.85, "--visibility", help="How much of the expression H&E shows, 0 to 1."),
    contrast: float = typer.Option(
        1.0, "--contrast", help="How plainly nuclei show it; 1 is lifelike, 4 a caricature."
    ),
    pairing: Pairing = typer.Option("mist", "--pairing", help="How section B lies to A."),
    version: PhantomVersion = typer.Option(
        "v0",
        "--version",
        help="Of the phantom: v0, what shipped weights and the benchmark know; v1 is nearer to tissue.",
    ),
    he_only: bool = typer.Option(False, "--he-only", help="The H&E alone: no IHC, no cell tables."),
    workers: int = typer.Option(1, "--workers", min=1, max=256, help="Processes."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Make every file anew."),
) -> None:
    """Make one phantom slide."""
    from wsistain.config import validate
    from wsistain.phantom.config import PhantomConfig
    from wsistain.phantom.products import make_slide
    from wsistain.runtime.progress import ProgressBar

    height, width = _size(size)
    values = {
        "height": height, "width": width, "mpp": mpp, "marker": marker, "seed": seed, "visibility": visibility,
        "contrast": contrast, "pairing": pairing, "version": version,
    }  # fmt: skip
    config = validate(PhantomConfig, values, "phantom slide")
    note(
        f"phantom slide: {width} x {height} px at {mpp} um per px, {config.marker}, seed {seed}, {version}, into {root}"
    )
    with ProgressBar("parts") as show:
        facts = make_slide(root, config, workers=workers, progress=show, overwrite=overwrite, he_only=he_only)
    truth = facts["truth"]
    if truth is None:
        say(f"{root}: he_a.tiff and manifest.json")
        return
    auc = "none (one class only)" if truth["attainable_auc"] is None else f"{truth['attainable_auc']:.3f}"
    say(
        f"{root}: he_a.tiff, ihc_b.tiff, ihc_a.tiff, cell tables and manifest.json; "
        f"{truth['tumour_cells']} tumour cells, best attainable AUC {auc}"
    )


def patches(
    root: Path = typer.Argument(..., metavar="ROOT", help="Folder that receives <MARKER>/TrainValAB."),
    markers: str = typer.Option("ER", "--markers", help="One or several, with commas ('wsistain markers' lists them)."),
    train: int = typer.Option(100, "--train", min=0, help="Training patches a marker."),
    val: int = typer.Option(20, "--val", min=0, help="Validation patches a marker, from other slides."),
    size: int = typer.Option(1024, "--size", help="Edge of a patch, px."),
    slides: int = typer.Option(10, "--slides", min=1, help="Slides a marker, train and val together."),
    seed: int = typer.Option(0, "--seed", help="Same seed, same bytes."),
    mpp: float = typer.Option(0.4661, "--mpp", help="um per px."),
    visibility: float = typer.Option(0.85, "--visibility", help="How much of the expression H&E shows, 0 to 1."),
    contrast: float = typer.Option(
        1.0, "--contrast", help="How plainly nuclei show it; 1 is lifelike, 4 a caricature."
    ),
    pairing: Pairing = typer.Option("mist", "--pairing", help="How section B lies to A."),
    version: PhantomVersion = typer.Option(
        "v0",
        "--version",
        help="Of the phantom: v0, what shipped weights and the benchmark know; v1 is nearer to tissue.",
    ),
    workers: int = typer.Option(1, "--workers", min=1, max=256, help="Processes."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Make every file anew."),
) -> None:
    """Make phantom patches."""
    from wsistain.phantom.products import make_patches
    from wsistain.runtime.progress import ProgressBar

    note(
        f"phantom patches: {train} + {val} of {size} px for {markers} from {slides} slides, seed {seed}, {version}, into {root}"
    )
    with ProgressBar("parts") as show:
        result = make_patches(
            root, markers=markers, train=train, val=val, size=size, slides=slides, seed=seed, mpp=mpp,
            visibility=visibility, contrast=contrast, pairing=pairing, version=version, workers=workers, progress=show,
            overwrite=overwrite,
        )  # fmt: skip
    aucs = []
    for name, facts in result.items():
        auc = facts["truth"]["val" if val else "train"]["attainable_auc"]
        aucs.append(f"{name} {'none' if auc is None else format(auc, '.3f')}")
    say(f"{root}: {', '.join(result)}; best attainable AUC: {', '.join(aucs)}")
