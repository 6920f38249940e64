"""Curves of sensitivity: points that `benchmarks/sensitivity.py` measured, read, checked and drawn."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from wsistain.errors import DataError, shown

KINDS = {"misfit": "misfit of the sections, um", "slides": "training slides", "stain": "stain shift s of the test H&E"}
"""What goes wrong along a curve, in the order of the panels."""

COLOURS = ("#8a4b16", "#2f5d8a", "#4a8a4a", "#8e44ad", "#b02020")
WIDE, HIGH, TOP, LEFT, GAP = 250, 150, 24, 40, 60
LOWEST, HIGHEST = 0.4, 1.0
"""Of the axis of the cell AUC; what lies below is drawn on its edge."""


@dataclass(frozen=True)
class Point:
    """One trained run (or given weights) read on the test.

    kind, at    : what goes wrong, of `KINDS`, and how far, in its unit.
    system      : name; crops: of 128 px, seen in training; seed: of the run.
    auc         : cell AUC of the picture, 0..1; low, high: 95 % over slides, None where there are none.
    chance_auc  : the same of the probability that the system tells, None where it tells none.
    """

    edition: str
    condition: str
    kind: str
    at: float
    system: str
    crops: float
    seed: int
    auc: float
    low: float | None
    high: float | None
    chance_auc: float | None

    @property
    def curve(self) -> tuple[str, float]:
        """The curve it belongs to: system and budget."""
        return self.system, self.crops


def read_curves(path: Path) -> list[Point]:
    """The points of a file. Raises DataError for a file that is none, or a point that is not whole."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return [_point(value) for value in found.values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{path} holds no points of benchmarks/sensitivity.py ({type(error).__name__}: {shown(error)}); name its --output"
        ) from None


def _point(value: Mapping[str, Any]) -> Point:
    def number(name: str, least: float = 0.0, most: float = math.inf) -> float:
        found = float(value[name])
        if not (math.isfinite(found) and least <= found <= most):
            raise ValueError(f"{name} is {found}")
        return found

    def share(name: str) -> float | None:
        return None if value.get(name) is None else number(name, 0, 1)

    if value["what"] not in KINDS:
        raise ValueError(f"what is {value['what']!r}")
    return Point(
        edition=str(value["edition"]),
        condition=str(value["condition"]),
        kind=value["what"],
        at=number("at", -math.inf),
        system=str(value["system"]),
        crops=number("crops"),
        seed=int(value["seed"]),
        auc=number("cell_auc", 0, 1),
        low=share("ci_low"),
        high=share("ci_high"),
        chance_auc=share("probability_cell_auc"),
    )


def drawn(points: Sequence[Point]) -> str:
    """The curves as an SVG: a panel a kind, a colour a system and budget; dashed: of the probability that it tells.

    A line joins means over seeds; a dot is one run, its bar 95 % over slides. "" without points.
    """
    kinds = [kind for kind in KINDS if any(p.kind == kind for p in points)]
    curves = sorted({p.curve for p in points})
    if not kinds:
        return ""
    width = LEFT + (WIDE + GAP) * len(kinds)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {TOP + HIGH + 44 + 14 * len(curves)}" '
        f'style="width: {width}px; max-width: 100%" role="img" font-family="sans-serif" font-size="11">',
        f'<text x="{LEFT}" y="14">cell AUC</text>',
    ]
    for panel, kind in enumerate(kinds):
        parts += _panel([p for p in points if p.kind == kind], kind, curves, LEFT + panel * (WIDE + GAP))
    for k, (system, crops) in enumerate(curves):
        dashes = any(p.chance_auc is not None for p in points if p.curve == (system, crops))
        text = f"{system}, {crops:,.0f} crops" + ("; dashed: by the probability that it tells" if dashes else "")
        parts.append(
            f'<text x="{LEFT}" y="{TOP + HIGH + 50 + 14 * k}" style="fill: {_colour(k)}">{escape(text)}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _colour(k: int) -> str:
    return COLOURS[k % len(COLOURS)]


def _y(value: float) -> float:
    return TOP + HIGH * (HIGHEST - min(max(value, LOWEST), HIGHEST)) / (HIGHEST - LOWEST)


def _panel(points: Sequence[Point], kind: str, curves: Sequence[tuple[str, float]], left: int) -> list[str]:
    values = sorted({p.at for p in points})
    parts = []
    for tick in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        parts.append(
            f'<line x1="{left}" x2="{left + WIDE}" y1="{_y(tick):.1f}" y2="{_y(tick):.1f}" stroke="#d9dee4"/>'
            f'<text x="{left - 6}" y="{_y(tick) + 4:.1f}" text-anchor="end">{tick:.1f}</text>'
        )
    across = {value: left + WIDE * (k + 0.5) / len(values) for k, value in enumerate(values)}
    for value, x in across.items():
        parts.append(f'<text x="{x:.1f}" y="{TOP + HIGH + 16}" text-anchor="middle">{value:g}</text>')
    middle = left + WIDE / 2
    parts.append(f'<text x="{middle}" y="{TOP + HIGH + 32}" text-anchor="middle">{escape(KINDS[kind])}</text>')
    for k, curve in enumerate(curves):
        mine = [p for p in points if p.curve == curve]
        parts.append(_line({p.at: [q.auc for q in mine if q.at == p.at] for p in mine}, across, _colour(k), ""))
        told = [(p.at, p.chance_auc) for p in mine if p.chance_auc is not None]
        of = {at: [v for other, v in told if other == at] for at, _ in told}
        parts.append(_line(of, across, _colour(k), ' stroke-dasharray="4 3"'))
        parts += [_dot(p, across[p.at], _colour(k)) for p in mine]
    return parts


def _line(values: Mapping[float, Sequence[float]], across: Mapping[float, float], colour: str, more: str) -> str:
    places = " ".join(f"{across[at]:.1f},{_y(sum(v) / len(v)):.1f}" for at, v in sorted(values.items()))
    return f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="1.5"{more}/>' if places else ""


def _dot(point: Point, x: float, colour: str) -> str:
    what = f"{point.system}, seed {point.seed}, {point.at:g}: {point.auc:.3f}"
    bar = ""
    if point.low is not None and point.high is not None:
        ends = f'y1="{_y(point.low):.1f}" y2="{_y(point.high):.1f}"'
        bar = f'<line x1="{x:.1f}" x2="{x:.1f}" {ends} stroke="{colour}"/>'
        what += f" ({point.low:.3f} to {point.high:.3f})"
    title = f"<title>{escape(what)}</title>"
    return f'{bar}<circle cx="{x:.1f}" cy="{_y(point.auc):.1f}" r="3.5" fill="{colour}">{title}</circle>'
