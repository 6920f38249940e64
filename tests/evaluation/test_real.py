"""What is said of pictures that are not what the weights stain."""

from pathlib import Path

import numpy as np
import pytest

from tests.data.made_patches import save, tissue
from wsistain.errors import DataError
from wsistain.evaluation.real import Wanted
from wsistain.markers import find_marker


def test_the_way_back_wants_ihc_and_a_folder_that_cannot_be_read_is_left_to_others(tmp_path: Path) -> None:
    he = save(tissue(0, 64)[0], tmp_path / "he.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    er = find_marker("ER")
    assert Wanted("he-to-ihc", er).refuse_other(tmp_path, [he, tmp_path / "broken.png"]) is None
    with pytest.raises(DataError, match="stained from IHC, but it looks like H&E"):
        Wanted("ihc-to-he", er).refuse_other(tmp_path, [he])


def test_a_doubt_and_the_pictures_that_stand_out_are_both_told(tmp_path: Path) -> None:
    wanted = Wanted("he-to-ihc", find_marker("ER"))
    doubt = wanted.refuse_other(
        tmp_path, [save(np.full((64, 64, 3), (110, 110, 190), np.uint8), tmp_path / "blue.png")]
    )
    assert doubt is not None and wanted.warnings(doubt, [], 3) == [doubt]
    assert wanted.warnings(doubt, list("abcd"), 9) == [
        doubt,
        "4 of 9 pictures do not look like H&E: a, b, c ...; read nothing from their stains",
    ]
