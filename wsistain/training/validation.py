"""Held-out patches measured while a run trains: which weights are the best so far, and whether it still gains.

The metrics are those of `wsistain evaluate`, in the same conventions; of phantom patches also those of the truth.
"""

import json
import math
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from wsistain.config import TrainConfig
from wsistain.data.layouts import PatchRef
from wsistain.errors import ConfigError, DataError
from wsistain.evaluation.deep import METRIC_NETS, DeepMetrics
from wsistain.evaluation.metrics import METRICS
from wsistain.evaluation.patches import Pass, run_pass
from wsistain.evaluation.rows import Network
from wsistain.evaluation.summary import summarise
from wsistain.evaluation.truth import cell_table, gather_cells, read_truth
from wsistain.markers import Marker
from wsistain.networks.facts import ManyMarkers
from wsistain.training.samples import evaluating, from_pixels, to_pixels
from wsistain.training.schedule import Ema
from wsistain.weights.file import Header

RGB = NDArray[np.uint8]

KEY = "validation"
"""Of the measured values in a line of metrics.jsonl."""

_NAME = "now"
_OF_TRUTH = ("cell_auc", "css", "positive_error")
_OF_PAIRS = ("css", "ssim", "positive_error")


def check_metrics(cfg: TrainConfig) -> None:
    """ConfigError where a metric that is asked for is not known, needs published networks, or has no better side."""
    wanted = [*cfg.val_metrics, *([cfg.best_metric] if cfg.best_metric else [])]
    for name in wanted:
        if name not in METRICS:
            raise ConfigError(f"val_metrics: {name!r} is not known; wanted some of {', '.join(_measured())}")
        if name not in _measured():
            raise ConfigError(f"val_metrics: {name} needs published networks; measure it afterwards, with 'evaluate'")
    if cfg.best_metric and METRICS[cfg.best_metric].better == "none":
        raise ConfigError(f"best_metric: {cfg.best_metric} only describes, it has no better side; choose another")
    if cfg.patience is not None and cfg.val_every is None:
        raise ConfigError("patience counts validations: set val_every too")


def _measured() -> list[str]:
    deep = {n for n in METRICS if n.startswith("phv_")} | set(METRIC_NETS)
    return [name for name in METRICS if name not in deep]


def gain(metric: str, value: float, over: float | None) -> bool:
    """Whether a value of a metric is better than another one (None: than nothing)."""
    if over is None:
        return True
    better = METRICS[metric].better
    if better == "higher":
        return value > over
    return abs(value) < abs(over) if better == "zero" else value < over


@dataclass
class Best:
    """The best validation so far: by which metric, its value and step, and how many validations have brought no gain."""

    metric: str
    value: float | None = None
    step: int = 0
    since: int = 0

    def take(self, step: int, values: Mapping[str, float]) -> bool:
        """Take in one validation; whether it is the best so far."""
        value = values.get(self.metric)
        if value is not None and gain(self.metric, value, self.value):
            self.value, self.step, self.since = value, step, 0
            return True
        self.since += 1
        return False


