"""Our transport against POT's on the work of USIGAN and OT-StainNet: time, memory, agreement of plans and gradients.

USIGAN solves 30 plans of 256 x 256 patches a step (5 layers, 3 pairs, 2 images), 50 rounds in float32 with a gradient;
OT-StainNet one exact plan of 256 or 1024 places an image, without. Each solver runs in a process of its own. On a GPU
seconds are those of the clock and memory is the device's.

    python benchmarks/transport.py --output benchmarks/results/transport.json
    python benchmarks/transport.py --device cuda --output benchmarks/results/transport_gpu.json
"""

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ot as pot
import torch
from common import parser, report
from torch import Tensor

from wsistain import ot

EPS, REG_M, ROUNDS = 1.0, 10.0, 50


def unit(*shape: int, seed: int) -> Tensor:
    """Embeddings of unit length, as alike as a network's (mean cosine about 0.5)."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(*shape, generator=generator) + torch.randn(shape[-1], generator=torch.Generator().manual_seed(9))
    return torch.nn.functional.normalize(z, dim=-1)


def pot_one_by_one(cost: Tensor, **options: Any) -> Tensor:
    """POT's unbatched `ot.solve`, matrix by matrix."""
    return torch.stack([pot.solve(c, **options).plan for c in cost])


def product(cost: Tensor) -> Tensor:
    """The cost under which entropy against 1 is entropy against the product of uniform marginals."""
    return cost + EPS * 2 * math.log(cost.shape[-1])


def unbalanced_by_pot(cost: Tensor) -> Tensor:
    """`ot.solve` with both KL penalties, rounds recorded by autograd."""
    return pot_one_by_one(cost, reg=EPS, reg_type="KL", unbalanced=REG_M, max_iter=ROUNDS, tol=0)


def unrolled(cost: Tensor) -> Tensor:
    """The same rounds in a dozen lines of torch: what wsistain had before."""
    log_k, even = -cost / EPS, -math.log(cost.shape[-1])
    f, g = torch.full_like(cost[..., 0], 0.0), torch.full_like(cost[..., 0, :], 0.0)
    for _ in range(ROUNDS):
        f = even - torch.logsumexp(log_k + g[..., None, :], dim=-1)
        g = even - torch.logsumexp(log_k + f[..., :, None], dim=-2)
    return torch.exp(f[..., :, None] + log_k + g[..., None, :])


def pot_assignment(cost: Tensor) -> Tensor:
    even = np.full(cost.shape[-1], 1 / cost.shape[-1])
    return torch.stack([torch.from_numpy(pot.emd(even, even, c)) for c in cost.double().cpu().numpy()])


Solver = Callable[[Tensor], Tensor]
SOLVERS: dict[str, dict[str, Solver]] = {
    "balanced, entropic": {
        "unrolled here": unrolled,
        "POT: solve_batch": lambda c: (
            pot.solve_batch(c, EPS, max_iter=ROUNDS, tol=-1, method="log_sinkhorn", grad="autodiff").plan
        ),
        "POT: solve": lambda c: pot_one_by_one(c, reg=EPS, max_iter=ROUNDS, tol=0),
    },
    "unbalanced": {
        "ours: unbalanced_plan": lambda c: ot.unbalanced_plan(c, EPS, REG_M, n_iter=ROUNDS),
        "ours: sinkhorn_unbalanced": lambda c: ot.sinkhorn_unbalanced(product(c), EPS, REG_M, n_iter=ROUNDS, tol=0),
        "POT: solve": unbalanced_by_pot,
    },
    "exact, 256 places": {"ours: exact_plan": ot.exact_plan, "POT: emd": pot_assignment},
    "exact, 1024 places": {"ours: exact_plan": ot.exact_plan, "POT: emd": pot_assignment},
}


def peak_mb() -> float:
    """Peak memory of this process alone (what `getrusage` says begins with the parent's)."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def work_of(task: str, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """Embeddings of both sides; the second takes the gradient."""
    shape = (1, int(task.split()[1]), 64) if task.startswith("exact") else (30, 256, 64)
    return unit(*shape, seed=0).to(device, dtype), unit(*shape, seed=1).to(device, dtype).requires_grad_()


def run_once(task: str, solve: Solver, dtype: torch.dtype, device: str = "cpu") -> tuple[Tensor, Tensor | None]:
    """The plans, and for entropic ones the gradient of their squared distance to the identity plan."""
    q, k = work_of(task, dtype, device)
    if task.startswith("exact"):
        return solve(torch.cdist(q, k.detach())), None
    plans = solve(-(q @ k.transpose(1, 2)))
    aim = torch.eye(256, dtype=dtype, device=device) / 256
    (gradient,) = torch.autograd.grad((plans - aim).square().sum(), k)
    return plans.detach(), gradient


def child(task: str, name: str, runs: int, device: str) -> dict[str, float]:
    """Median seconds (of the CPU, or on a GPU of the clock) and the memory that solving adds, in MB."""
    torch.set_num_threads(1)
    is_cuda = device.startswith("cuda")
    run_once("exact, 8 places", ot.exact_plan, torch.float32, device)  # imports
    if is_cuda:
        run_once(task, SOLVERS[task][name], torch.float32, device)  # kernels are loaded at their first use
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() / 2**20 if is_cuda else peak_mb()
    clock, seconds = time.perf_counter if is_cuda else time.process_time, []
    for _ in range(runs):
        start = clock()
        run_once(task, SOLVERS[task][name], torch.float32, device)
        if is_cuda:
            torch.cuda.synchronize()
        seconds.append(clock() - start)
    after = torch.cuda.max_memory_allocated() / 2**20 if is_cuda else peak_mb()
    return {"seconds": round(statistics.median(seconds), 4), "added_mb": round(after - before)}


def agreement(task: str, device: str) -> dict[str, dict[str, float]]:
    """Largest relative difference of plan and gradient to the first solver's, in float64, on four of the plans."""
    found: dict[str, dict[str, float]] = {}
    reference: tuple[Tensor, Tensor | None] | None = None
    for name, solve in SOLVERS[task].items():
        plans, gradient = run_once(task, solve, torch.float64, device)
        if reference is None:
            reference = plans.to(device), gradient
        plans = plans.to(device)
        facts = {"plan": float((plans - reference[0]).abs().max() / reference[0].abs().max())}
        if gradient is not None and reference[1] is not None:
            facts["gradient"] = float((gradient - reference[1]).abs().max() / reference[1].abs().max())
        found[name] = facts
    return found


def main() -> None:
    """Measure every solver on every task."""
    options = parser(__doc__ or "")
    options.add_argument("--runs", type=int, default=5)
    options.add_argument("--device", default="cpu")
    options.add_argument("--child", nargs=2, metavar=("TASK", "SOLVER"))
    args = options.parse_args()
    if args.child:
        print(json.dumps(child(*args.child, args.runs, args.device)))
        return
    results: dict[str, dict[str, Any]] = {}
    for task, solvers in SOLVERS.items():
        agree = agreement(task, args.device)
        results[task] = {}
        for name in solvers:
            command = [
                sys.executable,
                __file__,
                "--runs",
                str(args.runs),
                "--device",
                args.device,
                "--child",
                task,
                name,
            ]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            results[task][name] = {**json.loads(done.stdout), "relative_difference_to_first": agree[name]}
            print(task, name, results[task][name], file=sys.stderr)
    if args.device.startswith("cuda"):
        results["device"] = {"name": torch.cuda.get_device_name(args.device)}
    report("transport", results, args.output)


if __name__ == "__main__":
    main()
