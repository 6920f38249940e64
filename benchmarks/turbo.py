"""Cost of the SD-Turbo translator at its real size with random weights, and of OT-StainNet's matching beside it.

    python benchmarks/turbo.py                                  one tile on the CPU, once (needs about 10 GB)
    python benchmarks/turbo.py --device cuda --batch 8          tiles a second in half precision, compiled and not
    python benchmarks/turbo.py --size tiny                      a dry run in seconds

Prints one JSON: seconds of staining a tile (adapters merged), of a training pass (forward and backward through U-Net and
VAE with adapters), and of the matching at n = (px / 8)^2 for each solver; `matching_share_of_pass` is matching : one pass
with the passes' time as it is, `matching_share_of_step` the same against the six passes of an OT-StainNet step, both for
one pair. Times on the CPU are CPU seconds of one thread, so that they can be compared on a busy machine.
"""

import resource
import time
from collections.abc import Callable
from typing import Any

import torch
from common import parser, report
from torch import Tensor

from wsistain.losses.semantic import Solver, aligned_features, feature_rows, match_plan, semantic_consistency
from wsistain.networks.sd_turbo import BUILT_IN, PUBLISHED_TOKENS, PUBLISHED_UNET, PUBLISHED_VAE, build_parts, load_base
from wsistain.networks.turbo import (
    OneStepTranslator,
    SkipVae,
    Training,
    adapt_unet,
    adapt_vae,
    merge_adapters,
    run_down_blocks,
)

PASSES = 6  # of an OT-StainNet step: two fakes, two cycles, two identities


def translator(size: str, device: str, rank: int) -> OneStepTranslator:
    """A translator with adapters and random weights, of the published size or a built-in one."""
    if size in BUILT_IN:
        unet, autoencoder = load_base(size)
        prompt = torch.zeros(1, 7, unet.config.cross_attention_dim)
    else:
        with torch.device("meta"):
            unet, autoencoder = build_parts(PUBLISHED_VAE, PUBLISHED_UNET)
        unet, autoencoder = unet.to_empty(device="cpu"), autoencoder.to_empty(device="cpu")
        prompt = torch.randn(1, PUBLISHED_TOKENS, 1024)
        with torch.no_grad():
            for module in (unet, autoencoder):
                for name, p in module.named_parameters():
                    norm_scale = name.endswith("weight") and p.dim() == 1
                    _ = p.fill_(1.0) if norm_scale else p.zero_() if p.dim() == 1 else p.uniform_(-0.02, 0.02)
    vae = SkipVae(autoencoder)
    training = Training(rank_unet=rank, rank_vae=4)
    adapt_unet(unet, training)
    adapt_vae(vae, training)
    return OneStepTranslator(unet, vae, prompt).to(device)


def seconds(task: Callable[[], Any], device: str, repeats: int) -> float:
    """The fastest of `repeats` runs: CPU seconds on the CPU, wall seconds on a GPU."""
    best = float("inf")
    for _ in range(repeats):
        if device == "cpu":
            start = time.process_time()
            task()
            best = min(best, time.process_time() - start)
        else:
            torch.cuda.synchronize()
            start = time.perf_counter()
            task()
            torch.cuda.synchronize()
            best = min(best, time.perf_counter() - start)
    return best


def matching(network: OneStepTranslator, px: int, device: str, repeats: int) -> dict[str, float]:
    """Seconds of each part of the semantic term of one pair: features, plan by each solver, alignment and loss."""
    he, ihc = (torch.rand(1, 3, px, px, device=device) * 2 - 1 for _ in range(2))

    @torch.no_grad()
    def rows(image: Tensor) -> Tensor:
        return feature_rows(run_down_blocks(network.vae.encoder, image)[0])

    x, y = rows(he), rows(ihc)

    def solved(solver: Solver) -> Tensor:
        plan_ot = match_plan(x, y, solver)
        return semantic_consistency(aligned_features(plan_ot, y), x)

    found: dict[str, float] = {"n": float(x.shape[1]), "d": float(x.shape[2])}
    found["features"] = seconds(lambda: (rows(he), rows(ihc)), device, repeats)
    for solver in ("exact", "entropic", "none"):
        found[solver] = seconds(lambda solver=solver: solved(solver), device, repeats)
    return found


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--size", default="published", choices=["published", *BUILT_IN])
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--px", type=int, default=256, help="edge of a tile")
    arguments.add_argument("--batch", type=int, default=1)
    arguments.add_argument("--rank", type=int, default=128, help="rank of the U-Net's adapters")
    arguments.add_argument("--repeats", type=int, default=1)
    args = arguments.parse_args()
    torch.manual_seed(0)
    if args.device == "cpu":
        torch.set_num_threads(1)
    network = translator(args.size, args.device, args.rank)
    image = torch.rand(args.batch, 3, args.px, args.px, device=args.device) * 2 - 1
    trained = [p for p in network.parameters() if p.requires_grad]

    def train_pass() -> None:
        network(image, sample=True).square().mean().backward()
        for p in trained:
            p.grad = None

    results: dict[str, Any] = {
        "size": args.size,
        "device": torch.cuda.get_device_name() if args.device.startswith("cuda") else "cpu, one thread",
        "px": args.px,
        "batch": args.batch,
        "parameters": sum(p.numel() for p in network.parameters()),
        "trained_parameters": sum(p.numel() for p in trained),
    }
    warm = args.repeats if args.device == "cpu" else max(args.repeats, 5)
    results["matching_seconds"] = matching(network, args.px, args.device, max(args.repeats, 3))
    results["train_pass_seconds"] = seconds(train_pass, args.device, warm)
    one_pass = results["train_pass_seconds"] / args.batch
    for key, passes in (("pass", 1), ("step", PASSES)):
        results[f"matching_share_of_{key}"] = {
            solver: results["matching_seconds"][solver] / (passes * one_pass) for solver in ("exact", "entropic")
        }
    network.requires_grad_(False)
    merge_adapters(network)
    results["stain"] = staining(network.eval(), image, args.device, warm)
    results["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    report("turbo", results, args.output)


@torch.no_grad()
def staining(network: OneStepTranslator, image: Tensor, device: str, repeats: int) -> dict[str, float]:
    """Tiles a second: float32 on the CPU; on a GPU bfloat16 and float16, as they are and compiled.

    Beside each precision its mean difference from float32 in grey levels.
    """
    n = len(image)
    if device == "cpu":
        return {"float32_tiles_per_second": n / seconds(lambda: network(image), device, repeats)}
    network = network.to(memory_format=torch.channels_last)
    image = image.contiguous(memory_format=torch.channels_last)
    compiled = torch.compile(network)
    found, exact = {}, network(image)
    for dtype in (torch.bfloat16, torch.float16):
        name = str(dtype).removeprefix("torch.")
        with torch.autocast("cuda", dtype=dtype):
            found[f"{name}_grey_levels"] = 127.5 * (network(image) - exact).abs().mean().item()
            for kind, call in (("", network), ("_compiled", compiled)):
                call(image)  # compiles, and chooses kernels
                found[f"{name}{kind}_tiles_per_second"] = n / seconds(lambda call=call: call(image), device, repeats)
    return found


if __name__ == "__main__":
    main()
