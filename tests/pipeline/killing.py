"""Runs that are killed at random moments, cheaply: a process that has imported everything forks one child a run.

    python -m tests.pipeline.killing SLIDE OUT KILLS SEED

Each child resumes the run in OUT/<n>. It is killed with SIGKILL after a random share of the time of a whole run, until
one gets through; then the next output begins, until there were KILLS kills. Prints a line of JSON: kills, and the
digest of every output. Used by the tests and by benchmarks/soak.py.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from tests.pipeline.slides import small_config, tree_hash
from wsistain.pipeline.run import run

MARKERS = "ER,PR"
MOST_SECONDS = 10.0


def child(slide: Path, out: Path) -> int:
    """Process id of a child that stains `slide` into `out`, resuming what is there."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        run(slide, MARKERS, out, config=small_config(), resume=True)
        code = 0
    finally:
        os._exit(code)
    return 0


def whole_run(slide: Path, out: Path) -> float:
    """Seconds of an unbroken run in a child."""
    start = time.monotonic()
    _, status = os.waitpid(child(slide, out), 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return time.monotonic() - start


def killed_runs(slide: Path, out: Path, kills: int, seed: int) -> dict:
    """Kill until there were `kills` kills and every output is finished; what was seen."""
    moments = random.Random(seed)
    seconds = whole_run(slide, out / "unbroken")
    done, outputs, seen = 0, [], set()
    while done < kills:
        folder = out / str(len(outputs))
        while True:
            pid = child(slide, folder)
            if done < kills:
                time.sleep(moments.uniform(0, 1.1 * min(seconds, MOST_SECONDS)))
                os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            code = os.waitstatus_to_exitcode(status)
            if code == 0:
                break
            assert code == -signal.SIGKILL, f"the run ended with {code}"
            done += 1
            seen.add(progress(folder))
        outputs.append(folder)
    stem = slide.stem
    names = [f"{stem}.{marker}.ome.zarr" for marker in MARKERS.split(",")]
    return {
        "kills": done,
        "seconds": seconds,
        "moments": sorted(seen),
        "unbroken": [tree_hash(out / "unbroken" / name) for name in names],
        "resumed": [[tree_hash(folder / name) for name in names] for folder in outputs],
    }


def progress(folder: Path) -> str:
    """How far a killed run was: journal lines of each output, and whether it was finished."""
    parts = []
    for output in sorted(folder.glob("*.ome.zarr")):
        journal = output / ".wsistain" / "journal.jsonl"
        lines = journal.read_bytes().count(b"\n") if journal.is_file() else -1
        parts.append(f"{lines}{'f' if (output / 'zarr.json').is_file() else ''}")
    return "/".join(parts) or "nothing"


if __name__ == "__main__":
    slide_path, out_path, count, first = sys.argv[1:]
    print(json.dumps(killed_runs(Path(slide_path), Path(out_path), int(count), int(first))))
