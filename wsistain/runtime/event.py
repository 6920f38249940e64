"""What a long piece of work tells whoever watches it."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class RunEvent:
    """Progress of a run.

    stage       : "staining", or what comes before it.
    done, total : blocks that are written, of all; in another stage its own parts.
    megapixels, total_megapixels : written so far, of all.
    tiles, total_tiles           : stained so far, of all; while blocks wait to be whole these move.
    note        : a sentence for whoever watches; "" but for events that bring nothing else.
    """

    stage: str
    done: int = 0
    total: int = 0
    megapixels: float = 0.0
    total_megapixels: float = 0.0
    tiles: int = 0
    total_tiles: int = 0
    note: str = ""


STAINING = "staining"
"""The stage in which blocks are made."""


OnEvent = Callable[[RunEvent], None]


def is_silent(event: RunEvent) -> None:
    """Nobody watches."""
