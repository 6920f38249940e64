"""What the package spatialdata makes of a store that `wsistain export --as spatialdata` wrote.

    python -m venv sd && sd/bin/pip install spatialdata
    sd/bin/python scripts/see_spatialdata.py slide.ER.spatialdata.zarr

The package wants an older dask than wsistain, so it has an environment of its own. Ends with an AssertionError where the
elements do not belong together: table to shapes, shapes and image to one place.
"""

import sys

import numpy as np
import spatialdata
from spatialdata.transformations import get_transformation


def see(path: str) -> None:
    """Read the store and hold its elements against one another."""
    sdata = spatialdata.read_zarr(path)
    print(sdata)
    shapes, table, image = sdata.shapes["cells"], sdata.tables["table"], sdata.images["stain"]
    element, rows = spatialdata.match_element_to_table(sdata, "cells", "table")
    assert len(element["cells"]) == rows.n_obs == len(shapes) == table.n_obs, "the table does not name all shapes"
    um = spatialdata.transform(shapes, to_coordinate_system="global")
    # A contour's corners lie round the centre of its cell.
    off = np.hypot(um.centroid.x.to_numpy() - table.obs["x_um"], um.centroid.y.to_numpy() - table.obs["y_um"])
    assert off.max() < 3, f"a contour lies {off.max():.1f} um from its cell"
    box = spatialdata.get_extent(image, coordinate_system="global")
    inside = table.obs["x_um"].between(*box["x"]) & table.obs["y_um"].between(*box["y"])
    assert inside.any(), "no cell lies on the stain"
    print(f"{inside.mean():.1%} of the cells lie on the stain; a contour is at most {off.max():.2f} um off its cell")
    print("image:", get_transformation(image), "um:", {k: tuple(round(float(v), 1) for v in box[k]) for k in box})
    print(table.obs["class"].value_counts().to_dict(), list(table.var_names))
    crop = sdata.query.bounding_box(
        ("x", "y"), [box["x"][0], box["y"][0]], [np.mean(box["x"]), np.mean(box["y"])], "global"
    )
    part = crop.images["stain"]
    finest = part["scale0"].image if "scale0" in getattr(part, "children", {}) else part
    print(f"a quarter of it holds {crop.tables['table'].n_obs} cells and an image of {finest.shape}")


if __name__ == "__main__":
    see(sys.argv[1])
