"""Fifty runs killed with SIGKILL at random moments and resumed: are the bytes those of an unbroken run?

    python benchmarks/soak.py --kills 50 --seed 0

The moments are uniform over the time of a whole run, its start and end included. tests/pipeline/killing.py does the
work; this script makes the slide and reports.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import common
import numpy as np

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Print kills, the different states in which a run died, and whether every output came out the same."""
    options = common.parser(__doc__ or "")
    options.add_argument("--kills", type=int, default=50)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--size", type=int, default=1500, help="edge of the slide, px; blocks are 256 px")
    args = options.parse_args()
    sys.path.insert(0, str(ROOT))
    from tests.pipeline.slides import tissue_picture, write_slide

    with tempfile.TemporaryDirectory() as name:
        slide = write_slide(Path(name) / "case.tiff", tissue_picture(args.size, args.size))
        command = [sys.executable, "-m", "tests.pipeline.killing", slide, Path(name) / "out", args.kills, args.seed]
        child = subprocess.run([str(c) for c in command], check=True, stdout=subprocess.PIPE, cwd=ROOT)
    facts = json.loads(child.stdout)
    same = [digests == facts["unbroken"] for digests in facts["resumed"]]
    common.report(
        "soak",
        {
            "kills": facts["kills"],
            "seed": args.seed,
            "outputs": len(same),
            "outputs_with_the_same_bytes": int(np.sum(same)),
            "seconds_of_an_unbroken_run": round(facts["seconds"], 2),
            "states_at_death": facts["moments"],
        },
        args.output,
    )
    sys.exit(not all(same))


if __name__ == "__main__":
    main()
