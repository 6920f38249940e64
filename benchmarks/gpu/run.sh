#!/usr/bin/env bash
# Figures that only a GPU gives, in at most eight minutes: training steps of LPStain and OT-StainNet with their peak memory,
# LPStain's four markers against one, our transport against POT's, then the generator alone, the run with its tiles in
# memory, and autocast and compile variants. Prints rows and one table; JSON goes to $OUT (default: benchmarks/results):
# gpu_training.json, transport_gpu.json and gpu.json.
# Needs torch on the machine; carry the wheels of what else is imported, or install wsistain first.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PYTHONPATH="$PWD:${PYTHONPATH:-}"
out="${OUT:-benchmarks/results}"
timeout 140 python3 benchmarks/gpu/training.py --output "$out/gpu_training.json" || echo "training steps: not measured" >&2
timeout 100 python3 benchmarks/transport.py --device cuda --runs 3 --output "$out/transport_gpu.json" ||
    echo "transport: not measured" >&2
exec timeout 240 python3 benchmarks/gpu/generator.py --minutes 3.3 --output "$out/gpu.json" "$@"
