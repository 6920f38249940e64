import numpy as np
import pytest

from wsistain.pages.plots import histogram

NAMES, COLOURS = ("Negative", "1+", "2+", "3+"), ("a", "b", "c", "d")


def test_every_cell_is_in_a_bar_of_its_class():
    rng = np.random.default_rng(3)
    od = np.concatenate([rng.uniform(-0.01, 0.9, 500), [0.15, 0.35, 0.6, 4.0]])
    cutoffs = (0.15, 0.35, 0.6)
    plot = histogram(od, cutoffs, COLOURS, NAMES)
    counted = dict.fromkeys(NAMES, 0)
    for bar in plot.bars:
        name, _, rest = bar.title.partition(": ")
        counted[name] += int(rest.split()[0])
        assert bar.colour == COLOURS[NAMES.index(name)]
    grades = np.searchsorted(cutoffs, od, side="right")
    assert counted == {name: int((grades == k).sum()) for k, name in enumerate(NAMES)}
    assert [text for _, text in plot.lines] == ["1+", "2+", "3+"]
    edges = {round(bar.x, 1) for bar in plot.bars}
    assert all(round(x, 1) in edges for x, _ in plot.lines)


def test_bars_stay_in_the_frame_and_nothing_is_no_plot():
    plot = histogram(np.array([0.0, 0.0, np.nan, 0.001]), (0.15, 0.35, 0.6), COLOURS, NAMES)
    assert all(plot.left <= b.x and b.x + b.width <= plot.right + 0.1 for b in plot.bars)
    assert max(b.height for b in plot.bars) <= plot.bottom - plot.top
    assert histogram(np.array([np.nan]), (0.1, 0.2, 0.3), COLOURS, NAMES) is None
    assert histogram(np.array([0.2]), (0.1, 0.2, 0.3), COLOURS, NAMES).bars[-1].x == pytest.approx(plot.right, abs=40)


def test_many_cells_are_told_in_whole_numbers():
    texts = [text for _, text in histogram(np.full(2400, 0.05), (0.15, 0.35, 0.6), COLOURS, NAMES).y_ticks]
    assert texts[0] == "0" and not any("e" in text for text in texts) and texts[-1] == "1\xa0000"
