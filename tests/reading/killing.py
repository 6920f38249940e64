"""A reading that is killed at chosen places, each time in a child of a process that has imported everything.

    python -m tests.reading.killing STAIN

Prints a line of JSON: the names beside the stain after every kill, and the blocks that the last, unbroken one found done.
"""

import json
import os
import signal
import sys
from pathlib import Path

from wsistain.reading import read as reading

BLOCK = 61


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed(stain: Path, *, block: int | None = None, step: str | None = None) -> list[str]:
    """What lies beside the stain after a reading was killed when `block` blocks were done, or when `step` began."""
    pid = os.fork()
    if not pid:
        try:
            if step is not None:
                setattr(reading, step, lambda *_: kill())
            reading.read([stain], block=BLOCK, progress=lambda done, _: kill() if done == block else None)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    return sorted(p.name for p in stain.parent.glob("*.ER.*"))


if __name__ == "__main__":
    place = Path(sys.argv[1])
    seen = [killed(place, block=1), killed(place, block=4), killed(place, step="write_facts")]
    print(json.dumps({"seen": seen, "resumed": reading.read([place], block=BLOCK)[0].resumed_blocks}))
