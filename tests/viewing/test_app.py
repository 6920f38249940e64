"""The addresses, and who may not have what is under them."""

import io
import json
import logging
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.viewing.made import TOKEN, app_of, ask, ask_raw, gallery_of, write_parquet_cells
from wsistain.viewing.app import PAGE, page_files

N_RANDOM = int(os.environ.get("WSISTAIN_VIEW_REQUESTS", "100"))
HOST = (b"host", b"127.0.0.1:80")


@pytest.fixture(scope="module")
def app(case):
    path = write_parquet_cells(case.er.parent.parent / "cells.parquet")
    return app_of(gallery_of(case, cells=path))


@pytest.fixture(scope="module")
def listing(app):
    return ask(app, "/api/results").json()


def pixels(answer) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(answer.body)))


def test_the_list_names_what_is_shown(listing, case):
    assert {r["name"] for r in listing["results"]} == {"case.ER", "case.HER2"}
    assert {r["path"] for r in listing["results"]} == {str(case.er), str(case.her2)}
    assert all(r["state"] == "finished" for r in listing["results"])


def test_tiles_are_deep_zoom_and_hold_the_stain(app, listing, case):
    name = listing["results"][0]["picture"]["name"]
    answer = ask(app, f"/tiles/{name}_files/10/0_0.jpg")
    assert answer.status == 200 and answer.headers["content-type"] == "image/jpeg"
    assert np.abs(pixels(answer).astype(int) - case.picture[:512, :512]).mean() < 3
    assert pixels(ask(app, f"/tiles/{name}_files/10/1_1.jpg")).shape == (188, 418, 3)
    assert pixels(ask(app, f"/tiles/{name}_files/0/0_0.jpg")).shape == (1, 1, 3)
    assert 'Width="930"' in ask(app, f"/tiles/{name}.dzi").body.decode()
    assert pixels(ask(app, f"/thumbnails/{name}.jpg")).shape == (350, 465, 3)
    for kind in ("positivity",):
        assert pixels(ask(app, f"/tiles/{name}.{kind}_files/10/0_0.png")).shape == (512, 512, 4)
    he = listing["samples"][0]["picture"]["name"]
    frame = ask(app, f"/frames/{he}.tissue.json").json()
    assert frame["mpp"] == pytest.approx(8.0, rel=0.2) and frame["y_um"] == 0


@pytest.mark.parametrize(
    "path",
    ["{n}_files/11/0_0.jpg", "{n}_files/10/2_0.jpg", "{n}_files/10/0_0.png", "{n}_files/-1/0_0.jpg", "{n}_files/10/0_0.jpg/x",
     "{n}_files/10/0_-1.jpg", "x_files/10/0_0.jpg", "{n}_files/10/0.jpg", "{n}_files/99999999999999999999/0_0.jpg", "{n}.dz"],
)  # fmt: skip
def test_tiles_that_are_not_there_are_not_found(app, listing, path):
    answer = ask(app, "/tiles/" + path.format(n=listing["results"][0]["picture"]["name"]))
    assert answer.status == 404 and "error" in answer.json()


def test_a_tile_that_the_browser_has_is_not_sent_again(app, listing):
    target = f"/tiles/{listing['results'][0]['id']}_files/10/0_0.jpg"
    first = ask(app, target)
    again = ask(app, target, headers=[HOST, (b"if-none-match", first.headers["etag"].encode())])
    assert again.status == 304 and not again.body and "max-age" in first.headers["cache-control"]
    assert ask(app, target, headers=[HOST, (b"if-none-match", b'"other"')]).status == 200


def test_cells_come_in_squares(app, listing):
    id = listing["results"][0]["id"]
    index = ask(app, f"/cells/{id}/index.json").json()
    row, col, n = index["squares"][0]
    assert len(ask(app, f"/cells/{id}/{row}_{col}.json").json()) == n > 0
    assert ask(app, f"/cells/{id}/x_0.json").status == 404 and ask(app, "/cells/none/index.json").status == 404


def test_an_area_is_scored(app, listing):
    id = listing["results"][0]["id"]
    body = json.dumps({"area": [[100, 75], [250, 75], [250, 200], [100, 200]]}).encode()
    scores = ask(app, f"/api/results/{id}/scores", method="POST", body=body).json()
    assert 0 < scores["positive_fraction"] < 1 and scores["h_score"] > 0 and scores["marker"] == "ER"
    for wrong, status in (
        (b"{", 400),
        (b"[]", 422),
        (b'{"area": 1}', 422),
        (b"[" * 5000, 400),
        (b"x" * (3 << 20), 413),
    ):
        answer = ask(app, f"/api/results/{id}/scores", method="POST", body=wrong)
        assert answer.status == status and (status == 413 or "wanted" in answer.body.decode())
    assert ask(app, "/api/results/none/scores", method="POST", body=body).status == 404
    assert ask(app, f"/api/results/{id}/scores").status == 405


def test_the_page_and_its_program_are_there(app):
    page = ask(app, "/")
    assert page.status == 200 and "page/main.js" in page.body.decode()
    for name in page_files():
        assert ask(app, f"/page/{name}", token=None).status == 200
    assert ask(app, "/page/app.py", token=None).status == 404
    assert "OpenSeadragon" in (PAGE / "openseadragon.LICENSE.txt").read_text()


