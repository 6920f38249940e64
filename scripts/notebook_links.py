"""A hook of mkdocs: links of notebooks to other pages (`../running.md`), which mkdocs-jupyter leaves as they are.

So a link works in Jupyter, in a code browser and on the site; one to a page that is not there is a warning, an error in a strict build.
"""

import logging
import posixpath
import re
from typing import Any

LINK = re.compile(r'href="([^":#]+\.(?:md|ipynb))(#[^"]*)?"')
LOG = logging.getLogger("mkdocs.hooks.notebook_links")


def on_page_content(html: str, *, page: Any, config: Any, files: Any) -> str:
    """The page with links to sources replaced by links to pages; only notebooks are touched."""
    del config
    source = page.file.src_uri
    if not source.endswith(".ipynb"):
        return html

    def led(link: re.Match[str]) -> str:
        target = files.get_file_from_path(posixpath.normpath(posixpath.join(posixpath.dirname(source), link[1])))
        if target is None:
            LOG.warning("%s links to %s, which is no page", source, link[1])
            return link[0]
        return f'href="{target.url_relative_to(page.file)}{link[2] or ""}"'

    return LINK.sub(led, html)
