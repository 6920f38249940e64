#!/usr/bin/env bash
# Figures that only a GPU gives, in at most eight minutes: training steps of LPStain and OT-StainNet with their peak memory,
# LPStain's four markers against one, then the generator alone, the run with its tiles in memory, and autocast and compile
# variants. Prints rows and one table; JSON goes to $OUT/gpu_training.json and $OUT/gpu.json (default: benchmarks/results).
# Needs torch on the machine; carry the wheels of what else is imported, or install wsistain first.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PYTHONPATH="$PWD:${PYTHONPATH:-}"
out="${OUT:-benchmarks/results}"
timeout 150 python3 benchmarks/gpu/training.py --output "$out/gpu_training.json" || echo "training steps: not measured" >&2
exec timeout 320 python3 benchmarks/gpu/generator.py --minutes 4.5 --output "$out/gpu.json" "$@"
