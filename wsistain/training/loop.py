"""The training loop: one function for every system.

The loop owns device, seeds, schedule, exponential mean, logs, samples and checkpoints; a system owns its losses and
its updates. A step depends on (seed, step, process) and on the state before it, on nothing else: a run that was killed
and resumed ends in the same bytes as one that was not (on the CPU; GPU kernels may add in another order).
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from torch import Tensor

from wsistain.config import TrainConfig
from wsistain.data.patches import Fault, PatchDataset, PatchOrder, Samples, patch_loader, steps_per_epoch
from wsistain.errors import ConfigError, DataError, OutputError, TrainingError
from wsistain.markers import Marker
from wsistain.runtime.files import reporting
from wsistain.systems import find_system, system_class
from wsistain.systems.base import Averaged, Batch, Clipped, FrozenBase, Reversible, System, Update, Watched
from wsistain.training.checkpoint import find_checkpoints, history_of, load_checkpoint, save_checkpoint
from wsistain.training.folder import check_output, claim_output, may_steer, run_identity, write_record
from wsistain.training.header import check_crop, header_of, reverse_header, told
from wsistain.training.log import TrainingLog
from wsistain.training.processes import (
    fuse_updates,
    make_update,
    seed_everything,
    share_from_first,
    start_processes,
    stop_processes,
)
from wsistain.training.samples import SheetRow, from_pixels, stain_rows, write_sheet
from wsistain.training.schedule import Ema, Length, linear_factor, set_learning_rates
from wsistain.training.setup import Material, gather, look_of, tiny_config
from wsistain.training.start import begin_from
from wsistain.training.stopping import Stopped, stop_asked
from wsistain.training.summary import changes_at, summary
from wsistain.weights.file import Header, save_weights

_BUILD, _STEP = 0, 1  # streams of seeds
_NO_MEMORY = ("DefaultCPUAllocator", "can't allocate memory", "Cannot allocate memory", "bad_alloc", "MemoryError")
"""What torch says where a CPU's memory is full; on GPUs it has an error of its own."""
_TOO_SMALL = (
    "Kernel size can't be greater than actual input", "Padding size should be less than",
    "Expected more than 1 spatial element", "Expected more than 1 value per channel", "Output size is too small",
)  # fmt: skip
"""What layers say of a picture that has become too small on its way through them."""
_MOST_WEIGHT = 1e8
"""Largest weight of a network that still learns: where a rate was far too high, they are larger before a loss is NaN."""


def train(
    cfg: TrainConfig,
    output: Path,
    *,
    tiny: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    kept: Collection[str] = (),
) -> Path:
    """The weights file that training wrote: `output`/weights.safetensors, which `wsistain run` loads.

    cfg       : system, data, length; see `TrainConfig`.
    output    : folder of the run; also receives config.yaml, data.json, metrics.jsonl, tensorboard/, samples/ and
                checkpoint/.
    tiny      : a smoke run: the system's smallest networks, small crops, a handful of steps.
    resume    : go on from the last checkpoint in `output`, or start where there is none.
    overwrite : delete an earlier run in `output` first.
    kept      : dotted keys of `cfg` that a smoke run leaves as they are.

    Under `accelerate launch` every process calls this alike. Ctrl-C and SIGTERM end the run after the step under way:
    its checkpoint is written, then `Stopped` (a KeyboardInterrupt) comes up. Raises ConfigError, DataError,
    OutputError or TrainingError.
    """
    check_output(output, resume=resume, overwrite=overwrite)
    module = find_system(cfg.system)
    cfg = tiny_config(cfg, module.Config, kept) if tiny else cfg
    accelerator = start_processes(cfg)
    try:
        with reporting(output, retry="go on with --resume"):
            _train(cfg, output, accelerator, tiny=tiny, resume=resume, overwrite=overwrite)
    except (torch.OutOfMemoryError, MemoryError):  # the first is a RuntimeError, so it stands before them
        raise TrainingError(out_of_memory(cfg, str(accelerator.device))) from None
    except (RuntimeError, ValueError) as error:
        if any(words in str(error) for words in _NO_MEMORY):
            raise TrainingError(out_of_memory(cfg, str(accelerator.device))) from None
        if any(words in str(error) for words in _TOO_SMALL):
            raise ConfigError(
                f"crops of {cfg.data.crop_px} px are too small for a network of {cfg.system} ({_first_line(error)}); raise "
                "data.crop_px"
            ) from None
        if not str(error).startswith("DataLoader worker"):
            raise
        raise TrainingError(
            f"a process that decodes patches died ({error}); lower data.workers and go on with --resume"
        ) from error
    except SafetensorError as error:  # what its writer makes of a full disk
        raise OutputError(f"{output} cannot be written: {error}; make room and go on with --resume") from error
    finally:
        stop_processes(accelerator)
    return output / "weights.safetensors"


