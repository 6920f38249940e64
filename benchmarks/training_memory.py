"""Memory and work of one training step at the shipped settings, counted without computing anything.

    python benchmarks/training_memory.py ot_stainnet cyclegan_turbo
    python benchmarks/training_memory.py ot_stainnet --set options.model.checkpointing=false --set precision=float32

Networks of the published sizes are made of tensors without content (torch's fake tensors), so that SD-Turbo, CLIP and
VGG16 need not be here and any machine can count what a card must hold: parameters, gradients, optimiser, activations.
Two steps are made, since optimisers take their memory in the first, and a third in which the work is counted. A lower bound: CUDA's context (half a GiB), the
workspaces of cuDNN and the allocator's waste come on top. `tflop_a_step` counts multiplications and additions of
convolutions and matrix products, what is computed again included: `hours_at_30` is what all steps would take at 30
TFLOP a second, which a 24 GB card of 2023 sustains in bfloat16 or TF32. An estimate, not a measurement.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary

GIB = 2**30
MIST_PATCHES = 4153  # of ER, Li et al. 2023; for configurations that count in epochs


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages that are alive; `peak` is the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Any = WeakIdKeyDictionary()
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (
            func is torch.ops.aten._local_scalar_dense.default
        ):  # a number that is looked at: tensors without content have none
            return {torch.bool: True, torch.int64: 0}.get(args[0].dtype, 2.0)
        out = func(*args, **(kwargs or {}))
        torch.utils._pytree.tree_map_only(torch.Tensor, self.count, out)
        return out

    def count(self, tensor: torch.Tensor) -> None:
        """Take a tensor's storage into account, once, until it dies."""
        storage = tensor.untyped_storage()
        if storage in self.seen:
            return
        size = storage.nbytes()
        self.seen[storage] = _Alive(self, size)
        self.now += size
        self.peak = max(self.peak, self.now)


class _Alive:
    """Gives its bytes back when its storage is gone."""

    def __init__(self, counter: LiveBytes, size: int) -> None:
        self.counter, self.size = counter, size

    def __del__(self) -> None:
        self.counter.now -= self.size


@contextmanager
def published_sizes(module: ModuleType) -> Iterator[None]:
    """Published networks as random ones of their sizes, instead of files, in the system's `module`."""
    from wsistain import ot
    from wsistain.networks import sd_turbo
    from wsistain.networks.nucleus_counter import SmallCounter
    from wsistain.networks.vgg import Vgg16Features
    from wsistain.systems import turbo_parts

    made: dict[str, Any] = {
        "load_base": lambda _: sd_turbo.build_parts(sd_turbo.PUBLISHED_VAE, sd_turbo.PUBLISHED_UNET),
        "require_published": lambda *_: None,
        "embed_prompt": lambda *_: torch.zeros(1, 77, 1024),
        "base_fingerprint": lambda _: "",
        "load_image_tower": lambda _: turbo_parts.ClipImageTower(),
        "build_lpips": lambda _: turbo_parts.Lpips("vgg"),
        "match_plan": lambda a, b, *_, **__: torch.zeros(len(a), a.shape[1], b.shape[1]),  # solved on the CPU
        "clip_text_embedding": lambda *_: torch.zeros(1, 512),
        "annotate_batch": lambda light, *_: torch.zeros_like(light[:, :1]),  # by scikit-image on the CPU
        "sesim_network": lambda _: Vgg16Features(1, (11, 18)).requires_grad_(False).eval(),
        "load_counter": lambda _: SmallCounter().requires_grad_(False).eval(),
    }
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(ot, "sinkhorn", _plan_by_logs))
        for place in (turbo_parts, module):
            for name, stand_in in made.items():
                if hasattr(place, name):
                    stack.enter_context(mock.patch.object(place, name, stand_in))
        yield


def _plan_by_logs(
    cost: torch.Tensor,
    reg: float,
    a: torch.Tensor | None = None,
    b: torch.Tensor | None = None,
    *,
    n_iter: int = 1000,
    tol: float = 0,
) -> torch.Tensor:
    """A balanced plan of as many rounds, without POT's looks at the numbers in between."""
    from wsistain import ot

    return ot.sinkhorn_unbalanced(cost, reg, 1e9, a, b, n_iter=n_iter, tol=0)


