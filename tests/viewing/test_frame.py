import pytest

from wsistain.viewing.frame import TILE_PX, Frame


def test_sizes_are_those_of_deep_zoom_rounded_up():
    frame = Frame(700, 930, 0.5)
    assert frame.halvings == 10 and frame.size(0) == (700, 930) and frame.size(1) == (350, 465)
    assert frame.size(2) == (175, 233) and frame.size(10) == (1, 1)
    assert Frame(1, 1, 1.0).halvings == 0 and Frame(512, 513, 1.0).halvings == 10


def test_tiles_cover_a_level_once_and_only_it():
    frame = Frame(1300, 2049, 0.25)
    for k in range(frame.halvings + 1):
        rows, cols = frame.grid(k)
        windows = [frame.window(k, r, c) for r in range(rows) for c in range(cols)]
        assert sum(h * w for _, _, h, w in windows) == frame.size(k)[0] * frame.size(k)[1]
        assert max(max(h, w) for _, _, h, w in windows) <= TILE_PX
        assert frame.window(k, rows, 0) is None and frame.window(k, 0, cols) is None and frame.window(k, -1, 0) is None
    assert frame.window(-1, 0, 0) is None and frame.window(frame.halvings + 1, 0, 0) is None
    assert frame.n_tiles == sum(frame.grid(k)[0] * frame.grid(k)[1] for k in range(13))


@pytest.mark.parametrize("form", ["jpg", "png"])
def test_the_descriptor_says_size_form_and_no_overlap(form):
    text = Frame(3, 5, 1.0).descriptor(form)
    assert f'Format="{form}"' in text and 'Overlap="0"' in text and '<Size Height="3" Width="5"/>' in text
