#!/usr/bin/env bash
# Figures that only a GPU gives, in at most eight minutes: the generator alone, the run with its tiles in memory, and
# autocast and compile variants. Prints one table; JSON goes to $OUT/gpu.json (default: benchmarks/results).
# Needs torch on the machine; carry the wheels of what else is imported, or install wsistain first.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PYTHONPATH="$PWD:${PYTHONPATH:-}"
exec timeout 480 python3 benchmarks/gpu/generator.py --output "${OUT:-benchmarks/results}/gpu.json" "$@"
