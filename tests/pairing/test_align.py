import imagecodecs
import numpy as np

from tests.pairing.made import MPP, SIDE, stained, tissue
from wsistain.markers import DAB, EOSIN, HAEMATOXYLIN
from wsistain.pairing.align import place_pieces
from wsistain.pairing.sections import look_at_slide
from wsistain.slide.reader import open_slide

GAP = 200


def test_of_several_sections_on_a_glass_the_right_one_is_found(tmp_path):
    (_, density, other), (_, unlike, _) = tissue(0), tissue(3)
    he = stained([(density, HAEMATOXYLIN), (other, EOSIN)])
    # On the other glass: another block's section at the top, the right one below it, upside down.
    both = np.concatenate([unlike, np.zeros((GAP, SIDE)), density[::-1, ::-1]])
    ihc = stained([(0.7 * both, HAEMATOXYLIN), (0.1 * (both > 0), DAB.od)])
    sides = []
    for name, picture, dye in (("he", he, None), ("ihc", ihc, DAB)):
        path = tmp_path / f"{name}.png"
        path.write_bytes(imagecodecs.png_encode(picture, level=1))
        sides.append(look_at_slide(open_slide(path, mpp=MPP), dye))
    assert [len(side.pieces) for side in sides] == [1, 2]
    (placed,) = place_pieces(*sides)
    assert placed.correlation > 0.9 and placed.runner_up is not None and placed.runner_up < 0.5
    # A point of the tissue: turned by 180 degrees and moved down by one height.
    y, x = placed.matrix @ np.array([600.0, 640.0, 1.0])
    assert abs(y - ((2 * SIDE + GAP) * MPP - 600)) < 15 and abs(x - (SIDE * MPP - 640)) < 15
