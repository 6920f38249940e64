"""What is about to be trained, in a line or two."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wsistain.config import TrainConfig
from wsistain.data.unused import by_reason
from wsistain.training.schedule import Length
from wsistain.training.setup import Material


def summary(cfg: TrainConfig, material: Material, length: Length, start: int, n_processes: int, device: str) -> str:
    """What is about to happen, in a line or two."""
    report = material.report
    text = (
        f"{cfg.system} ({cfg.preset}), {cfg.marker}: "
        f"{report['train_patches']} patches of {report['train_slides']} slides, "
        f"{length.steps} steps of {cfg.batch_size * n_processes} on {device} "
        f"({n_processes} process{'es' if n_processes > 1 else ''}, {cfg.precision})"
    )
    text += f", from step {start}" if start else ""
    shared, unknown = report["slides_in_both"], report["patches_without_slide"]
    if shared:
        text += f"\nleak: {len(shared)} slides lie in both training and held-out patches ({', '.join(shared[:3])})"
    twice = report["patches_in_both"]
    if twice:
        text += (
            f"\nleak: {len(twice)} held-out patches are training patches too, byte for byte ({', '.join(twice[:3])})"
        )
    if report["left_out"]:
        reasons = ", ".join(f"{n} {reason}" for reason, n in report["left_out"].items())
        text += f"\n{sum(report['left_out'].values())} training patches are left out by data.filter: {reasons}"
    if material.unused:
        text += f"\n{len(material.unused)} files beside the patches are not used: {by_reason(material.unused)} (not_used.txt)"
    if unknown:
        text += f"\n{unknown} patches have no slide in their name: leaks between splits cannot be checked"
    return text


def changes_at(history: Sequence[Mapping[str, Any]], start: int) -> Iterator[str]:
    """A line for every setting that is changed where a run goes on."""
    for turn in history:
        if turn["from_step"] == start:
            for key, (was, now) in turn.get("changes", {}).items():
                yield f"from step {start} on {key} is {now} (was {was})"
