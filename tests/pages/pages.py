"""Looking at a page as a browser takes it: its elements, and whether it keeps to itself."""

import base64
import hashlib
from html.parser import HTMLParser


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self._inside = tag

    def handle_data(self, data):
        (self.scripts if self._inside == "script" else self.text).append(data)

    def handle_endtag(self, tag):
        self._inside = ""


def elements(page: str) -> list[tuple[str, dict[str, str | None]]]:
    """(tag, attributes) of every element."""
    parser = _Elements()
    parser.feed(page)
    return parser.found


def text_of(page: str) -> str:
    """What is to be read."""
    parser = _Elements()
    parser.feed(page)
    return " ".join(" ".join(parser.text).split())


def check_self_contained(page: str) -> None:
    """Nothing is loaded, and nothing runs but the one script that the page's policy names."""
    parser = _Elements()
    parser.feed(page)
    policy = next(a["content"] for _, a in parser.found if a.get("http-equiv") == "Content-Security-Policy")
    hashes = ["sha256-" + base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in parser.scripts]
    assert "default-src 'none'" in policy and len(hashes) == 1 and f"'{hashes[0]}'" in policy
    for tag, attributes in parser.found:
        assert tag not in ("iframe", "object", "embed", "link", "base", "form")
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ("src", "href"):
            place = attributes.get(name) or "#"
            assert place.startswith(("data:image/", "#", "./")), place[:80]
