"""Checkpoints that resume exactly: safetensors and JSON in a folder that appears in one move. Nothing is pickled.

`checkpoint/step_00001000/` holds `state.json` (step, configuration, optimiser settings), `parameters.safetensors` and
`optimizers.safetensors` (equal in all processes, written by the first), and `process_0.safetensors`, ... (buffers and
replay pools, which differ between processes). The last two are kept.

Random states are not stored: the loop seeds every step from (seed, step, process), so they follow from the step.
Parameters that are not trained (a published base model) are not stored either: the system brings them itself.
"""

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from wsistain.errors import OutputError
from wsistain.runtime.files import PART
from wsistain.training.schedule import Ema

FORMAT = 1
KEEP = 2
_NAME = re.compile(r"step_(\d{8,})")


def find_checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints below `folder`, oldest first."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if _NAME.fullmatch(p.name)), key=lambda p: int(p.name[5:]))


def _optimizer_parts(optimizers: Mapping[str, Optimizer]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Optimiser states split into tensors (by name) and what JSON can hold."""
    tensors: dict[str, Tensor] = {}
    rest: dict[str, Any] = {}
    for name, optimizer in optimizers.items():
        state = optimizer.state_dict()
        plain: dict[str, dict[str, Any]] = {}
        for index, values in state["state"].items():
            for key, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"{name}/{index}/{key}"] = value
                else:
                    plain.setdefault(str(index), {})[key] = value
        rest[name] = {"param_groups": state["param_groups"], "plain": plain}
    return tensors, rest


def restore_optimizers(
    optimizers: Mapping[str, Optimizer], tensors: Mapping[str, Tensor], rest: Mapping[str, Any]
) -> None:
    """Put states that `_optimizer_parts` split back into optimisers of the same parameters; their rates stay their own."""
    for name, optimizer in optimizers.items():
        state: dict[int, dict[str, Any]] = {}
        for index, values in rest[name]["plain"].items():
            state.setdefault(int(index), {}).update(values)
        for full, tensor in tensors.items():
            owner, index, key = full.split("/")
            if owner == name:
                state.setdefault(int(index), {})[key] = tensor
        groups = [
            {key: tuple(value) if key == "betas" else value for key, value in group.items()}
            for group in rest[name]["param_groups"]
        ]
        # The first rate is that of the configuration, which may have been changed: schedules start from it.
        for group, built in zip(groups, optimizer.param_groups, strict=True):
            if "initial_lr" in group:
                group["initial_lr"] = built.get("initial_lr", built["lr"])
        optimizer.load_state_dict({"state": state, "param_groups": groups})


def _own_state(system: nn.Module) -> dict[str, Tensor]:
    """Every tensor of the state dict that is not a parameter: buffers and extra states such as replay pools."""
    parameters = {name for name, _ in system.named_parameters()}
    return {name: t for name, t in system.state_dict().items() if name not in parameters}


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    # Cloned, since safetensors refuses tensors that share memory.
    save_file({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, str(path))


def save_checkpoint(
    folder: Path,
    step: int,
    system: nn.Module,
    optimizers: Mapping[str, Optimizer],
    accelerator: Accelerator,
    *,
    ema: Ema | None,
    run: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write the checkpoint of `step` finished steps below `folder`; called by every process.

    run     : what has to be the same to resume (JSON), compared by `check_same_run`.
    history : settings that were changed on the way, see `history_of`.
    """
    # The folder, made by one process and waited for by all.
    final = folder / f"step_{step:08d}"
    part = final.with_name(final.name + PART)  # one name for all processes, which write into it together
    if accelerator.is_main_process:
        for stale in folder.glob(f"step_*{PART}"):
            shutil.rmtree(stale)
        part.mkdir(parents=True)
    accelerator.wait_for_everyone()

    # What differs between processes is written by each, what is equal by the first.
    _save(_own_state(system), part / f"process_{accelerator.process_index}.safetensors")
    if accelerator.is_main_process:
        parameters: dict[str, Tensor] = {f"parameter/{n}": p for n, p in system.named_parameters() if p.requires_grad}
        if ema is not None:
            parameters.update({f"ema/{n}": t for n, t in ema.mean.items()})
        _save(parameters, part / "parameters.safetensors")
        tensors, rest = _optimizer_parts(optimizers)
        _save(tensors, part / "optimizers.safetensors")
        scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else None
        state = {"format": FORMAT, "step": step, "run": run, "optimizers": rest, "scaler": scaler}
        state["history"] = [dict(turn) for turn in history]
        (part / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        if final.exists():
            shutil.rmtree(final)
        part.replace(final)
        for old in find_checkpoints(folder)[:-KEEP]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The JSON part of a checkpoint; OutputError when it is damaged or of another format."""
    try:
        state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise OutputError(f"{checkpoint} cannot be read ({error}); delete it to resume from the one before") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise OutputError(f"{checkpoint} is not a checkpoint of format {FORMAT}")
    return state


def check_same_run(
    found: Mapping[str, Any],
    wanted: Mapping[str, Any],
    where: Path,
    may_change: Callable[[str], bool] = lambda key: False,
    is_free: Callable[[str], bool] = lambda key: False,
) -> dict[str, tuple[Any, Any]]:
    """Dotted keys in which a checkpoint's run differs from the one that would go on, each with (was, is).

    may_change, is_free : of a dotted key; what is free is not compared.
    OutputError naming the first three that differ and may not.
    """

    def flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in values.items():
            if isinstance(value, Mapping):
                result.update(flat(value, f"{above}{key}."))
            elif not is_free(f"{above}{key}"):
                result[f"{above}{key}"] = value
        return result

    a, b = flat(json.loads(json.dumps(found))), flat(json.loads(json.dumps(wanted)))
    missing = object()
    changed = {
        k: (a.get(k, "absent"), b.get(k, "absent")) for k in {**a, **b} if a.get(k, missing) != b.get(k, missing)
    }
    refused = [k for k in changed if not may_change(k)]
    if refused:
        named = ", ".join(f"{k} was {changed[k][0]!r} and is {changed[k][1]!r}" for k in refused[:3])
        # What only one of the two releases knows is in no file of settings that could be typed again.
        same = (
            "resume with the same settings ('wsistain train --resume --output' alone takes the run's own)"
            if all(k in a and k in b for k in refused)
            else "resume with the release of wsistain that began it (its weights name it)"
        )
        raise OutputError(
            f"{where} cannot go on: {named}; {same}, start another run from its weights with start_from, or start anew "
            "with --overwrite"
        )
    return changed


def history_of(
    checkpoint: Path, run: Mapping[str, Any], may_change: Callable[[str], bool], is_free: Callable[[str], bool]
) -> list[dict[str, Any]]:
    """Settings that were changed on the way to `run`: of each turn the step (`from_step`) and `changes`, key to [was, is].

    The last turn is the one at this checkpoint, where `run` differs from what it was written by. Raises OutputError as
    `check_same_run`.
    """
    state = read_state(checkpoint)
    changed = check_same_run(state["run"], run, checkpoint, may_change, is_free)
    turn = {"from_step": state["step"], "changes": {key: list(pair) for key, pair in changed.items()}}
    return [*state.get("history", []), *([turn] if changed else [])]


def load_checkpoint(
    checkpoint: Path,
    system: nn.Module,
    optimizers: Mapping[str, Optimizer],
    accelerator: Accelerator,
    *,
    ema: Ema | None,
    run: Mapping[str, Any],
    may_change: Callable[[str], bool] = lambda key: False,
    is_free: Callable[[str], bool] = lambda key: False,
) -> int:
    """Put a checkpoint back into the system, its optimisers and the mean; returns the number of finished steps.

    Raises OutputError where the checkpoint is damaged, of another run than `run` (but for keys that `may_change` or are free), or
    lacks a tensor.
    """
    # All files are read before anything of the system is changed.
    state = read_state(checkpoint)
    check_same_run(state["run"], run, checkpoint, may_change, is_free)
    try:
        parameters = load_file(str(checkpoint / "parameters.safetensors"))
        own = load_file(str(checkpoint / f"process_{accelerator.process_index}.safetensors"))
        tensors = load_file(str(checkpoint / "optimizers.safetensors"))
    except (SafetensorError, OSError) as error:
        raise OutputError(f"{checkpoint} cannot be read ({error}); delete it to resume from the one before") from None

    def part(values: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
        return {n.removeprefix(prefix): t for n, t in values.items() if n.startswith(prefix)}

    try:
        found = system.load_state_dict({**part(parameters, "parameter/"), **own}, strict=False)
        untrained = {n for n, p in system.named_parameters() if not p.requires_grad}
        faults = [*found.unexpected_keys, *(n for n in found.missing_keys if n not in untrained)]
        if faults:
            raise KeyError(f"{len(faults)} tensors are missing or surplus, the first is {faults[0]}")
        restore_optimizers(optimizers, tensors, state["optimizers"])
    except (RuntimeError, KeyError, ValueError) as error:
        raise OutputError(f"{checkpoint} does not fit the system: {str(error).splitlines()[0]}") from None
    if ema is not None:
        for name, mean in part(parameters, "ema/").items():
            ema.mean[name].copy_(mean.to(ema.mean[name].device))
    if accelerator.scaler is not None and state["scaler"] is not None:
        accelerator.scaler.load_state_dict(state["scaler"])
    return int(state["step"])
