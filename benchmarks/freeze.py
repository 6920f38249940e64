"""The frozen list of a condition of an edition: made once, before anybody is scored on it, and never again.

    python benchmarks/freeze.py v1 mist-c3-ER --work runs/freeze

Makes the pictures from their seeds and writes what they look like to wsistain/benchmark/frozen/EDITION/CONDITION.npz. A list that is
there is left alone: replacing it would make another benchmark under an old name. Then add the condition to the edition.
"""

import resource
from pathlib import Path
from typing import get_args

import common

from wsistain.benchmark.edition import Condition, find_edition
from wsistain.benchmark.listed import listed_now
from wsistain.benchmark.make import make_unchecked
from wsistain.config import Pairing
from wsistain.markers import MARKERS
from wsistain.runtime.files import write_bytes


def condition_of(name: str) -> Condition:
    """PAIRING-cCONTRAST-MARKER as a condition, in the edition or not yet."""
    pairing, contrast, marker = name.split("-")
    if pairing not in get_args(Pairing) or contrast not in ("c1", "c2", "c3", "c4") or marker not in MARKERS:
        raise SystemExit(f"{name} is no PAIRING-cCONTRAST-MARKER, such as mist-c3-ER")
    return Condition(pairing, int(contrast[1:]), marker)  # type: ignore[arg-type]


def main() -> None:
    """Freeze what is not frozen yet."""
    options = common.parser(__doc__ or "")
    options.set_defaults(work=Path("runs/freeze"))
    options.add_argument("edition")
    options.add_argument("conditions", nargs="+", metavar="CONDITION")
    options.add_argument("--lists", type=Path, default=Path(__file__).parents[1] / "wsistain" / "benchmark" / "frozen")
    args = options.parse_args()
    edition = find_edition(args.edition)
    for task in map(condition_of, args.conditions):
        path = args.lists / edition.name / f"{task.name}.npz"
        if path.is_file():
            print(f"{edition.name} {task.name}: frozen already", flush=True)
            continue
        before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        make_unchecked(args.work / edition.name, task, edition)
        listed = listed_now(args.work / edition.name, task)
        if len(listed.pixels) != edition.pictures() or len(listed.cells) != edition.val + edition.test:
            raise SystemExit(
                f"{task.name}: {len(listed.pixels)} pictures and {len(listed.cells)} tables; remove them and begin anew"
            )
        write_bytes(path, listed.packed())
        seconds = resource.getrusage(resource.RUSAGE_SELF).ru_utime - before
        print(
            f"{edition.name} {task.name}: {len(listed.pixels)} pictures in {seconds:.0f} s, {listed.digest()}",
            flush=True,
        )


if __name__ == "__main__":
    main()
