"""A folder from which QuPath makes a project: the stain as OME-TIFF, the cells, and a script that knows the H&E."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from wsistain.errors import OutputError
from wsistain.output.export import export_ome_tiff
from wsistain.reading.qupath import write_script
from wsistain.runtime.files import replacing, reporting

if TYPE_CHECKING:
    from wsistain.reading.scored import Reading


def make_project(reading: "Reading", *, overwrite: bool = False) -> Path:
    """The folder `<stem>.qupath` beside the stain: `<stem>.ome.tif`, `cells.geojson`, `make_project.groovy`.

    The H&E stays where it is; the script names it. Raises OutputError where something is in the way.
    """
    folder = reading.result.beside("qupath")
    if folder.exists() and not overwrite:
        raise OutputError(f"{folder} exists; pass --overwrite to make it again")
    stain = reading.result.stain
    picture = folder / f"{reading.result.stem}.ome.tif"
    with reporting(folder, retry="run again"):
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / "cells.geojson") as part:
            shutil.copyfile(reading.files["objects"], part)
    export_ome_tiff(stain.path, picture, overwrite=overwrite)
    he = str(reading.facts["slide"]["path"])
    um_l0 = float(reading.facts["slide"]["mpp"])
    write_script(
        folder,
        he=he if "://" in he else str(Path(he).absolute()),
        stain=picture.name,
        objects="cells.geojson",
        scale=um_l0 / stain.mpp,
        shift_px=(-stain.origin_um[0] / stain.mpp, -stain.origin_um[1] / stain.mpp),
        statement=str(reading.facts["statement"]),
    )
    return folder