def out_of_memory(cfg: TrainConfig, device: str) -> str:
    """The sentence for a device that is too small, with what helps this system most, first."""
    advice, fields, model = [], find_system(cfg.system).Config.model_fields, cfg.options.get("model")
    if isinstance(model, dict) and model.get("checkpointing") is False:
        advice.append("set options.model.checkpointing to true (about half the memory)")
    if "turbo_steps" in fields and not cfg.options.get("turbo_steps"):
        advice.append("set options.turbo_steps to true (five smaller updates; with checkpointing a fifth less)")
    if cfg.batch_size > 1:
        advice.append(f"lower batch_size ({cfg.batch_size})")
    advice.append(f"lower data.crop_px ({cfg.data.crop_px})")
    if cfg.precision == "float32":
        advice.append("use precision bfloat16")
    return f"{device} has not enough memory to train {cfg.system} at these settings; {', or '.join(advice)}"


@dataclass(frozen=True)
class _Built:
    """A system ready to train, with what belongs to it and where it stands."""

    system: Any
    ema: Ema | None
    update: Update
    header: Header
    start: int
    run: dict[str, Any]
    history: list[dict[str, Any]]
    origin: str


def _build(cfg: TrainConfig, material: Material, accelerator: Accelerator, checkpoint: Path | None) -> _Built:
    """The system, the same in all processes, at its beginning or as a checkpoint left it; raises before anything is written."""
    device = accelerator.device
    seed_everything(cfg.seed, _BUILD)
    options = material.options
    if checkpoint is not None and "start_from" in type(options).model_fields:
        options = options.model_copy(update={"start_from": None})  # what it named is in the checkpoint
    system = system_class(cfg.system)(options, material.marker)
    if cfg.precision == "bfloat16" and isinstance(system, FrozenBase):
        system.store_frozen(torch.bfloat16)
    check_crop(cfg, system)
    header = header_of(cfg, system, material)
    system = system.to(device).train()
    origin = begin_from(cfg, system, material.marker) if checkpoint is None else ""
    share_from_first(system, accelerator)
    ema = Ema(system.generator(), system.ema_decay) if isinstance(system, Averaged) else None
    update = make_update(accelerator, system.clip_norm if isinstance(system, Clipped) else None)
    run = run_identity(cfg, material, accelerator.num_processes)
    start, history = 0, [{"from_step": 0, "origin": origin}] if origin else []
    if checkpoint is not None:
        history = history_of(checkpoint, run, may_steer)
        start = load_checkpoint(
            checkpoint, system, system.optimizers, accelerator, ema=ema, run=run, may_change=may_steer
        )
    fuse_updates(system.optimizers, device)  # after a checkpoint, which says how its device updated
    header = header.model_copy(update={"training_data": header.training_data + told(history)})
    return _Built(system, ema, update, header, start, run, history, origin)


