"""The training loop: one function for every system.

The loop owns device, seeds, schedule, exponential mean, logs, samples and checkpoints; a system owns its losses and
its updates. A step depends on (seed, step, process) and on the state before it, on nothing else: a run that was killed
and resumed ends in the same bytes as one that was not (on the CPU; GPU kernels may add in another order).
"""

from collections.abc import Callable, Collection
from contextlib import ExitStack
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
from wsistain.systems.base import Averaged, Batch, Clipped, FrozenBase, Update, Watched
from wsistain.training.checkpoint import find_checkpoints, history_of, load_checkpoint, save_checkpoint
from wsistain.training.folder import (
    check_goes_on,
    check_origin,
    check_output,
    claim_output,
    is_free,
    may_steer,
    run_identity,
    write_record,
)
from wsistain.training.header import check_crop, header_of, with_history
from wsistain.training.keeping import (
    check_finite,
    check_sane,
    end_with_features,
    rate_now,
    write_best,
    write_samples,
    write_weights,
)
from wsistain.training.log import TrainingLog
from wsistain.training.page import write_page
from wsistain.training.processes import (
    fuse_updates,
    make_update,
    seed_everything,
    share_from_first,
    start_processes,
    stop_processes,
)
from wsistain.training.samples import from_pixels
from wsistain.training.schedule import Ema, Length, linear_factor, set_learning_rates
from wsistain.training.setup import Material, gather, look_of, tiny_config
from wsistain.training.start import Origin, begin_from
from wsistain.training.stopping import Stopped, stop_asked
from wsistain.training.summary import changes_at, summary
from wsistain.training.trackers import Trackers
from wsistain.training.validation import Validation, check_metrics
from wsistain.weights.file import Header
from wsistain.weights.find import BEST

_BUILD, _STEP = 0, 1  # streams of seeds
_NO_MEMORY = ("DefaultCPUAllocator", "can't allocate memory", "Cannot allocate memory", "bad_alloc", "MemoryError")
"""What torch says where a CPU's memory is full; on GPUs it has an error of its own."""
_TOO_SMALL = (
    "Kernel size can't be greater than actual input", "Padding size should be less than",
    "Expected more than 1 spatial element", "Expected more than 1 value per channel", "Output size is too small",
)  # fmt: skip
"""What layers say of a picture that has become too small on its way through them."""


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
    accelerator = start_processes(cfg, output / "trackers")
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
    origin = begin_from(cfg, system, material.marker) if checkpoint is None else Origin()
    share_from_first(system, accelerator)
    ema = Ema(system.generator(), system.ema_decay) if isinstance(system, Averaged) else None
    update = make_update(accelerator, system.clip_norm if isinstance(system, Clipped) else None)
    run = run_identity(cfg, material, accelerator.num_processes)
    start, history = 0, [{"from_step": 0, "origin": origin.words, "slides": origin.slides}] if origin.words else []
    if checkpoint is not None:
        history = history_of(checkpoint, run, may_steer, is_free)
        start = load_checkpoint(
            checkpoint, system, system.optimizers, accelerator, ema=ema, run=run, may_change=may_steer, is_free=is_free
        )
    fuse_updates(system.optimizers, device)  # after a checkpoint, which says how its device updated
    return _Built(system, ema, update, with_history(header, history), start, run, history, origin.words)


def _train(
    cfg: TrainConfig, output: Path, accelerator: Accelerator, *, tiny: bool, resume: bool, overwrite: bool
) -> None:
    # Material and system: every fault of data and options shows before the folder is claimed.
    check_metrics(cfg)
    material = gather(cfg, output, tiny=tiny, rank=accelerator.process_index)
    cfg = material.config
    found = find_checkpoints(output / "checkpoint") if resume else []
    if found:
        check_origin(output, cfg)
    built = _build(cfg, material, accelerator, found[-1] if found else None)
    validation = None
    if accelerator.is_main_process and cfg.val_every is not None:  # the others wait for the first to measure
        earlier = output / "metrics.jsonl"
        validation = Validation(cfg, material.held_out, material.markers, built.header, earlier, built.start)
    length = Length.of(cfg, steps_per_epoch(material.n_sources, cfg.batch_size, accelerator.num_processes))
    is_over = validation is not None and validation.is_over
    check_goes_on(output, built.history, built.start, length.steps, is_over=is_over)
    with ExitStack() as stack:
        if accelerator.is_main_process:
            stack.enter_context(claim_output(output, resume=resume, overwrite=overwrite))
            write_record(cfg, output, material)
        accelerator.wait_for_everyone()
        _steps(cfg, output, accelerator, material, built, validation)


