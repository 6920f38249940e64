"""Mutated slides, weights, configurations, GeoJSON files and sample sheets by the thousand.

    python benchmarks/fuzz.py --cases 10000 --data ../shared/data/slides --processes 2

Every case runs in a process of its own with 30 seconds and 2 GB; see tests/fuzzing.py. Prints the counts; a fault (a
traceback, a signal, a limit, or something that looks finished and is not) is listed, and its file kept in --keep.
"""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import common

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Share the cases among processes and add up what they found; exit 1 when there were faults."""
    options = common.parser(__doc__ or "")
    options.add_argument("--cases", type=int, default=10_000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--processes", type=int, default=2)
    options.add_argument("--data", type=Path, help="folder of real slides; those under 200 kB are mutated too")
    options.add_argument("--keep", type=Path, default=Path("runs/fuzz"))
    args = options.parse_args()
    share = -(-args.cases // args.processes)
    children = [
        subprocess.Popen(command(args, share, k), stdout=subprocess.PIPE, cwd=ROOT) for k in range(args.processes)
    ]
    results = [json.loads(child.communicate()[0]) for child in children]
    counts: Counter[str] = Counter()
    for result in results:
        counts.update(result["counts"])
    faults = [fault for result in results for fault in result["faults"]]
    common.report(
        "fuzz",
        {
            "cases": sum(r["cases"] for r in results),
            "seed": args.seed,
            "counts": dict(sorted(counts.items())),
            "slowest_s": round(max(r["slowest_s"] for r in results), 2),
            "faults": faults,
        },
        args.output,
    )
    sys.exit(bool(faults))


def command(args, share: int, k: int) -> list[str]:
    """One process of the fuzzer, with a seed of its own."""
    made = [sys.executable, "-m", "tests.fuzzing", "--cases", str(share), "--seed", str(args.seed * 1000 + k)]
    made += ["--keep", str(args.keep.absolute())]
    return [*made, "--data", str(args.data.absolute())] if args.data else made


if __name__ == "__main__":
    main()