class Validation:
    """What is measured on the held-out patches of a run, and what was the best.

    refs    : held-out patches of all markers, each with its `marker`; at most `val_patches` a marker are measured.
    header  : of the weights that would be written now: scale and size multiple of the network.
    log     : metrics.jsonl, whose validations up to `start` are those that a resumed run has made already.
    """

    def __init__(
        self,
        cfg: TrainConfig,
        refs: Sequence[PatchRef],
        markers: Sequence[Marker],
        header: Header,
        log: Path,
        start: int,
    ) -> None:
        check_metrics(cfg)
        self._cfg, self._header = cfg, header
        self._parts = []
        for marker in markers:
            own = [r for r in refs if r.he is not None and r.ihc is not None and r.marker in (None, marker.name)]
            if not own:
                raise DataError(
                    "validation needs held-out pairs of H&E and IHC, and there are none; leave val_every away"
                )
            own = [
                r for r in own if r.truth is not None
            ] or own  # where a part of them has a truth, that part tells most
            picked = np.unique(np.linspace(0, len(own) - 1, min(len(own), cfg.val_patches)).round().astype(int))
            chosen = [own[i] for i in picked]
            self._parts.append((marker, chosen, read_truth(chosen, marker, "val")))
        usual = _OF_TRUTH if all(truth is not None for _, _, truth in self._parts) else _OF_PAIRS
        self.metrics = tuple(cfg.val_metrics) or usual
        self.best = Best(cfg.best_metric or self.metrics[0])
        if METRICS[self.best.metric].better == "none":
            raise ConfigError(f"{self.best.metric} has no better side; set best_metric to choose the best weights by")
        unknown = [n for n in (*self.metrics, self.best.metric) if METRICS[n].group == "truth"]
        if unknown and any(truth is None for _, _, truth in self._parts):
            raise ConfigError(f"{unknown[0]} cannot be measured on these patches: their truth is not known")
        # Validations before the first that holds the metric are of a time when another one was asked for.
        for step, values in dropwhile(lambda one: self.best.metric not in one[1], earlier(log, start)):
            self.best.take(step, values)

    @property
    def is_over(self) -> bool:
        """Whether the run has brought no gain for so long that it ends."""
        return self._cfg.patience is not None and self.best.since >= self._cfg.patience

    def measure(self, network: nn.Module, ema: Ema | None, device: torch.device) -> dict[str, float]:
        """The finite values of the wanted metrics, means over markers, and "seconds"."""
        began = time.monotonic()
        tables: list[dict[str, float]] = []
        with evaluating(network), ema.applied() if ema is not None else nullcontext():
            for marker, refs, truth in self._parts:
                generator: Any = _Live(network, self._header, marker, device, self._cfg.precision)
                stainer = Network(_NAME, generator, self._cfg.data.mpp)
                work = Pass([stainer], marker, DeepMetrics(torch.device("cpu")), cells=truth.places if truth else {})
                results, unusable = run_pass(refs, work, workers=1)
                if unusable:
                    raise DataError(f"a held-out patch cannot be used: {unusable[0].name}: {unusable[0].why}")
                slides = [r.ref.slide for r in results]
                columns = {
                    m: np.array([r.measures.systems[_NAME][m] for r in results])
                    for m in results[0].measures.systems[_NAME]
                }
                real = {k: np.array([r.measures.real[k] for r in results]) for k in results[0].measures.real}
                table = summarise(columns, real, slides)
                if truth is not None:
                    cells = gather_cells(truth, [r.ref for r in results], [r.measures.cell_od for r in results])
                    table |= cell_table(cells, _NAME, slides, marker)
                wanted = {*self.metrics, self.best.metric}
                tables.append({n: table[n].value for n in METRICS if n in wanted and n in table})
        means = {n: float(np.mean([t[n] for t in tables])) for n in tables[0]}
        missing = {*self.metrics, self.best.metric} - set(means)
        if missing:
            raise ConfigError(f"{sorted(missing)[0]} cannot be measured on these patches; choose other val_metrics")
        finite = {n: round(v, 6) for n, v in means.items() if math.isfinite(v)}
        return {**finite, "seconds": round(time.monotonic() - began, 3)}


def earlier(log: Path, start: int) -> list[tuple[int, dict[str, float]]]:
    """(step, values) of the validations in a metrics.jsonl, up to step `start`."""
    found = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else ():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and isinstance(record.get(KEY), dict) and record.get("step", start + 1) <= start:
            found.append((int(record["step"]), record[KEY]))
    return found


class _Live:
    """The network of a run under way as a generator of `evaluation.rows.Network`; safe to call from threads."""

    def __init__(self, network: nn.Module, header: Header, marker: Marker, device: torch.device, precision: str):
        self._network, self._marker, self._device = network, marker.name, device
        self._dtype = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
        self._one_at_a_time = threading.Lock()
        self.spec = SimpleNamespace(mpp=header.mpp, size_multiple=header.size_multiple)

    def stain(self, tiles: RGB, positions: Sequence[tuple[int, int]]) -> RGB:
        """Stained tiles, uint8 (n, h, w, 3). What torch keeps by thread (gradients, autocast) is set here."""
        cast = torch.autocast(self._device.type, self._dtype) if self._dtype is not None else nullcontext()
        with self._one_at_a_time, torch.no_grad(), cast:
            x = from_pixels(torch.from_numpy(np.ascontiguousarray(tiles)).to(self._device))
            if isinstance(self._network, ManyMarkers):
                return to_pixels(self._network.stain(x, [self._marker])[0])
            return to_pixels(self._network(x))