def _steps(
    cfg: TrainConfig,
    output: Path,
    accelerator: Accelerator,
    material: Material,
    built: _Built,
    validation: Validation | None,
) -> None:
    # Length and order; a run that is resumed begins where its last checkpoint ends.
    device, rank, is_main = accelerator.device, accelerator.process_index, accelerator.is_main_process
    n_processes = accelerator.num_processes
    system, start = built.system, built.start
    per_epoch = steps_per_epoch(material.n_sources, cfg.batch_size, n_processes)
    length = Length.of(cfg, per_epoch)
    look = look_of(cfg, length, per_epoch)
    dataset = PatchDataset(material.patches, look, is_paired=material.is_paired, seed=cfg.seed)

    # Patches, decoded ahead by worker processes in an order that depends on seed and step alone.
    window = {"start": start, "stop": length.steps, "process": rank, "n_processes": n_processes}
    order = PatchOrder(material.n_sources, cfg.batch_size, seed=cfg.seed, **window)
    loader = patch_loader(dataset, order, workers=cfg.data.workers, pin_memory=device.type == "cuda")
    trackers = Trackers(accelerator, cfg, output, start) if is_main else None
    with (
        TrainingLog(output, start=start, steps=length.steps, is_main=is_main, trackers=trackers) as log,
        stop_asked(accelerator) as stop_now,
    ):
        log.say(summary(cfg, material, length, start, n_processes, str(device)))
        for line in (*([f"begins from {built.origin}"] if built.origin else []), *changes_at(built.history, start)):
            log.say(line)
        after = _After(cfg, output, accelerator, material, built, length.steps, log, validation)
        if after.is_over():
            log.say(f"nothing to do: the run in {output} ended without gain; --set patience=null lets it go on")
            return
        for step, samples in enumerate(loader, start):
            # One step: seeded by its own number, so that a resumed run draws what an unbroken one would have drawn.
            batch = to_batch(samples, material.marker, device, is_paired=material.is_paired)
            progress = length.progress(step)
            seed_everything(cfg.seed, _STEP, step, rank)
            set_learning_rates(system.optimizers, linear_factor(progress.epoch, progress.epochs, progress.decay_epochs))
            with accelerator.autocast():
                terms = system.training_step(batch, progress, built.update)
            if built.ema is not None:
                built.ema.update(step)
            # What is logged, shown, measured and kept, and whether the run ends here.
            after.take(terms, len(batch.names) * n_processes)
            if after.step(step + 1, progress.epoch, stop_now):
                return
        if start >= length.steps:
            if is_main:  # the run may have ended between its last checkpoint and its weights
                write_weights(output, system, built.ema, built.header, start, length.steps)
                end_with_features(output, material, str(device))
            log.say(
                f"nothing to do: the run in {output} has all its {length.steps} steps; --set steps={2 * start} makes it longer"
            )