def _train(
    cfg: TrainConfig, output: Path, accelerator: Accelerator, *, tiny: bool, resume: bool, overwrite: bool
) -> None:
    # Material and system: every fault of data and options shows before the folder is claimed.
    material = gather(cfg, output, tiny=tiny, rank=accelerator.process_index)
    cfg = material.config
    found = find_checkpoints(output / "checkpoint") if resume else []
    built = _build(cfg, material, accelerator, found[-1] if found else None)
    with ExitStack() as stack:
        if accelerator.is_main_process:
            stack.enter_context(claim_output(output, resume=resume, overwrite=overwrite))
            write_record(cfg, output, material)
        accelerator.wait_for_everyone()
        _steps(cfg, output, accelerator, material, built)


def _steps(cfg: TrainConfig, output: Path, accelerator: Accelerator, material: Material, built: _Built) -> None:
    # Length and order; a run that is resumed begins where its last checkpoint ends.
    device, rank, is_main = accelerator.device, accelerator.process_index, accelerator.is_main_process
    n_processes = accelerator.num_processes
    system, ema, start = built.system, built.ema, built.start
    per_epoch = steps_per_epoch(material.n_sources, cfg.batch_size, n_processes)
    length = Length.of(cfg, per_epoch)
    look = look_of(cfg, length, per_epoch)
    dataset = PatchDataset(material.patches, look, is_paired=material.is_paired, seed=cfg.seed)

    def keep(done: int) -> None:
        check_finite(healthy, values, terms, done, rate_now(system), start)
        check_sane(system, done)
        save_checkpoint(
            output / "checkpoint", done, system, system.optimizers, accelerator, ema=ema, run=built.run, history=built.history
        )  # fmt: skip
        if is_main:
            write_weights(output, system, ema, built.header, done, length.steps)

    # Patches, decoded ahead by worker processes in an order that depends on seed and step alone.
    window = {"start": start, "stop": length.steps, "process": rank, "n_processes": n_processes}
    order = PatchOrder(material.n_sources, cfg.batch_size, seed=cfg.seed, **window)
    loader = patch_loader(dataset, order, workers=cfg.data.workers, pin_memory=device.type == "cuda")
    healthy, images = torch.ones((), dtype=torch.bool, device=device), 0
    with (
        TrainingLog(output, start=start, steps=length.steps, is_main=is_main) as log,
        stop_asked(accelerator) as stop_now,
    ):
        log.say(summary(cfg, material, length, start, n_processes, str(device)))
        for line in (*([f"begins from {built.origin}"] if built.origin else []), *changes_at(built.history, start)):
            log.say(line)
        for step, samples in enumerate(loader, start):
            # One step: seeded by its own number, so that a resumed run draws what an unbroken one would have drawn.
            batch = to_batch(samples, material.marker, device, is_paired=material.is_paired)
            progress = length.progress(step)
            seed_everything(cfg.seed, _STEP, step, rank)
            set_learning_rates(system.optimizers, linear_factor(progress.epoch, progress.epochs, progress.decay_epochs))
            with accelerator.autocast():
                terms = system.training_step(batch, progress, built.update)
            if ema is not None:
                ema.update(step)
            # What is logged, shown and kept. `healthy` stays on the device: asking it each step would wait for the GPU.
            values = torch.stack([t.detach().float().mean() for t in terms.values()])
            healthy &= values.isfinite().all()
            done, images = step + 1, images + len(batch.names) * n_processes
            is_last = done == length.steps
            log.advance(done)
            if is_last or done % cfg.log_every == 0:
                check_finite(healthy, values, terms, done, rate_now(system), start)
                means = dict(zip(terms, accelerator.reduce(values, reduction="mean").tolist(), strict=True))
                concern = system.concern() if isinstance(system, Watched) else None
                log.write(done, progress.epoch, rate_now(system), means, images, concern)
                images = 0
            if is_main and (is_last or done % cfg.sample_every == 0):
                with accelerator.autocast():  # what is frozen may be kept in bfloat16
                    write_samples(output, done, system, ema, material.rows, device)
            is_stopped = not is_last and stop_now(done)
            if is_last or is_stopped or done % cfg.checkpoint_every == 0:
                keep(done)
            if is_stopped:
                raise Stopped(output, done, length.steps)
        if start >= length.steps:
            if is_main:  # the run may have ended between its last checkpoint and its weights
                write_weights(output, system, ema, built.header, start, length.steps)
            log.say(
                f"nothing to do: the run in {output} has all its {length.steps} steps; --set steps={2 * start} makes it longer"
            )


