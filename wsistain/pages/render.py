"""A template and values to one HTML file that needs nothing else.

Names of slides, classes and licences come from files of others: every value is escaped, and the page's own policy forbids
it to load or run anything that is not part of it, so that what slips through is text all the same.

Source: Jinja2 documentation (autoescaping); W3C, Content Security Policy Level 3 (hashes of inline scripts).
"""

import base64
import hashlib
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from wsistain.errors import shown


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("wsistain.pages", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    environment.filters |= {"number": number, "percent": percent, "link": link}
    environment.globals |= {"style": _ours("style.css"), "sort_script": _ours("sort.js")}
    environment.globals["sort_hash"] = _hash(_ours("sort.js"))
    return environment


def _ours(name: str) -> Markup:
    """A file of the package, which is not escaped."""
    from importlib.resources import files

    return Markup((files("wsistain.pages") / "templates" / name).read_text(encoding="utf-8"))


def _hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


def _printable(value: Any) -> Any:
    """Text without characters that turn the direction of writing, or bytes that are no text."""
    return shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def render(template: str, **values: Any) -> str:
    """The page of a template in `pages/templates`; a value that the template names and nobody gives is an error."""
    return _environment().get_template(template).render(**values)


def number(value: float | None, digits: int = 1) -> str:
    """A number for people, an en dash for None."""
    return "–" if value is None else f"{value:,.{digits}f}".replace(",", "\xa0")


def percent(share: float | None, digits: int = 1) -> str:
    """A share 0..1 as percent."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def link(path: str) -> str:
    """A file below the page's own folder as an address: never one with a scheme, whatever the file is called."""
    return "./" + quote(str(PurePosixPath(path)), errors="surrogateescape")
