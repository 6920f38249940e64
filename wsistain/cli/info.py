"""`wsistain info`: what a slide is, and what staining it would take."""

from typing import TYPE_CHECKING

import typer

from wsistain.runtime.say import say

if TYPE_CHECKING:
    from wsistain.pipeline.planning import Group
    from wsistain.slide.base import Slide

HELP = """
Show format, size, levels, mpp, tissue share, tiles and expected time of a slide.

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


def info(
    slide: str = typer.Argument(..., help="Slide, as for 'wsistain run'."),
    mpp: float | None = typer.Option(None, "--mpp", help="um per px of the slide, where it has none."),
    reader: str = typer.Option("auto", "--reader", help="auto, tiff, openslide, tiffslide, zarr or picture."),
    marker: str = typer.Option("ER", "--marker", "-m", help="Marker of the weights for the estimate."),
    weights: str = typer.Option("demo", "--weights", "-w", help="Weights for the estimate."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Show what a slide is; see HELP for the help text."""
    import json

    from wsistain.config import RunConfig, validate
    from wsistain.pipeline.planning import make_spec, plan_groups
    from wsistain.slide.reader import open_slide
    from wsistain.slide.tissue import find_tissue

    opened = open_slide(slide, mpp=mpp, reader=reader)
    try:
        facts = opened.info
        config = validate(RunConfig, {"weights": weights, "mpp": mpp, "reader": reader}, "options")
        tissue = find_tissue(opened)
        rows: dict[str, object] = {
            "slide": facts.path,
            "format": facts.vendor,
            "reader": facts.reader,
            "width_px": facts.size_l0[1],
            "height_px": facts.size_l0[0],
            "mpp": facts.mpp,
            "mpp_source": facts.mpp_source,
            "levels": [{"width": w, "height": h} for h, w in facts.level_sizes],
            "native_tile_px": list(facts.tile_px),
            "fingerprint": facts.fingerprint,
            "tissue_share": round(tissue.share, 4),
        }
        if tissue.mask.any():
            (group,) = plan_groups(opened, [make_spec(config, marker)], config, None, crop=True)
            plan = group.plan
            megapixels = plan.n_tiles * plan.tiling.tile**2 / 1e6
            rows |= {
                "weights": weights,
                "output_width_px": plan.canvas[3],
                "output_height_px": plan.canvas[2],
                "output_mpp": plan.sampling.mpp,
                "tiles": plan.n_tiles,
                "tile_megapixels": round(megapixels, 1),
            }
            rows["expected_seconds"] = _expected_seconds(opened, group)
        else:
            rows["tiles"] = 0
    finally:
        opened.close()
    if as_json:
        say(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None)
    for name, value in rows.items():
        text = ", ".join(f"{v['width']} x {v['height']}" for v in value) if name == "levels" else str(value)  # type: ignore[attr-defined]
        table.add_row(name.replace("_", " "), text)
    Console().print(table)
