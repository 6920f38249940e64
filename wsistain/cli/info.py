"""`wsistain info`: what a slide is, and what staining it would take."""

from typing import TYPE_CHECKING, Any

import typer

from wsistain.config import Reader
from wsistain.runtime.say import note, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsistain.config import RunConfig
    from wsistain.pipeline.planning import Group
    from wsistain.slide.base import Slide

_LONG_PX = 60_000_000
"""A smallest level with more px takes long to be looked at."""

HELP = """
Show format, size, levels, mpp, what the file holds, tissue share, tiles and expected time of a slide.

Example:

  wsistain info slide.svs
"""


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("info", help=HELP)(info)


def _expected_seconds(slide: "Slide", group: "Group") -> float:
    """Seconds that the run will take here, from reading and staining one tile on one core."""
    import os
    import time

    from wsistain.generators.load import build_generator
    from wsistain.pipeline.tasks import read_tile

    plan = group.plan
    generator = build_generator(group.specs[0])
    tiles = [t for b in plan.blocks() for t in plan.tiles_in(b.row, b.col)]
    seconds = 0.0
    for tile in (tiles[0], tiles[len(tiles) // 2]):  # the first one warms up
        start = time.perf_counter()
        pixels = read_tile(slide, plan, tile)
        generator.stain(pixels[None], [(tile.y_out, tile.x_out)])
        seconds = time.perf_counter() - start
    parallel = (os.cpu_count() or 1) if generator.device == "cpu" else 1
    return round(plan.n_tiles * seconds / parallel, 1)


def _facts(slide: "Slide") -> dict[str, Any]:
    """What the file itself says."""
    facts = slide.info
    return {
        "slide": facts.path,
        "format": facts.vendor,
        "reader": facts.reader,
        "series": facts.series,
        "width_px": facts.size_l0[1],
        "height_px": facts.size_l0[0],
        "mpp": None if facts.problem else facts.mpp,
        "mpp_source": facts.mpp_source,
        "objective_power": facts.power,
        "levels": [{"width": w, "height": h} for h, w in facts.level_sizes],
        "native_tile_px": list(facts.tile_px),
        "fingerprint": facts.fingerprint,
        "holds": [
            {"series": p.series, "what": p.what, "width": p.size[1], "height": p.size[0], "used": p.used}
            for p in facts.parts
        ],
        "notes": list(facts.notes),
    }


def _estimate(slide: "Slide", config: "RunConfig", marker: str) -> "Iterator[dict[str, object]]":
    """What staining takes, in the order in which it becomes known."""
    from wsistain.pipeline.planning import make_spec, plan_groups
    from wsistain.slide.quality import examine

    smallest = slide.info.level_sizes[-1]
    if smallest[0] * smallest[1] > _LONG_PX:
        note(
            f"{slide.info.path} has no small level: its tissue is looked for in all {smallest[1]} x {smallest[0]} px of "
            f"level {len(slide.info.level_sizes) - 1}, which takes a while",
            err=True,
        )
    shown = examine(slide)
    yield {"tissue_share": round(shown.tissue.share, 4)}
    if shown.tissue.mask.any():
        yield {"quality": shown.quality.describe(), "warnings": list(shown.quality.warnings())}
    else:
        yield {"tiles": 0}
        return
    (group,) = plan_groups(slide, [make_spec(config, marker)], config, None, crop=True)
    plan = group.plan
    yield {
        "weights": config.weights,
        "output_width_px": plan.canvas[3],
        "output_height_px": plan.canvas[2],
        "output_mpp": plan.sampling.mpp,
        "tiles": plan.n_tiles,
        "tile_megapixels": round(plan.n_tiles * plan.tiling.tile**2 / 1e6, 1),
    }
    yield {"expected_seconds": _expected_seconds(slide, group)}


def _print_table(rows: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from wsistain.errors import shown

    table = Table(show_header=False, box=None)

    def line(name: str, value: object) -> None:
        table.add_row(name, Text(shown(str(value))))

    for name, value in rows.items():
        title = name.replace("_", " ")
        if name == "levels":
            line(title, ", ".join(f"{v['width']} x {v['height']}" for v in value))
        elif name == "holds":
            for k, part in enumerate(value):
                number = "" if part["series"] is None else f"series {part['series']}: "
                size = f", {part['width']} x {part['height']} px" if part["width"] else ""
                line(title if k == 0 else "", f"{number}{part['what']}{size}{'' if part['used'] else ' (left out)'}")
        elif name == "quality":
            line(title, ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in value.items()))
        elif name in ("notes", "warnings"):
            for k, note in enumerate(value):
                line(title if k == 0 else "", note)
        else:
            line(title, "not stated" if value is None else value)
    Console().print(table)


def info(
    slide: str = typer.Argument(..., help="Slide, as for 'wsistain run'."),
    mpp: float | None = typer.Option(None, "--mpp", help="um per px of the slide, where it has none."),
    reader: Reader | None = typer.Option(None, "--reader", help="What reads the slide; auto chooses."),
    series: int | None = typer.Option(None, "--series", help="Which picture of a file that holds several."),
    marker: str = typer.Option("ER", "--marker", "-m", help="Marker of the weights for the estimate."),
    weights: str | None = typer.Option(None, "--weights", "-w", help="Weights for the estimate. Default: demo."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Show what a slide is; see HELP for the help text. Facts are shown also where the slide cannot be stained."""
    import json

    from wsistain.cli.defaults import settle
    from wsistain.errors import SlideError, WsistainError
    from wsistain.slide.reader import open_slide

    settled = settle(options={"weights": weights, "mpp": mpp, "reader": reader, "series": series})
    config = settled.config
    for sentence in settled.told:
        note(sentence, err=True)
    problem: WsistainError | None = None
    opened = open_slide(slide, mpp=config.mpp, reader=config.reader, series=config.series, needs_mpp=False)
    try:
        rows = _facts(opened)
        if opened.info.problem:
            problem = SlideError(opened.info.problem)
        else:
            for more in _estimate(opened, config, marker):
                rows |= more
    except WsistainError as error:
        problem = error
    finally:
        opened.close()
    # Facts first, also where staining is refused: they are what was asked for.
    if as_json:
        say(json.dumps(rows, indent=2))
    else:
        _print_table(rows)
    if problem is not None:
        raise problem
