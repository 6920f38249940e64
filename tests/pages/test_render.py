import pytest
from jinja2 import UndefinedError

from tests.pages.pages import check_self_contained, elements, text_of
from wsistain.pages.render import link, number, percent, render

NASTY = "</title><script>alert(1)</script><img src=x onerror=alert(1)>\u202egpj.exe"


def plain(title: str) -> str:
    return render("plain.html", title=title, body="")


def test_names_of_others_are_text():
    page = plain(NASTY)
    check_self_contained(page)
    assert "img" not in [tag for tag, _ in elements(page)]
    assert "<script>alert(1)</script>" in text_of(page) and "\u202e" not in page


def test_a_value_that_is_missing_is_an_error():
    with pytest.raises(UndefinedError):
        render("plain.html", title="x")


def test_links_never_have_a_scheme_or_end_early():
    assert link("javascript:alert(1).html") == "./javascript%3Aalert%281%29.html"
    assert link('a/b "c"#d?e.html') == "./a/b%20%22c%22%23d%3Fe.html"
    assert link(b"\xff.html".decode("utf-8", "surrogateescape")) == "./%FF.html"


def test_numbers_for_people():
    assert number(1234567.8, 0) == "1\xa0234\xa0568" and number(None) == "–"
    assert percent(0.1234) == "12.3 %" and percent(None) == "–"
