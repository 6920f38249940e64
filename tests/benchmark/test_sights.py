"""The same places in every row, small and harmless, and all systems side by side on the page."""

import base64
import re
from types import SimpleNamespace

import numpy as np
import pytest

from tests.benchmark.test_board import row
from wsistain.benchmark.board import board_of, to_html
from wsistain.benchmark.sights import EDGE_PX, PLACES, check_sights, places_of, shown_places, sights
from wsistain.runtime.jpeg import encode_jpeg


def truth_of(patches):
    """A truth from {name: (y, x, is positive)} arrays; every cell is a tumour cell."""
    return SimpleNamespace(
        places={n: SimpleNamespace(y=np.array(y, float), x=np.array(x, float)) for n, (y, x, _) in patches.items()},
        tumour={n: np.ones(len(y), bool) for n, (y, _, _) in patches.items()},
        positive={n: np.array(p, bool) for n, (*_, p) in patches.items()},
    )


def refs_of(names):
    return [SimpleNamespace(name=n, he=None, truth=None, ihc=None) for n in names]


def test_the_places_are_those_where_positive_and_negative_cells_meet():
    ones, spread = [1] * 9, np.linspace(5, 505, 9)
    patches = {
        "all positive": (spread, spread, ones),
        "mixed": ([400, 410, 420, 430], [300, 310, 320, 330], [1, 0, 1, 0]),
        "apart": ([10, 10, 500, 500], [10, 20, 500, 490], [1, 1, 0, 0]),
        "one pair": ([40, 50], [40, 50], [1, 0]),
        "empty": ([], [], []),
    }
    places = places_of(truth_of(patches), refs_of(patches))
    assert [p.name for p in places] == ["mixed", "one pair"] and len(places) == PLACES
    mixed = places[0]
    assert mixed.y <= 400 and mixed.y + EDGE_PX > 430 and mixed.x <= 300 and mixed.x + EDGE_PX > 330
    assert places == places_of(truth_of(patches), refs_of(reversed(patches)))


def jpeg(colour):
    return base64.b64encode(encode_jpeg(np.full((16, 16, 3), colour, np.uint8), 85)).decode()


def seen(colour, **more):
    return [{"name": "S00", "y": 0, "x": 32, "stain": jpeg(colour), **more}]


def test_what_is_cut_is_the_place_and_only_one_row_carries_what_is_the_same_for_all():
    picture = np.zeros((300, 300, 3), np.uint8)
    picture[64:, 96:] = 200
    place = SimpleNamespace(name="S00", y=64, x=96)
    found = sights([place], refs_of(["S00"]), lambda _: picture, whole=True)
    assert set(found[0]) == {"name", "y", "x", "stain"}  # no H&E was given
    import imagecodecs

    part = imagecodecs.jpeg8_decode(base64.b64decode(found[0]["stain"]))
    assert part.shape == (EDGE_PX, EDGE_PX, 3) and abs(int(part.mean()) - 200) <= 1
    check_sights(found)


@pytest.mark.parametrize(
    "bad",
    [
        {"name": "S00"},
        [{"name": "S00", "y": 0, "x": 0}],
        [{"name": "S00", "y": 0, "x": 0, "stain": "no base64!"}],
        [{"name": "S00", "y": 0, "x": 0, "stain": base64.b64encode(b"<svg onload=x>").decode()}],
        [{"name": "S00", "y": 0, "x": 0, "stain": "A" * 70_000}],
        seen(1) * 9,
    ],
)
def test_a_row_with_something_else_for_pictures_is_refused(bad):
    with pytest.raises(ValueError, match=r"sight|JPEG|Invalid|base64|padding"):
        check_sights(bad)


def test_the_page_shows_each_place_with_all_systems_in_the_boards_order_and_each_run_in_its_own_line():
    rows = [row("Good", s, 2.0, 1) for s in (1, 0)] + [row("Plain", s, 0.6, 2) for s in (0, 1)]
    rows += [row("Weak", s, 0.2, 3) for s in (0, 1)] + [row("identity", None, 0.1, 3, budget="none")]
    for k, one in enumerate(rows[:-1]):
        one["sights"] = seen(20 * k)
    rows[-1]["sights"] = seen(200, he=jpeg(210), truth=jpeg(220), other=jpeg(230))
    board = board_of("mist-c3-ER", rows)
    page = to_html([board])
    captions = [re.sub("<.*?>", "", c) for c in re.findall(r"<figcaption>(.*?)</figcaption>", page)]
    assert captions[1:4] == ["H&amp;E", "Aligned truth", "Other section"]
    assert [c.split(" (")[0] for c in captions[4:7]] == [s.name for s in board.systems[:3]]
    own = rows[1]["metrics"]["cell_auc"]["value"]  # of the run that is shown, not the mean of all
    assert (
        captions[4] == f"Good (short), seed 0: {own:.3f}"
        and f"{own:.3f}" != f"{board.systems[0].value['cell_auc']:.3f}"
    )
    assert page.count("data:image/jpeg") == 7
    lines = re.findall(r'<text class="axis"(.*?)<circle class="dot"', page, re.DOTALL)
    assert len(lines) == 4 and [n.count('class="ring"') for n in lines][:3] == [2, 2, 2]
    of_line = [{float(y) for y in re.findall(r'cy="([\d.]+)"', line)} for line in lines]
    assert all(len(ys) == 1 for ys in of_line) and len(set.union(*of_line)) == 4


def test_rows_without_pictures_make_a_page_without_them():
    board = board_of("mist-c3-ER", [row("Old", s, 1.0, 1) for s in (0, 1)])
    assert shown_places([("Old", board.systems[0].rows[0])]) == [] and "data:image" not in to_html([board])
