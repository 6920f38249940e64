"""A map beside a stain has the stain's number of levels, each in its place, and the whole stays valid."""

from pathlib import Path

import numpy as np
import pytest
import zarr
from ome_zarr_models import open_ome_zarr

from tests.output.making import small_spec, tissue_like, write_all
from wsistain.output.label_map import read_map, write_map
from wsistain.output.reading import read_stain


@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
def test_a_stain_with_a_map_stays_valid_and_the_levels_of_the_map_lie_over_each_other(
    tmp_path: Path, ngff: str
) -> None:
    spec = small_spec(tmp_path / "o", 130, 300, ngff=ngff)
    write_all(spec, tissue_like(130, 300))
    values = np.array([[0, 0, 200], [0, 101, 255], [0, 0, 0]], np.uint8)
    write_map(read_stain(spec.path), values, {"looks": values}, cell_um=32.0, corner_um=(64.0, 96.0), facts={})
    # ome-zarr-models goes through the labels too, and wants as many levels of them as the picture has.
    assert type(open_ome_zarr(zarr.open_group(spec.path, mode="r"))).__name__ == "Image"
    group = zarr.open_group(f"{spec.path}/labels/trust", mode="r")
    attributes = group.attrs.asdict()
    found = (attributes["ome"] if ngff == "0.5" else attributes)["multiscales"][0]["datasets"]
    assert [np.asarray(group[d["path"]]).tolist() for d in found[1:3]] == [[[101, 228], [0, 0]], [[165]]]
    corners = set()
    for dataset in found:
        (scale, first) = (step[step["type"]] for step in dataset["coordinateTransformations"])
        # The centre of a stain's first px lies at its origin, so the edge of the slide half a px before it.
        corners.add((first[0] - scale[0] / 2 + 0.25, first[1] - scale[1] / 2 + 0.25))
    assert corners == {(64.0, 96.0)} and len(found) == len(spec.levels)
    there = read_map(read_stain(spec.path))
    assert there is not None and np.array_equal(there.values, values)
