import numpy as np
import pytest

from wsistain.errors import DataError
from wsistain.evaluation.registration import Registration
from wsistain.slide.reader import open_slide
from wsistain.viewing.frame import Frame
from wsistain.viewing.reference import affine_um, lay_over


def test_a_map_between_pixels_becomes_one_between_micrometres_with_centres_kept():
    turn = np.array([[0.9, -0.2], [0.3, 1.1]])
    found = Registration(np.column_stack([turn, [5.0, -7.0]]), np.eye(2, 3), 1.0, 1.0, np.zeros(0))
    affine = affine_um(found, Frame(100, 100, 4.0, 30.0, 50.0), 4.0, 2.0)
    for px in ([0.0, 0.0], [10.0, 20.0]):
        frame_um = (np.array(px) + 0.5) * 4.0 + [30.0, 50.0]
        there_um = (turn @ px + [5.0, -7.0] + 0.5) * 2.0
        assert np.allclose(affine.matrix @ frame_um + affine.shift_um, there_um)


def test_what_cannot_be_registered_is_refused(case, tmp_path):
    from tests.pipeline.slides import write_slide

    blank = write_slide(tmp_path / "blank.tiff", np.full((300, 300, 3), 245, np.uint8), mpp=0.5)
    with pytest.raises(DataError, match="cannot be registered"):
        lay_over(open_slide(case.er), Frame(700, 930, 0.5), open_slide(blank))