def without_content(system: Any, mode: FakeTensorMode) -> None:
    """Give `system`, built on the meta device, fake tensors that pass for the CPU's, in its optimisers too."""
    made: dict[int, Any] = {}

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in made:
            new = mode.fake_tensor_converter.from_meta_and_device(mode, tensor.detach(), torch.device("cpu"))
            is_parameter = isinstance(tensor, torch.nn.Parameter)
            made[id(tensor)] = torch.nn.Parameter(new, tensor.requires_grad) if is_parameter else new
        return made[id(tensor)]

    for module in system.modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    table[name] = fake(tensor)
    for optimizer in system.optimizers.values():
        for group in optimizer.param_groups:
            group["params"] = [fake(p) for p in group["params"]]


def peak_of(config: Path, overrides: list[str], n_steps: int = 2, *, with_work: bool = True) -> dict[str, Any]:
    """GiB at the peak and at rest of a configuration's training steps, and the numbers of its networks."""
    from wsistain.config import MIST_MPP, TrainConfig, load_config
    from wsistain.markers import find_marker
    from wsistain.systems import find_system, system_class
    from wsistain.systems.base import Batch, FrozenBase, Progress

    cfg = load_config(TrainConfig, config, overrides)
    module = find_system(cfg.system)
    options = module.Config.preset(cfg.preset, cfg.options)
    if cfg.system == "lpstain":  # colours of dyes that its training pictures would tell
        rng = np.random.default_rng(0)
        pictures = [tuple(rng.integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)) for _ in range(2)]
        options = options.measured(find_marker(cfg.marker.split(",")[0]), pictures, cfg.data.mpp or MIST_MPP)
    autocast = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[cfg.precision]
    with published_sizes(module), torch.device("meta"):
        system = system_class(cfg.system)(options, find_marker(cfg.marker.split(",")[0])).train()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, published_sizes(module):
        without_content(system, mode)
        if autocast is torch.bfloat16 and isinstance(system, FrozenBase):
            system.store_frozen(torch.bfloat16)
        live = LiveBytes()
        for tensor in (*system.parameters(), *system.buffers()):
            live.count(tensor)
        rest = live.now
        shape = (cfg.batch_size, 3, cfg.data.crop_px, cfg.data.crop_px)
        is_paired = cfg.data.pairing == "weak"
        names = tuple(str(n) for n in range(cfg.batch_size))
        batch = Batch(torch.rand(shape), torch.rand(shape), cfg.marker.split(",")[0], names, is_paired)
        progress = Progress(step=0, epoch=0, steps=2, epochs=1, decay_epochs=0, steps_per_epoch=2)

        def update(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
            with torch.autocast("cpu", enabled=False):
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            torch.clear_autocast_cache()

        # Memory first: counting the work takes operations apart, and what they leave in between would be counted with them.
        for _ in range(n_steps):
            with live, torch.autocast("cpu", autocast, enabled=autocast is not None):
                system.training_step(batch, progress, update)
        flops = FlopCounterMode(display=False)
        if with_work:
            with flops, LiveBytes(), torch.autocast("cpu", autocast, enabled=autocast is not None):
                system.training_step(batch, progress, update)
        counts = Counter({True: 0, False: 0})
        for p in system.parameters():
            counts[p.requires_grad] += p.numel()
    tflop = flops.get_total_flops() / 1e12
    steps = cfg.steps or (cfg.epochs + cfg.decay_epochs) * MIST_PATCHES // cfg.batch_size
    return {
        "tflop_a_step": round(tflop, 2),
        "steps": steps,
        "hours_at_30": round(steps * tflop / 30 / 3600, 1),
        "peak_gib": round(live.peak / GIB, 2),
        "at_rest_gib": round(rest / GIB, 2),
        "trained_millions": round(counts[True] / 1e6, 1),
        "frozen_millions": round(counts[False] / 1e6, 1),
        "precision": cfg.precision,
        "crop_px": cfg.data.crop_px,
        "batch_size": cfg.batch_size,
    }


def main() -> None:
    """Count each named configuration, print a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    args = parser.parse_args()
    from wsistain.packaged import training_config

    for name in args.configs:
        print(str(name), json.dumps(peak_of(training_config(name), args.overrides)), flush=True)


if __name__ == "__main__":
    main()
