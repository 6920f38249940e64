"""The state of Neuroglancer that shows a stain in its colours, as JSON for the viewer's address.

Opened by itself, an OME-Zarr whose colours are chunks of their own is shown one colour at a time, in grey: Neuroglancer gives
a shader all channels only where no chunk divides them. So there are three layers of the same source, each holding one
channel still and painting it in its colour, added up over black. Scale and place are taken by Neuroglancer from the
OME-Zarr; here they only say where to look first.

Source: Neuroglancer, viewer state (python/neuroglancer/viewer_state.py) and zarr data source.
"""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from wsistain.errors import OutputError
from wsistain.output.ome_xml import STATEMENT
from wsistain.output.reading import StoredStain, read_stain
from wsistain.runtime.files import local_path, reporting, write_json

_PAINTS = {"red": "value, 0.0, 0.0", "green": "0.0, value, 0.0", "blue": "0.0, 0.0, value"}
_SCHEMES = ("http", "https", "s3", "gs")
_SCREEN_PX = 800
"""Of the screen, over which the whole stain is laid at first."""


def neuroglancer_state(stain: StoredStain, url: str) -> dict[str, Any]:
    """The viewer's state for a stain that is served at `url`: plain JSON values.

    url : of the .ome.zarr, with http, https, s3 or gs; the server must allow requests of other pages (CORS).

    OutputError for a URL that Neuroglancer cannot open.
    """
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or not parts.netloc:
        raise OutputError(
            f"{url!r} is no address at which Neuroglancer finds a stain; wanted that of the .ome.zarr with "
            f"{', '.join(f'{s}://' for s in _SCHEMES)}, as --url https://host/results/slide.ER.ome.zarr"
        )
    if parts.query or parts.fragment:
        raise OutputError(f"{url!r} has a query or a fragment, behind which no files of a folder can be asked for")
    height, width = stain.levels[0]
    metre = stain.mpp * 1e-6
    centre = [origin / stain.mpp + n / 2 for origin, n in zip(stain.origin_um, (height, width), strict=True)]
    layers = [
        {
            "type": "image",
            "name": name,
            "source": f"zarr://{url.rstrip('/')}/",
            "localDimensions": {"c'": [1, ""]},
            "localPosition": [channel],
            "shader": f"void main() {{\n  float value = toNormalized(getDataValue());\n  emitRGB(vec3({paint}));\n}}\n",
            "opacity": 1,
            "blend": "additive",
        }
        for channel, (name, paint) in enumerate(_PAINTS.items())
    ]
    return {
        "title": f"{stain.name}: {STATEMENT}",
        "dimensions": {"x": [metre, "m"], "y": [metre, "m"]},
        "position": centre[::-1],
        "crossSectionScale": max(height, width) / _SCREEN_PX,
        "crossSectionBackgroundColor": "#000000",
        "showAxisLines": False,
        "layers": layers,
        "layout": "xy",
    }


def export_neuroglancer(zarr_path: Path | str, json_path: Path | str, url: str, *, overwrite: bool = False) -> str:
    """Writes the state for a finished stain; what follows the address of a Neuroglancer, from `#!` on.

    url : where the stain is, or will be, served; see `neuroglancer_state`.

    OutputError when the stain is not finished, the file exists or cannot be written, or its name does not end in .json.
    """
    target = local_path(json_path)
    if target.suffix.lower() != ".json":
        raise OutputError(f"{target} does not end in .json, which is what a state of Neuroglancer is")
    state = neuroglancer_state(read_stain(zarr_path), url)
    if target.exists() and not overwrite:
        raise OutputError(f"{target} exists; pass --overwrite to replace it or choose another name")
    with reporting(target, retry="export again"):
        write_json(target, state)
    return "#!" + quote(json.dumps(state, separators=(",", ":")), safe="")
