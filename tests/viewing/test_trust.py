import numpy as np
import pytest
import zarr

from wsistain.errors import OutputError
from wsistain.output.trust import has_trust
from wsistain.viewing.trust import trust_picture


def write_trust(path, values, *, scale=32.0):
    root = zarr.open_group(path / "labels" / "trust", mode="w", zarr_format=3)
    root.create_array("0", data=values)
    axes = [{"name": n, "type": "space", "unit": "micrometer"} for n in "yx"]
    steps = [{"type": "scale", "scale": [scale, scale]}, {"type": "translation", "translation": [10.0, 20.0]}]
    datasets = [{"path": "0", "coordinateTransformations": steps}]
    root.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}


def test_the_map_is_clear_where_the_stain_is_trusted_and_lies_where_it_says(tmp_path):
    values = np.array([[255, 128, 1], [0, 200, 60]], np.uint8)
    assert not has_trust(tmp_path)
    write_trust(tmp_path, values)
    picture = trust_picture(tmp_path, "1")
    frame = picture.frame
    assert has_trust(tmp_path) and (frame.height, frame.width, frame.mpp, frame.y_um, frame.x_um) == (2, 3, 32, 10, 20)
    opacity = picture.tile(0, 0, 0)[..., 3]
    assert opacity[0, 0] == 0 and opacity[1, 0] == 0  # trusted, and not known
    assert 0 < opacity[1, 1] < opacity[0, 1] < opacity[1, 2] < opacity[0, 2] == 200


def test_what_is_no_trust_map_is_refused(tmp_path):
    with pytest.raises(OutputError):
        trust_picture(tmp_path, "1")
    write_trust(tmp_path, np.zeros((3, 3), np.uint16))
    with pytest.raises(OutputError, match="wanted uint8"):
        trust_picture(tmp_path, "1")
