"""`report.html` of a run: curves, validations and pictures on one page that needs nothing else, rewritten as it trains."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsistain.config import TrainConfig, dump_yaml
from wsistain.data.pictures import read_picture, resize
from wsistain.evaluation import svg
from wsistain.evaluation.metrics import METRICS
from wsistain.evaluation.page import page
from wsistain.pages.pictures import jpeg_data
from wsistain.runtime.files import write_text
from wsistain.training.validation import KEY

_PLACE = ("step", "epoch", "seconds", "images_per_second", "warning", KEY, "best")
_WIDEST = 1400
_EARLIER = 6
_EARLIER_WIDE = 560


def write_page(output: Path, cfg: TrainConfig, *, done: int, steps: int) -> None:
    """Write `report.html` from what the run has left in `output` so far. OSError passes through."""
    records = _records(output / "metrics.jsonl")
    losses = [r for r in records if KEY not in r]
    title = f"{cfg.system}, {cfg.marker}: {output.name}"
    body = [f"<h1>{escape(title)}</h1>", f'<p class="soft">{escape(_state(losses, done, steps))}</p>']
    body += [f'<p class="note">step {r["step"]}: {escape(str(r["warning"]))}</p>' for r in losses if r.get("warning")]
    body += _validations(records)
    body += _curves(losses)
    body += _pictures(output / "samples")
    body += ["<details><summary>Settings</summary>", f"<pre>{escape(dump_yaml(cfg))}</pre></details>"]
    write_text(output / "report.html", page(title, body))


def _records(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            found.append(record)
    return found


def _state(losses: Sequence[Mapping[str, Any]], done: int, steps: int) -> str:
    seconds = float(losses[-1]["seconds"]) if losses else 0.0
    text = f"step {done} of {steps}, {seconds / 60:.1f} minutes of training"
    if losses and 0 < done < steps:
        text += f", about {seconds / max(done, 1) * (steps - done) / 60:.1f} minutes left"
    return text + (", finished" if done >= steps else "")


def _validations(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """A curve for every metric of the held-out patches, and what was best when."""
    rows = [(int(r["step"]), r[KEY], bool(r.get("best"))) for r in records if KEY in r]
    if not rows:
        return []
    names = [n for n in rows[-1][1] if n in METRICS]
    best = [step for step, _, is_best in rows if is_best]
    parts = ["<h2>Held-out patches</h2>"]
    if best:
        parts.append(f"<p>The best so far was at step {best[-1]} (weights.best.safetensors).</p>")
    parts.append('<div class="plots">')
    for name in names:
        metric = METRICS[name]
        points = [(step, metric.scale * values[name]) for step, values, _ in rows if name in values]
        wish = {"higher": ", higher is better", "lower": ", lower is better"}.get(metric.better, "")
        mark = best[-1] if best else None
        parts.append(_figure(f"{metric.label}{wish}", svg.curve(points, x_label="step", mark=mark)))
    return [*parts, "</div>"]


def _curves(losses: Sequence[Mapping[str, Any]]) -> list[str]:
    names = list(dict.fromkeys(n for r in losses for n in r if n not in _PLACE and n != "lr"))
    names += ["lr", "images_per_second"] if losses else []
    parts = ["<h2>Terms, unweighted</h2>", '<div class="plots">']
    for name in names:
        points = [(int(r["step"]), float(r[name])) for r in losses if isinstance(r.get(name), int | float)]
        words = {"lr": "learning rate", "images_per_second": "patches a second"}.get(name, name)
        parts.append(_figure(words, svg.curve(points, x_label="step")))
    return [*parts, "</div>"]


def _figure(title: str, plot: str) -> str:
    return f"<figure><figcaption>{escape(title)}</figcaption>{plot}</figure>"


def _pictures(folder: Path) -> list[str]:
    """The newest sample sheet, and a few before it, smaller."""
    sheets = sorted(folder.glob("step_*.jpg"), key=lambda p: int(p.stem[5:])) if folder.is_dir() else []
    if not sheets:
        return []
    *before, newest = sheets
    parts = [f"<h2>Held-out patches after step {int(newest.stem[5:])}</h2>", _image(newest, _WIDEST)]
    if before:
        picked = np.unique(np.linspace(0, len(before) - 1, min(len(before), _EARLIER)).round().astype(int))
        parts.append('<h3>Before</h3><div class="plots">')
        parts += [_figure(f"step {int(before[i].stem[5:])}", _image(before[i], _EARLIER_WIDE)) for i in picked]
        parts.append("</div>")
    return parts


def _image(path: Path, widest: int) -> str:
    pixels: NDArray[np.uint8] = read_picture(path)
    height, width = pixels.shape[:2]
    if width > widest:
        pixels = resize(pixels, max(1, round(height * widest / width)), widest)
    return f'<img alt="{escape(path.stem)}" style="max-width:100%" src="{jpeg_data(pixels)}">'
