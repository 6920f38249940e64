import urllib.error
import urllib.request

import pytest

import wsistain
from wsistain.errors import OutputError


def test_a_notebook_gets_a_frame_that_only_notebooks_here_may_hold(case):
    shown = wsistain.view(case.er, slide=case.slide, height_px=300)
    try:
        text = shown._repr_html_()
        assert "<iframe" in text and 'height="300"' in text and "research" in text and shown.url in repr(shown)
        with urllib.request.urlopen(shown.url, timeout=20) as answer:
            policy = answer.headers["content-security-policy"]
        assert "frame-ancestors 'self' http://localhost:*" in policy and "*;" not in policy.split("frame-ancestors")[0]
    finally:
        shown.close()
        shown.close()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(shown.url, timeout=5)


def test_what_cannot_be_shown_is_an_error_of_ours(tmp_path):
    with pytest.raises(OutputError):
        wsistain.view(tmp_path / "nothing.ome.zarr")
