"""Processes and devices of a run, on accelerate: who am I, where do I compute, how are gradients averaged."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast, set_seed
from torch import Tensor, nn
from torch.optim import Optimizer

from wsistain.config import TrainConfig
from wsistain.errors import TrainingError
from wsistain.systems.base import Update
from wsistain.training.trackers import tracked_elsewhere

_PRECISION = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
_BUCKET = 25_000_000  # numbers averaged in one message


def start_processes(cfg: TrainConfig, logs: Path | None = None) -> Accelerator:
    """The accelerator of this process: its device, its rank, its precision, its trackers (which write into `logs`).

    One process unless started by `accelerate launch` or `torchrun`. Raises TrainingError where the device is absent
    or cannot compute in the precision asked for, ConfigError for trackers that are not here.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", cfg.device):
        raise TrainingError(f"device {cfg.device!r} is not known; wanted auto, cpu, cuda or cuda:N")
    device = torch.device(cfg.device) if cfg.device != "auto" else None
    has_cuda = torch.cuda.is_available()
    if device is not None and device.type == "cuda":
        if not has_cuda:
            raise TrainingError(f"device {cfg.device} was asked for, but no CUDA device is here; use device: cpu")
        if device.index is not None:
            torch.cuda.set_device(device)
    on_cpu = not has_cuda or (device is not None and device.type == "cpu")
    if on_cpu and cfg.precision == "float16":
        raise TrainingError("precision float16 needs a CUDA device; use float32 or bfloat16 here")
    if not on_cpu:
        torch.backends.cudnn.benchmark = True  # crops are all of one size: trying algorithms once pays
        torch.set_float32_matmul_precision("high")  # TF32, as convolutions have it by default
    if not torch.distributed.is_initialized():
        # accelerate remembers the first precision and device of the interpreter; a second run may want others.
        AcceleratorState._reset_state(reset_partial_state=True)
    trackers = tracked_elsewhere(cfg) or None
    return Accelerator(cpu=on_cpu, mixed_precision=_PRECISION[cfg.precision], log_with=trackers, project_dir=logs)


def stop_processes(accelerator: Accelerator) -> None:
    """End what `start_processes` began: the process group goes, the interpreter lives on."""
    accelerator.end_training()


def fuse_updates(optimizers: Mapping[str, Optimizer], device: torch.device) -> None:
    """Have Adam and its kin update all parameters in one kernel where a GPU is, as `fused=True` does; else nothing.

    Not on the CPU: its fused kernel rounds in another way, and a run's bytes would change.
    """
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            if "fused" in group:
                group["fused"] = True if device.type == "cuda" else None
                group["foreach"] = None


def derived_seed(*parts: int) -> int:
    """A 32-bit seed from several numbers >= 0; another for every other combination, near enough."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def seed_everything(*parts: int) -> None:
    """Seed Python, numpy and torch (all devices) from the numbers; what follows depends on them alone.

    Called before every step, so random states need not be stored to resume exactly.
    """
    set_seed(derived_seed(*parts))


def share_from_first(module: nn.Module, accelerator: Accelerator) -> None:
    """Give every process the first one's parameters and buffers."""
    if accelerator.num_processes > 1:
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.data.copy_(broadcast(tensor.detach().clone(), from_process=0))


def average_gradients(parameters: Sequence[nn.Parameter], accelerator: Accelerator) -> None:
    """Replace the gradients by their mean over processes, in few messages. The same must have one everywhere."""
    if accelerator.num_processes == 1:
        return
    bucket: list[Tensor] = []
    for number, parameter in enumerate(parameters):
        if parameter.grad is not None:
            bucket.append(parameter.grad)
        if bucket and (number == len(parameters) - 1 or sum(g.numel() for g in bucket) >= _BUCKET):
            mean = accelerator.reduce(torch.cat([g.flatten() for g in bucket]), reduction="mean")
            for grad, part in zip(bucket, mean.split([g.numel() for g in bucket]), strict=True):
                grad.copy_(part.view_as(grad))
            bucket = []


def make_update(accelerator: Accelerator, clip_norm: float | None = None) -> Update:
    """The `update(optimizer, loss)` that systems are given: clear, backward, average, clip, step.

    With float16 losses are scaled before backward, gradients are unscaled before clipping, and a step whose gradients
    overflowed is left out. Backward runs outside autocast.
    """
    scaler = accelerator.scaler

    def update(optimizer: Optimizer, loss: Tensor) -> None:
        with torch.autocast(accelerator.device.type, enabled=False):
            optimizer.zero_grad(set_to_none=True)
            accelerator.backward(loss)
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            average_gradients(parameters, accelerator)
            if scaler is not None:
                scaler.unscale_(optimizer)
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(parameters, clip_norm)
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)
                scaler.update()
        # Autocast keeps half-precision copies of weights until the step's end; these have just gone stale.
        torch.clear_autocast_cache()

    return update