class _After:
    """What happens after each step: it is logged, shown, measured and kept, each as often as the configuration says."""

    def __init__(
        self,
        cfg: TrainConfig,
        output: Path,
        accelerator: Accelerator,
        material: Material,
        built: _Built,
        steps: int,
        log: TrainingLog,
        validation: Validation | None,
    ) -> None:
        self._cfg, self._output, self._accelerator, self._material = cfg, output, accelerator, material
        self._built, self._steps, self._log, self._validation = built, steps, log, validation
        self._is_main = accelerator.is_main_process
        # It stays on the device: asking it each step would wait for the GPU.
        self._healthy = torch.ones((), dtype=torch.bool, device=accelerator.device)
        self._terms: dict[str, Tensor] = {}
        self._values, self._images = self._healthy.float(), 0

    def take(self, terms: dict[str, Tensor], images: int) -> None:
        """Take in the terms of a step and how many patches it saw in all processes."""
        self._terms, self._images = terms, self._images + images
        self._values = torch.stack([t.detach().float().mean() for t in terms.values()])
        self._healthy &= self._values.isfinite().all()

    def is_over(self) -> bool:
        """Whether validation says that the run ends, in all processes alike."""
        if self._cfg.patience is None:
            return False
        over = float(self._validation is not None and self._validation.is_over)
        return bool(self._accelerator.reduce(torch.tensor([over], device=self._accelerator.device), "sum").item())

    def step(self, done: int, epoch: int, stop_now: Callable[[int], bool]) -> bool:
        """All that is due after `done` steps; whether the run ends early. `Stopped` comes up where it was asked to stop."""
        cfg, is_last = self._cfg, done == self._steps
        self._log.advance(done)
        if is_last or done % cfg.log_every == 0:
            self._write_metrics(done, epoch)
        is_sampled = is_last or done % cfg.sample_every == 0
        if self._is_main and is_sampled:
            self._write_samples(done)
        is_validated = cfg.val_every is not None and (is_last or done % cfg.val_every == 0)
        is_over = is_validated and self._validate(done)
        is_stopped = not is_last and not is_over and stop_now(done)
        is_kept = is_last or is_over or is_stopped or done % cfg.checkpoint_every == 0
        if is_kept:
            self._keep(done)
        if self._is_main and (is_last or is_over):
            end_with_features(self._output, self._material, str(self._accelerator.device))
        if self._is_main and (is_kept or is_sampled or is_validated):
            write_page(self._output, cfg, done=done, steps=self._steps)
        if is_stopped:
            raise Stopped(self._output, done, self._steps)
        if is_over and not is_last:
            self._log.say(f"ends here: {cfg.patience} validations without gain; the best weights are in {BEST}")
        return is_over

    def _check(self, done: int) -> None:
        check_finite(self._healthy, self._values, self._terms, done, rate_now(self._built.system), self._built.start)

    def _write_metrics(self, done: int, epoch: int) -> None:
        self._check(done)
        system, means = self._built.system, self._accelerator.reduce(self._values, reduction="mean").tolist()
        concern = system.concern() if isinstance(system, Watched) else None
        terms = dict(zip(self._terms, means, strict=True))
        self._log.write(done, epoch, rate_now(system), terms, self._images, concern)
        self._images = 0

    def _write_samples(self, done: int) -> None:
        built = self._built
        with self._accelerator.autocast():  # what is frozen may be kept in bfloat16
            rows, device = self._material.rows, self._accelerator.device
            sheet = write_samples(self._output, done, built.system, built.ema, rows, device)
        self._log.picture("samples", sheet, done)

    def _validate(self, done: int) -> bool:
        """Measure the held-out patches, keep the weights where they are the best so far; whether the run ends."""
        validation, built = self._validation, self._built
        if validation is not None:
            values = validation.measure(built.system.generator(), built.ema, self._accelerator.device)
            is_best = validation.best.take(done, values)
            self._log.validated(done, values, validation.best, is_best=is_best)
            if is_best:
                note = (
                    f"best of its run so far: {validation.best.metric} {validation.best.value:.4g} on held-out patches"
                )
                header = built.header.model_copy(update={"step": done, "note": note})
                write_best(self._output, built.system, built.ema, header)
        return self.is_over()

    def _keep(self, done: int) -> None:
        self._check(done)
        built = self._built
        check_sane(built.system, done)
        save_checkpoint(
            self._output / "checkpoint",
            done,
            built.system,
            built.system.optimizers,
            self._accelerator,
            ema=built.ema,
            run=built.run,
            history=built.history,
        )
        if self._is_main:
            write_weights(self._output, built.system, built.ema, built.header, done, self._steps)


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


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["?"])[0][:200]