@pytest.mark.parametrize(
    "target", ["/", "/api/results", "/tiles/x_files/0/0_0.jpg", "/api/results?token=", "/x", "/page", "//page/x"]
)
@pytest.mark.parametrize("token", [None, "wrong", TOKEN + "x", TOKEN[:-1]])
def test_without_the_token_nothing_is_told(app, target, token):
    assert ask(app, target, token=token).status == 403


def test_the_token_may_come_as_a_header(app):
    assert (
        ask(app, "/api/results", token=None, headers=[HOST, (b"authorization", f"Bearer {TOKEN}".encode())]).status
        == 200
    )


@pytest.mark.parametrize(
    "host", [b"evil.example", b"127.0.0.1.evil.example", b"", b"localhost@evil", b"10.0.0.1", b"[::1", b"\xff"]
)
def test_another_name_of_the_host_is_refused(app, host):
    assert ask(app, "/api/results", headers=[(b"host", host)]).status == 421


def test_the_host_is_needed_once(app):
    assert ask_raw(app, "/", f"token={TOKEN}".encode(), "GET", []).status == 421
    assert ask(app, "/", headers=[HOST, (b"host", b"localhost")]).status == 421
    assert ask(app, "/", headers=[(b"Host", b"LOCALHOST:9")]).status == 200


@pytest.mark.parametrize(
    "origin", [b"http://evil.example", b"null", b"https://127.0.0.1:81", b"http://127.0.0.1", b"", b"\xff"]
)
def test_pages_of_other_places_are_refused(app, origin):
    assert ask(app, "/api/results", headers=[HOST, (b"origin", origin)]).status == 403
    assert (
        ask(
            app, "/api/results", headers=[HOST, (b"sec-fetch-site", b"cross-site"), (b"sec-fetch-mode", b"cors")]
        ).status
        == 403
    )
    assert ask(app, "/api/results", headers=[HOST, (b"origin", b"http://127.0.0.1:80")]).status == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "X"])
def test_other_methods_are_refused_and_no_answer_allows_other_origins(app, method):
    answer = ask(app, "/api/results", method=method)
    assert answer.status == 405 and not [name for name in answer.headers if name.startswith("access-control")]


def test_every_answer_has_the_headers_that_hold_a_page_in_its_place(app):
    for target, token in (
        ("/", TOKEN),
        ("/api/results", TOKEN),
        ("/nothing", TOKEN),
        ("/", None),
        ("/page/style.css", None),
    ):
        headers = ask(app, target, token=token).headers
        assert (
            "default-src 'none'" in headers["content-security-policy"]
            and headers["x-content-type-options"] == "nosniff"
        )
        assert headers["referrer-policy"] == "no-referrer" and headers["x-frame-options"] == "DENY"
    framed = ask(app_of(_Empty(), ancestors="http://localhost:8888"), "/").headers
    assert "x-frame-options" not in framed and "http://localhost:8888" in framed["content-security-policy"]


class _Empty:
    """A gallery whose every question is a fault."""

    def __getattr__(self, name):
        raise RuntimeError("secret/path/of/the/machine")


def test_a_fault_of_ours_leaves_without_a_trace(caplog):
    with caplog.at_level(logging.WARNING):
        answer = ask(app_of(_Empty()), "/api/results")
    assert answer.status == 500 and b"Traceback" not in answer.body and b"secret" not in answer.body
    assert "RuntimeError" in caplog.text and "Traceback" not in caplog.text


PIECES = st.sampled_from(
    ["..", ".", "", "%2e%2e", "etc", "passwd", "api", "results", "tiles", "page", "cells", "0_0.jpg", "index.json", "main.js",
     "\\", "C:", "~", "\0", "%00", "zarr.json", "x_files", "0", "10", "-1", "1e9", ".wsistain", "\u202e", "a" * 300]
)  # fmt: skip
PATHS = st.one_of(st.lists(PIECES, max_size=6).map("/".join), st.text(max_size=40)).map(lambda p: "/" + p)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            [b"host", b"origin", b"if-none-match", b"range", b"authorization", b"cookie", b"x-forwarded-host", b"te"]
        ),
        st.one_of(
            st.binary(max_size=30), st.sampled_from([b"127.0.0.1", b"localhost:1", b"null", b"bytes=0-9", b"Bearer x"])
        ),
    ),
    max_size=4,
)


def secrets_of(case) -> list[bytes]:
    return [(case.er / "zarr.json").read_bytes()[:200], b"Traceback", b'File "', b"root:x:0:0"]


@settings(max_examples=N_RANDOM, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=PATHS,
    headers=HEADERS,
    query=st.binary(max_size=40),
    method=st.sampled_from(["GET", "HEAD", "POST"]),
    knows=st.booleans(),
)
def test_whatever_is_asked_nothing_escapes(app, case, path, headers, query, method, knows):
    """Ten thousand of these were run once; CI runs a hundred."""
    if knows:
        query, headers = (
            query + b"&token=" + TOKEN.encode(),
            [h for h in headers if h[0] not in (b"host", b"origin")] + [HOST],
        )
    answer = ask_raw(app, path, query, method, headers, b"x")
    assert answer.status in {200, 204, 304, 400, 403, 404, 405, 409, 413, 421, 422}
    assert not [s for s in secrets_of(case) if s in answer.body]
    if answer.status == 200 and not path.startswith("/page/"):
        assert knows
