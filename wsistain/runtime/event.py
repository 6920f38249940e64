"""What a long piece of work tells whoever watches it."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class RunEvent:
    """Progress of a run: `done` of `total` blocks, and megapixels written so far of all."""

    stage: str
    done: int
    total: int
    megapixels: float
    total_megapixels: float


OnEvent = Callable[[RunEvent], None]


def is_silent(event: RunEvent) -> None:
    """Nobody watches."""
