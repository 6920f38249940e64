"""Loaded into workers by the cluster's tests: each notes that it stains, and may be held after some tiles.

STAINED_BY is a file that gets a line a tile. While the file beside it, `hold`, exists, no more tiles are stained than
it says.
"""

import os
import time
from pathlib import Path

from wsistain.generators.load import IdentityGenerator

LOG = Path(os.environ["STAINED_BY"])


def _is_held() -> bool:
    try:
        most = int(LOG.with_name("hold").read_text())
    except OSError:
        return False
    return LOG.read_text().count("\n") >= most


def _stain(self, tiles, positions):
    while _is_held():
        time.sleep(0.02)
    with LOG.open("a") as log:
        log.write(f"{os.getpid()}\n")
    return tiles


IdentityGenerator.stain = _stain
