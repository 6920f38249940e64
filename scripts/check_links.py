"""Whether every link of a built site leads somewhere: python scripts/check_links.py site

Links, pictures, styles and scripts that lie in the site, with the places inside pages (`page/#place`); nothing is fetched, and
addresses elsewhere are counted, not asked. Exit code 1 where one leads nowhere.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LINKS = {"a": "href", "link": "href", "img": "src", "script": "src", "source": "src"}


class Page(HTMLParser):
    """What a page links to, and the places in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        self.places |= {value for name in ("id", "name") if (value := told.get(name))}
        if link := told.get(LINKS.get(tag, "")):
            self.links.append(link)


def dead_links(site: Path) -> tuple[list[str], int]:
    """One sentence for each link inside `site` that leads nowhere, and how many were looked at."""
    site = site.resolve()
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    dead, n_seen = [], 0
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            n_seen += 1
            start = site if parts.path.startswith("/") else path.parent
            target = (start / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                dead.append(f"{path.relative_to(site)}: {link}: no such page")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].places:
                dead.append(f"{path.relative_to(site)}: {link}: no such place in the page")
    return dead, n_seen


if __name__ == "__main__":
    found, count = dead_links(Path(sys.argv[1] if len(sys.argv) > 1 else "site"))
    print(*found, sep="\n", end="\n" if found else "")
    print(f"{count} links inside the site, {len(found)} lead nowhere")
    sys.exit(1 if found or not count else 0)
