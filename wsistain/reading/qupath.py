"""Cells as GeoJSON that QuPath imports as detections, and a folder from which it builds a project by itself.

QuPath: File > Import objects from file reads the GeoJSON; classes keep their names and colours. Written by hand, feature
by feature: a million cells are no tree of objects in memory.

Source: RFC 7946 (GeoJSON); QuPath documentation, "Exporting annotations" (objectType, classification, measurements).
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from wsistain.markers import Marker
from wsistain.reading.stain import NOT_READ
from wsistain.reading.table import Rows, polygons
from wsistain.runtime.files import replacing, reporting, write_text

COLOURS = {
    "Negative": (112, 112, 225),
    "1+": (255, 214, 79),
    "2+": (240, 134, 50),
    "3+": (191, 38, 38),
    "Not read": (160, 160, 160),
}
"""Colour of each class, red, green, blue, the same in every picture and page."""


class ObjectWriter:
    """Appends blocks of cells to a GeoJSON feature collection."""

    def __init__(self, file: IO[str], marker: Marker, um_l0: float) -> None:
        self._file, self._marker, self._um_l0, self._n = file, marker, um_l0, 0
        classes = ("Not read", "Negative", "1+", "2+", "3+")  # by grade; the last four are words that QuPath counts by
        self._classes = [json.dumps({"name": f"{marker.name}: {c}", "color": COLOURS[c]}) for c in classes]
        file.write('{"type":"FeatureCollection","features":[')

    def add(self, rows: Rows) -> None:
        """Write a block of cells."""
        nuclei, readings = rows.nuclei, rows.readings
        rings = polygons(nuclei.contour, self._um_l0)
        dye = f"{self._marker.chromogen.name} OD"
        for k in range(len(nuclei)):
            measured = {
                dye: readings.od[k],
                "Haematoxylin OD": nuclei.haematoxylin[k],
                "Nucleus: Area um^2": nuclei.area_um2[k],
                "Nucleus: Elongation": nuclei.elongation[k],
            }
            for name, values in (
                ("Membrane complete", readings.complete),
                ("Membrane OD", readings.membrane),
                ("Membrane dense OD", readings.dense),
                ("Probability", readings.probability),
                ("Trust", rows.trust),
            ):
                if values is not None:
                    measured[name] = values[k]
            # JSON has no number for what was not measured: such a measurement is left out
            told = json.dumps({name: round(float(v), 4) for name, v in measured.items() if np.isfinite(v)})
            corners = json.dumps(rings[k].tolist(), separators=(",", ":"))
            self._file.write(
                f'{"," if self._n else ""}\n{{"type":"Feature","geometry":{{"type":"Polygon","coordinates":[{corners}]}},'
                f'"properties":{{"objectType":"detection","classification":{self._classes[readings.grade[k] - NOT_READ]},'
                f'"measurements":{told}}}}}'
            )
            self._n += 1

    def close(self) -> None:
        """End the collection."""
        self._file.write("\n]}\n")


@contextmanager
def object_writer(path: Path, marker: Marker, um_l0: float) -> Iterator[ObjectWriter]:
    """A writer of the file `path`, which appears in one move when the block ends well. Raises OutputError."""
    with reporting(path, retry="run again"), replacing(path) as part, part.open("w", encoding="utf-8") as file:
        writer = ObjectWriter(file, marker, um_l0)
        yield writer
        writer.close()


SCRIPT = """// Makes a QuPath project of a virtual stain: the H&E and the stain side by side, with the cells that wsistain read.
// {statement}
// In QuPath 0.5 or newer: Automate > Script editor, open this file, Run. Or: QuPath script {script}
import java.awt.image.BufferedImage
import qupath.lib.gui.QuPathGUI
import qupath.lib.gui.commands.ProjectCommands
import qupath.lib.images.ImageData
import qupath.lib.images.servers.ImageServerProvider
import qupath.lib.io.PathIO
import qupath.lib.objects.PathObjectTools
import qupath.lib.projects.Projects

def here = new File({folder})
def slides = [{he}, {stain}]
def objects = {objects}
// the cells are told in pixels of the H&E; so many of the stain's make one of them, and it begins there
def scale = [1.0d, {scale}d]
def shift = [[0.0d, 0.0d], [{shift_x}d, {shift_y}d]]

def directory = new File(here, 'project')
directory.mkdirs()
def project = Projects.createProject(directory, BufferedImage)
def types = [ImageData.ImageType.BRIGHTFIELD_H_E, ImageData.ImageType.BRIGHTFIELD_H_DAB]
slides.eachWithIndex {{ name, k ->
    def file = new File(name)
    if (!file.isAbsolute()) file = new File(here, name)
    def place = name.contains('://') ? name : file.getCanonicalPath()
    def support = ImageServerProvider.getPreferredUriImageSupport(BufferedImage, place)
    if (support == null || support.builders.isEmpty()) throw new IOException('QuPath cannot open ' + place)
    def entry = project.addImage(support.builders[0])
    def data = entry.readImageData()
    data.setImageType(types[k])
    entry.setImageName(file.getName())
    entry.setThumbnail(ProjectCommands.getThumbnailRGB(data.getServer()))
    def cells = PathIO.readObjects(new File(here, objects))
    def to = new java.awt.geom.AffineTransform(scale[k], 0, 0, scale[k], shift[k][0], shift[k][1])
    data.getHierarchy().addObjects(cells.collect {{ PathObjectTools.transformObject(it, to, true) }})
    entry.saveImageData(data)
    data.getServer().close()
}}
project.syncChanges()
def gui = QuPathGUI.getInstance()
if (gui == null) {{
    println 'Open ' + new File(directory, 'project.qpproj')
}} else {{
    // side by side, and moved together
    javafx.application.Platform.runLater {{
        gui.setProject(project)
        def manager = gui.getViewerManager()
        manager.setGridSize(1, 2)
        project.getImageList().eachWithIndex {{ entry, k -> manager.getAllViewers()[k].setImageData(entry.readImageData()) }}
        manager.setSynchronizeViewers(true)
    }}
}}
"""


def write_script(
    folder: Path, *, he: str, stain: str, objects: str, scale: float, shift_px: tuple[float, float], statement: str
) -> Path:
    """Write the Groovy script that builds a QuPath project in `folder`.

    he, stain : slides, absolute or from the folder; objects: the cells, in level-0 px of the H&E.
    scale     : px of the stain's level 0 per level-0 px of the H&E; shift_px: (y, x) of the H&E's corner in the stain, px.
    """
    path = folder / "make_project.groovy"
    text = SCRIPT.format(
        statement=statement.replace("\n", " "),
        script=path.name,
        folder=_groovy(str(folder.absolute())),
        he=_groovy(he),
        stain=_groovy(stain),
        objects=_groovy(objects),
        scale=repr(scale),
        shift_y=repr(shift_px[0]),
        shift_x=repr(shift_px[1]),
    )
    with reporting(path, retry="run again"):
        write_text(path, text)
    return path


def _groovy(text: str) -> str:
    """A text as Groovy writes it between single quotes."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", " ") + "'"
