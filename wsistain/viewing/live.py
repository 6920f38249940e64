"""A page that shows a run while it goes on."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from wsistain.output.names import output_name
from wsistain.viewing.gallery import Gallery
from wsistain.viewing.samples import make_wanted
from wsistain.viewing.serve import Served, check_installed, serve

IDLE_S = 90.0
"""A page in a hidden tab asks once a minute: whoever has not asked for longer is gone."""


@contextmanager
def watching(slide: str, markers: Sequence[str], output: Path, *, mpp: float | None = None) -> Iterator[Served]:
    """A server, answering already, for the results that a run of `slide` will write to `output`.

    ConfigError where the extra `view` is not installed; what is wrong with the slide is for the run to say.
    """
    check_installed()
    expected = [output / f"{output_name(slide, marker)}.ome.zarr" for marker in markers]
    is_here = "://" not in slide and Path(slide).exists()
    served = serve(Gallery(make_wanted([], slides=[slide] if is_here else [], mpp=mpp, expected=expected)))
    served.start()
    try:
        yield served
    finally:
        served.stop()


def stay(served: Served, *, idle_s: float | None = None) -> None:
    """Return when the last page was closed (nobody asked for `idle_s` seconds, `IDLE_S` by default); at once where none was ever open."""
    if served.was_asked:
        served.wait_until_unseen(IDLE_S if idle_s is None else idle_s)
