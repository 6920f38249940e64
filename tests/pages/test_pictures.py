import base64
import io

import numpy as np
import pytest
from PIL import Image

from wsistain.pages.pictures import POSITIVE, TRUST, in_um, jpeg_data, nice_length, nice_top, png_data


def decoded(address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition("base64,")[2]))))


def test_pictures_come_back_from_the_page():
    picture = np.full((5, 7, 3), (200, 30, 90), np.uint8)
    assert np.abs(decoded(jpeg_data(picture)).astype(int) - picture).max() < 12
    clear = np.dstack([picture, np.arange(35, dtype=np.uint8).reshape(5, 7)])
    assert (decoded(png_data(clear)) == clear).all()


def test_ramps_rise_and_are_clear_where_nothing_is_known():
    share = np.array([[0.0, 0.5, 1.0, np.nan]])
    brown, trust = POSITIVE.paint(share)[0], TRUST.paint(share)[0]
    assert brown[0, :3].sum() > brown[1, :3].sum() > brown[2, :3].sum() and brown[3, 3] == 0
    assert trust[0, 3] > trust[1, 3] > trust[2, 3] == 0 == trust[3, 3]


@pytest.mark.parametrize(("longest", "nice"), [(999, 500), (1000, 1000), (2.6, 2), (0.0, 1)])
def test_a_scale_bar_has_a_round_length(longest, nice):
    assert nice_length(longest) == nice


def test_lengths_and_ends_of_ramps():
    assert in_um(500) == "500 µm" and in_um(2000) == "2 mm"
    assert nice_top([0.02, float("nan")]) == 0.1 and nice_top([0.3]) == 0.5 and nice_top([]) == 0.1
