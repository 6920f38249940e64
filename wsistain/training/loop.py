"""The training loop: one function for every system.

The loop owns device, seeds, schedule, exponential mean, logs, samples and checkpoints; a system owns its losses and
its updates. A step depends on (seed, step, process) and on the state before it, on nothing else: a run that was killed
and resumed ends in the same bytes as one that was not (on the CPU; GPU kernels may add in another order).
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from torch import Tensor

from wsistain.config import TrainConfig
from wsistain.data.patches import Fault, PatchDataset, PatchOrder, Samples, patch_loader, steps_per_epoch
from wsistain.errors import DataError, OutputError, TrainingError
from wsistain.markers import Marker
from wsistain.runtime.files import reporting
from wsistain.systems import find_system, system_class
from wsistain.systems.base import Averaged, Batch, Clipped, FrozenBase, Reversible, System, Watched
from wsistain.training.checkpoint import find_checkpoints, load_checkpoint, save_checkpoint
from wsistain.training.folder import check_output, claim_output, run_identity, write_record
from wsistain.training.header import header_of, reverse_header
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
from wsistain.training.setup import gather, look_of, tiny_config
from wsistain.training.summary import summary
from wsistain.weights.file import Header, save_weights

_BUILD, _STEP = 0, 1  # streams of seeds


def train(cfg: TrainConfig, output: Path, *, tiny: bool = False, resume: bool = False, overwrite: bool = False) -> Path:
    """The weights file that training wrote: `output`/weights.safetensors, which `wsistain run` loads.

    cfg       : system, data, length; see `TrainConfig`.
    output    : folder of the run; also receives config.yaml, data.json, metrics.jsonl, tensorboard/, samples/ and
                checkpoint/.
    tiny      : a smoke run: the system's smallest networks, small crops, a handful of steps.
    resume    : go on from the last checkpoint in `output`, or start where there is none.
    overwrite : delete an earlier run in `output` first.

    Under `accelerate launch` every process calls this alike. Raises ConfigError, DataError, OutputError or
    TrainingError.
    """
    check_output(output, resume=resume, overwrite=overwrite)
    module = find_system(cfg.system)
    cfg = tiny_config(cfg, module.Config) if tiny else cfg
    accelerator = start_processes(cfg)
    try:
        with reporting(output, retry="go on with --resume"):
            _train(cfg, output, accelerator, tiny=tiny, resume=resume, overwrite=overwrite)
    except torch.OutOfMemoryError:  # a RuntimeError, so it stands first
        raise TrainingError(out_of_memory(cfg, str(accelerator.device))) from None
    except RuntimeError as error:
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


def _train(
    cfg: TrainConfig, output: Path, accelerator: Accelerator, *, tiny: bool, resume: bool, overwrite: bool
) -> None:
    # Material: every fault of data and options shows before the folder is claimed or anything is built.
    device, rank, is_main = accelerator.device, accelerator.process_index, accelerator.is_main_process
    n_processes = accelerator.num_processes
    material = gather(cfg, output, tiny=tiny, rank=rank)
    if is_main:
        claim_output(output, overwrite=overwrite)
    accelerator.wait_for_everyone()

    # The system, the same in all processes, and what its weights will say of themselves.
    seed_everything(cfg.seed, _BUILD)
    system = system_class(cfg.system)(material.options, material.marker)
    if cfg.precision == "bfloat16" and isinstance(system, FrozenBase):
        system.store_frozen(torch.bfloat16)
    system = system.to(device).train()
    share_from_first(system, accelerator)
    ema = Ema(system.generator(), system.ema_decay) if isinstance(system, Averaged) else None
    update = make_update(accelerator, system.clip_norm if isinstance(system, Clipped) else None)
    header = header_of(cfg, system, material)

    # Length and order; a run that is resumed begins where its last checkpoint ends.
    per_epoch = steps_per_epoch(material.n_sources, cfg.batch_size, n_processes)
    length = Length.of(cfg, per_epoch)
    look = look_of(cfg, length, per_epoch)
    dataset = PatchDataset(material.patches, look, is_paired=material.is_paired, seed=cfg.seed)
    run = run_identity(cfg, material, tiny, n_processes)
    start = 0
    if resume and (checkpoints := find_checkpoints(output / "checkpoint")):
        start = load_checkpoint(checkpoints[-1], system, system.optimizers, accelerator, ema=ema, run=run)
    fuse_updates(system.optimizers, device)  # after a checkpoint, which says how its device updated
    if is_main:
        write_record(cfg, output, material)
    # Patches, decoded ahead by worker processes in an order that depends on seed and step alone.
    window = {"start": start, "stop": length.steps, "process": rank, "n_processes": n_processes}
    order = PatchOrder(material.n_sources, cfg.batch_size, seed=cfg.seed, **window)
    loader = patch_loader(dataset, order, workers=cfg.data.workers, pin_memory=device.type == "cuda")
    healthy, images = torch.ones((), dtype=torch.bool, device=device), 0
    with TrainingLog(output, start=start, steps=length.steps, is_main=is_main) as log:
        log.say(summary(cfg, material, length, start, n_processes, str(device)))
        for step, samples in enumerate(loader, start):
            # One step: seeded by its own number, so that a resumed run draws what an unbroken one would have drawn.
            batch = to_batch(samples, material.marker, device, is_paired=material.is_paired)
            progress = length.progress(step)
            seed_everything(cfg.seed, _STEP, step, rank)
            set_learning_rates(system.optimizers, linear_factor(progress.epoch, progress.epochs, progress.decay_epochs))
            with accelerator.autocast():
                terms = system.training_step(batch, progress, update)
            if ema is not None:
                ema.update(step)
            # What is logged, shown and kept. `healthy` stays on the device: asking it each step would wait for the GPU.
            values = torch.stack([t.detach().float().mean() for t in terms.values()])
            healthy &= values.isfinite().all()
            done, images = step + 1, images + len(batch.names) * n_processes
            is_last = done == length.steps
            log.advance(done)
            if is_last or done % cfg.log_every == 0:
                check_finite(healthy, values, terms, done)
                means = dict(zip(terms, accelerator.reduce(values, reduction="mean").tolist(), strict=True))
                rate = next(iter(system.optimizers.values())).param_groups[0]["lr"]
                concern = system.concern() if isinstance(system, Watched) else None
                log.write(done, progress.epoch, rate, means, images, concern)
                images = 0
            if is_main and (is_last or done % cfg.sample_every == 0):
                with accelerator.autocast():  # what is frozen may be kept in bfloat16
                    write_samples(output, done, system, ema, material.rows, device)
            if is_last or done % cfg.checkpoint_every == 0:
                check_finite(healthy, values, terms, done)
                save_checkpoint(output / "checkpoint", done, system, system.optimizers, accelerator, ema=ema, run=run)
                if is_main:
                    write_weights(output, system, ema, header, done, length.steps)
        if start >= length.steps:
            if is_main:  # the run may have ended between its last checkpoint and its weights
                write_weights(output, system, ema, header, start, length.steps)
            log.say(f"nothing to do: the run in {output} has all its {length.steps} steps")


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


def check_finite(healthy: Tensor, values: Tensor, terms: Mapping[str, Tensor], done: int) -> None:
    """TrainingError naming the terms that are not finite; `healthy` is False from the first step that had one."""
    if not healthy:
        broken = [name for name, good in zip(terms, values.isfinite().tolist(), strict=True) if not good]
        raise TrainingError(
            f"a loss is not finite by step {done} ({', '.join(broken) or 'at an earlier step'}); "
            "lower the learning rate (options.lr) or use precision float32, and go on with --resume"
        )


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
    note = "" if step == steps else f"training is not finished: step {step} of {steps}"
    header = header.model_copy(update={"step": step, "note": note})
    with ema.applied() if ema is not None else nullcontext():
        save_weights(output / "weights.safetensors", header, system.generator_state())
    if isinstance(system, Reversible):
        back = reverse_header(header, system)
        save_weights(output / f"weights.{back.direction}.safetensors", back, system.reverse_generator_state())
