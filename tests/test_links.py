"""The check of a built site finds links that lead nowhere, and no others; notebooks' links become pages."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def a_site(folder: Path, links: str) -> Path:
    (folder / "page one").mkdir()
    (folder / "a.png").write_bytes(b"")
    (folder / "page one" / "index.html").write_text('<h2 id="grüße">x</h2><a name="old"></a>', encoding="utf-8")
    (folder / "index.html").write_text(f'<p id="here">{links}', encoding="utf-8")
    return folder


def test_links_that_lead_somewhere_are_no_fault(tmp_path):
    good = """<a href="page%20one/">1</a> <a href="page%20one/#gr%C3%BC%C3%9Fe">2</a> <a href="page one/index.html#old">3</a>
        <a href="#here">4</a> <a href="/page one/">5</a> <img src="a.png"> <a href="https://elsewhere.example/x">6</a>
        <a href="mailto:a@b.example">7</a> <a href="data:,x">8</a> <a>9</a>"""
    assert script("check_links").dead_links(a_site(tmp_path, good)) == ([], 6)


@pytest.mark.parametrize(
    ("link", "said"),
    [
        ('<a href="nowhere/">', "no such page"),
        ('<a href="page one/#nothing">', "no such place"),
        ('<a href="#nothing">', "no such place"),
        ('<img src="b.png">', "no such page"),
        ('<script src="x.js">', "no such page"),
        ('<a href="page one.md">', "no such page"),
    ],
)
def test_a_link_that_leads_nowhere_is_named(tmp_path, link, said):
    (sentence,), _ = script("check_links").dead_links(a_site(tmp_path, link))
    assert sentence.startswith("index.html: ") and sentence.endswith(said if said != "no such place" else "in the page")


def test_links_of_notebooks_become_pages_of_the_site(caplog):
    pages = {"running.md": "../../running/", "tutorials/read.ipynb": "../read/"}
    files = SimpleNamespace(
        get_file_from_path=lambda path: (
            SimpleNamespace(url_relative_to=lambda _: pages[path]) if path in pages else None
        )
    )
    page = SimpleNamespace(file=SimpleNamespace(src_uri="tutorials/stain.ipynb"))
    hook = script("notebook_links").on_page_content
    html = '<a href="../running.md#seams"> <a href="read.ipynb"> <a href="https://x.example/a.md"> <a href="#a.md">'
    assert hook(html, page=page, config=None, files=files) == (
        '<a href="../../running/#seams"> <a href="../read/"> <a href="https://x.example/a.md"> <a href="#a.md">'
    )
    assert not caplog.records
    assert hook('<a href="gone.md">', page=page, config=None, files=files) == '<a href="gone.md">'
    assert "stain.ipynb links to gone.md" in caplog.text  # a warning, and an error where the build is strict
    page.file.src_uri = "index.md"
    assert hook(html, page=page, config=None, files=files) == html
