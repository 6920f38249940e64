"""The page in a real browser: tiles arrive, panes stay in step, what is drawn lies where it belongs."""

import json

import numpy as np
import pytest

from tests.viewing.browser import browser, complaints, settle
from tests.viewing.made import DOTS, MPP, RADIUS, gallery_of, web_server, write_parquet_cells
from wsistain.viewing.serve import serve
from wsistain.viewing.static import write_static

PLACES = "return wsistain.panes.list.map(p => [p.view.x, p.view.y, p.view.u, p.size.width, p.size.height])"
PIXELS = """
  const pane = wsistain.panes.list[arguments[0]];
  const canvas = arguments[1] === "over" ? pane.canvas : pane.viewer.drawer.canvas;
  const d = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return [canvas.width, canvas.height, Array.from(d.data)];
"""


def pixels(page, pane: int, what: str) -> np.ndarray:
    width, height, data = page.execute_script(PIXELS, pane, what)
    return np.array(data, np.uint8).reshape(height, width, 4)


def show(page, x: float, y: float, u: float) -> None:
    page.execute_script("wsistain.panes.show({x: arguments[0], y: arguments[1], u: arguments[2]})", x, y, u)
    settle(page)


@pytest.fixture(scope="module")
def url(case):
    cells = write_parquet_cells(case.folder / "cells.parquet")
    server = serve(gallery_of(case, cells=cells))
    server.start()
    yield server.url
    server.stop()


@pytest.fixture(scope="module")
def page(url):
    with browser(900, 620) as page:
        page.get(url)
        settle(page)
        yield page


def test_both_pictures_arrive_and_nothing_complains(page):
    for pane in (0, 1):
        seen = pixels(page, pane, "picture")
        assert (seen[..., 3] > 0).mean() > 0.3 and seen[seen[..., 3] > 0][:, :3].std() > 20
    assert complaints(page) == []


@pytest.mark.slow
def test_panes_are_in_step_within_a_pixel_at_every_level(page):
    for k in range(-1, 7):
        show(page, 200.3, 170.7, MPP * 2.0**k * 1.13)
        (x0, y0, u0, w0, h0), *others = page.execute_script(PLACES)
        for x, y, u, w, h in others:
            assert abs(x - x0) / u0 < 1 and abs(y - y0) / u0 < 1 and abs(u / u0 - 1) * max(w, h) < 1
            assert (w, h) == (w0, h0)
        # And the pictures themselves: where both show tissue, structures lie over each other.
        he, stain = (pixels(page, pane, "picture")[..., :3].astype(float).mean(axis=2) for pane in (0, 1))
        assert np.abs(he - stain).mean() < 4, k


def test_a_cells_outline_lies_on_the_edge_of_its_nucleus(page):
    cy, cx = DOTS[len(DOTS) // 2]
    show(page, cx * MPP, cy * MPP, 0.1)
    page.execute_script(
        "if (!wsistain.state.layers.has('cells')) document.querySelector('[data-key=layer-cells]').click()"
    )
    for _ in range(40):
        settle(page)
        over = pixels(page, 0, "over")
        if over[..., 3].any():
            break
    assert (over[..., 3] > 200).any()
    height, width = over.shape[:2]
    y, x = np.mgrid[:height, :width] + 0.5
    radius = np.hypot(y - height / 2, x - width / 2)
    edge = RADIUS * MPP / 0.1  # screen px
    near = (over[..., 3] > 150) & (radius < 1.6 * edge)
    assert abs(np.median(radius[near]) - edge) < 1.0 and radius[near].std() < 1.5
    under = pixels(page, 0, "picture")[..., :3].astype(float).mean(axis=2)
    dark = (under < 110) & (radius < 1.6 * edge)
    assert abs(np.sqrt(dark.sum() / np.pi) - edge) < 2.0  # the nucleus that is seen has that radius
    assert abs(x[dark].mean() - width / 2) < 1 and abs(y[dark].mean() - height / 2) < 1


@pytest.mark.slow
def test_the_page_works_with_keys_alone_and_keeps_its_view_in_the_address(page, url):
    from selenium.webdriver.common.keys import Keys

    body = page.find_element("css selector", "body")
    show(page, 200, 170, 0.7)
    before = page.execute_script(PLACES)[0]
    body.send_keys(Keys.ARROW_RIGHT, "+")
    settle(page)
    after = page.execute_script(PLACES)[0]
    assert after[0] > before[0] and after[2] < before[2]
    for key, mode, n in (
        ("4", "four", 4),
        ("c", "curtain", 2),
        ("f", "flicker", 2),
        ("b", "blend", 2),
        ("1", "one", 1),
        ("2", "side", 2),
    ):
        body.send_keys(key)
        settle(page)
        assert page.execute_script("return [wsistain.state.mode, wsistain.panes.list.length]") == [mode, n]
        assert page.execute_script(PLACES)[0][2] == pytest.approx(after[2], rel=1e-3), "the scale stays"
    body.send_keys("p", "v", "k")
    settle(page)
    assert page.execute_script("return wsistain.areas.list.length") == 1
    link = page.current_url
    assert "l=" in link and "m=side" in link
    page.get("about:blank")
    page.get(link)
    settle(page)
    kept = page.execute_script(PLACES)[0]
    assert kept[:3] == pytest.approx(after[:3], rel=1e-3, abs=0.2)
    assert "positivity" in page.execute_script("return [...wsistain.state.layers]")


@pytest.mark.slow
def test_an_area_is_scored_and_saved_in_pixels_of_the_slide(page):
    page.execute_script("wsistain.areas.add([[100, 75], [250, 75], [250, 200], [100, 200]], 'mine')")
    scored = "return Object.values(wsistain.areas.list.at(-1).scores).filter(s => s !== '...').length"
    for _ in range(200):
        settle(page)
        if page.execute_script(scored) == 2:
            break
    text = page.execute_script("return JSON.stringify(wsistain.areas.geojson(0.5, wsistain.page.results))")
    feature = json.loads(text)["features"][-1]
    assert feature["geometry"]["coordinates"][0][0] == [200, 150] and feature["properties"]["name"] == "mine"
    assert "virtual ER: H-score" in feature["properties"]["measurements"]


@pytest.mark.slow
def test_a_snapshot_holds_the_panes_the_scale_bar_and_the_line(page):
    size = page.execute_script(
        "const c = wsistain.compose(wsistain.panes, ['a', 'b'], 'side', 0.5, 1); return [c.width, c.height, c.toDataURL().length]"
    )
    assert size[0] > 400 and size[2] > 10_000


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(420, False), (420, True), (1400, True)])
def test_nothing_is_wider_than_the_window(url, width, dark):
    with browser(width, 800, dark=dark) as page:
        page.get(url)
        settle(page)
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
        back = page.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (sum(int(n) for n in back[4:-1].split(",")) < 200) is dark
        assert complaints(page) == []


@pytest.mark.slow
def test_the_page_without_a_server_shows_the_same(case, tmp_path):
    write_static(gallery_of(case), tmp_path / "page")
    with web_server(tmp_path / "page") as base, browser(900, 620) as page:
        page.get(base)
        settle(page)
        seen = pixels(page, 1, "picture")
        assert (seen[..., 3] > 0).mean() > 0.3
        assert [c for c in complaints(page) if "favicon" not in c] == []