def to_batch(samples: Samples | Fault, marker: Marker, device: torch.device, *, is_paired: bool) -> Batch:
    """The workers' uint8 samples as the systems' float batch, converted on the device; DataError for a fault."""
    if isinstance(samples, Fault):
        raise DataError(samples.why)

    def unit(pixels: Tensor) -> Tensor:
        return from_pixels(pixels.to(device, non_blocking=True))

    mask = None if samples.mask is None else samples.mask.to(device, non_blocking=True).float()[:, None]
    markers = tuple(name or marker.name for name in samples.markers)
    return Batch(
        unit(samples.he), unit(samples.ihc), (*markers, marker.name)[0], samples.names, is_paired, mask, markers
    )


def rate_now(system: System) -> float:
    """The learning rate of a system's first optimiser."""
    return float(next(iter(system.optimizers.values())).param_groups[0]["lr"])


def check_finite(
    healthy: Tensor, values: Tensor, terms: Mapping[str, Tensor], done: int, rate: float = 0.0, start: int = 0
) -> None:
    """TrainingError naming the terms that are not finite; `healthy` is False from the first step that had one."""
    if not healthy:
        broken = [name for name, good in zip(terms, values.isfinite().tolist(), strict=True) if not good]
        again = f"; if it comes back at once, delete the checkpoint of step {start} first" if start else ""
        raise TrainingError(
            f"a loss is not finite by step {done} ({', '.join(broken) or 'at an earlier step'}); lower the learning rate "
            f"(now {rate:g}) or use precision float32, and go on with --resume{again}"
        )


def check_sane(system: Any, done: int) -> None:
    """TrainingError where a trained weight is not finite or so large that the next loss will not be: not worth keeping."""
    trained = [p for p in system.parameters() if p.requires_grad]
    largest = float(torch.stack([p.detach().abs().max().float() for p in trained]).max())
    if not largest <= _MOST_WEIGHT:
        raise TrainingError(
            f"the networks have run away by step {done} (weights up to {largest:.3g}), and this is not kept; lower the "
            f"learning rate (now {rate_now(system):g}) or use precision float32, and go on with --resume"
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["?"])[0][:200]


def write_samples(
    output: Path, step: int, system: System, ema: Ema | None, rows: Sequence[SheetRow], device: torch.device
) -> None:
    """`samples/step_XXXXXX.jpg`, from the mean parameters where there are such."""
    with ema.applied() if ema is not None else nullcontext():
        virtual = stain_rows(system.generator(), rows, device)
    write_sheet(output / "samples" / f"step_{step:06d}.jpg", rows, virtual)


def write_weights(output: Path, system: System, ema: Ema | None, header: Header, step: int, steps: int) -> None:
    """`weights.safetensors` as of `step`; its header says so where training is not finished.

    A system that also trains the way back gets `weights.ihc-to-he.safetensors` beside it.
    """
    note = "" if step >= steps else f"training is not finished: step {step} of {steps}"
    header = header.model_copy(update={"step": step, "note": note})
    with ema.applied() if ema is not None else nullcontext():
        save_weights(output / "weights.safetensors", header, system.generator_state())
    if isinstance(system, Reversible):
        back = reverse_header(header, system)
        save_weights(output / f"weights.{back.direction}.safetensors", back, system.reverse_generator_state())
