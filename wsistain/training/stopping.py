"""Ctrl-C and SIGTERM while a run trains: the step under way is finished and kept, then the run ends."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
from accelerate import Accelerator

_ASK_EVERY = 10
"""Steps after which several processes ask each other: each question waits for the GPU."""


_TOLD_TWICE = 3.0
"""Seconds in which a signal is the one before, heard again: `torchrun` hands on what SLURM or a terminal told all processes."""


class Stopped(KeyboardInterrupt):
    """A run that was asked to stop and has kept where it is; the text says how to go on."""

    def __init__(self, output: Path, done: int, steps: int):
        super().__init__(f"step {done} of {steps} is kept, go on with 'wsistain train --resume --output {output}'")


@contextmanager
def stop_asked(accelerator: Accelerator) -> Iterator[Callable[[int], bool]]:
    """A function of the steps done that tells whether to stop now, in all processes alike.

    Within the block the first Ctrl-C or SIGTERM is only noted; a second one ends the step under way with
    KeyboardInterrupt (of several processes: one that comes `_TOLD_TWICE` later). Outside the main thread, where Python lets nobody say what a signal does, nothing is noted.
    """
    asked: list[float] = []

    def note(number: int, frame: FrameType | None) -> None:
        at = time.monotonic()
        if asked and accelerator.num_processes > 1 and at - asked[0] < _TOLD_TWICE:
            return
        if asked:
            raise KeyboardInterrupt
        asked.append(at)
        if accelerator.is_main_process:
            os.write(2, b"stopping after this step, which is kept (again: at once)\n")

    def now(done: int) -> bool:
        if accelerator.num_processes == 1:
            return bool(asked)
        if done % _ASK_EVERY:
            return False
        mine = torch.tensor([float(bool(asked))], device=accelerator.device)
        return bool(accelerator.reduce(mine, reduction="sum").item())

    heeded = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, note) for number in heeded}
    try:
        yield now
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
