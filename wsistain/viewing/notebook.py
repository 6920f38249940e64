"""`wsistain.view(...)`: the page inside a notebook."""

import atexit
import html
from collections.abc import Sequence
from pathlib import Path

from wsistain.viewing.gallery import Gallery
from wsistain.viewing.samples import make_wanted
from wsistain.viewing.serve import Served, serve

NOTEBOOKS = "'self' http://localhost:* http://127.0.0.1:* https://localhost:* vscode-webview: https://*.vscode-cdn.net"
"""Pages that may hold this one in a frame: notebooks that run on this machine."""


class View:
    """The page as a notebook shows it: the last value of a cell, or `url` in any browser. `close` ends its server."""

    def __init__(self, served: Served, height_px: int) -> None:
        self._served, self._height = served, height_px
        atexit.register(self.close)

    @property
    def url(self) -> str:
        """The address, with its token; only this machine can open it."""
        return self._served.url

    def close(self) -> None:
        """End the server; safe to repeat."""
        atexit.unregister(self.close)
        self._served.stop()

    def _repr_html_(self) -> str:
        address = html.escape(self.url, quote=True)
        return (
            f'<iframe src="{address}" width="100%" height="{self._height}" style="border:1px solid #ccc" '
            'title="wsistain view" allow="clipboard-write"></iframe>'
            f'<p><a href="{address}" target="_blank" rel="noopener">Open it in a tab</a>. '
            "Virtual stains are for research, not for diagnosis.</p>"
        )

    def __repr__(self) -> str:
        return f"View({self.url})"


def view(
    results: str | Path | Sequence[str | Path],
    *,
    slide: str | Path | Sequence[str | Path] | None = None,
    reference: str | Path | None = None,
    roi: str | Path | None = None,
    cells: str | Path | None = None,
    mpp: float | None = None,
    height_px: int = 640,
) -> View:
    """H&E and virtual stains side by side, in a notebook or any browser of this machine.

    results   : stains (`.ome.zarr`) or folders of them, one or several.
    slide     : the H&E slide, a folder of slides, or several; None: looked for where the results say.
    reference : a real IHC of the same block, laid over the stain.
    roi       : GeoJSON of areas to draw over the slide. cells: GeoParquet or GeoJSON of cells.
    mpp       : um per px of slides that do not say.
    height_px : of the frame in the notebook.

    The server ends with `close`, or with Python. Raises WsistainError children where something cannot be shown.
    """
    slides = () if slide is None else _several(slide)
    wanted = make_wanted(_several(results), slides=slides, reference=reference, roi=roi, cells=cells, mpp=mpp)
    served = serve(Gallery(wanted), ancestors=NOTEBOOKS)
    served.start()
    return View(served, height_px)


def _several(given: str | Path | Sequence[str | Path]) -> list[str | Path]:
    return [given] if isinstance(given, str | Path) else list(given)
