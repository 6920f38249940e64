"""Small plots as inline SVG: no scripts, no fonts, no files. Colours come from the page's style sheet, or `standalone`."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

SIZE = 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 10, 34


def _ticks(top: float) -> list[float]:
    """About four round numbers from 0 to `top`."""
    if top <= 0 or not math.isfinite(top):
        return [0.0, 1.0]
    raw = top / 4
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * k for k in (1, 2, 2.5, 5, 10) if unit * k >= raw * 0.999)
    return [step * k for k in range(int(top / step + 1e-6) + 1)]


def _text(x: float, y: float, text: str, anchor: str = "middle", kind: str = "tick") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>'


def scatter(
    x: Sequence[float], y: Sequence[float], labels: Sequence[str], *, x_label: str, y_label: str, percent: bool = True
) -> str:
    """A square scatter plot with the diagonal of equality, both axes from 0 and alike; non-finite points are left out.

    labels : what a pointer resting on a point shows.
    """
    points = [(a, b, t) for a, b, t in zip(x, y, labels, strict=True) if math.isfinite(a) and math.isfinite(b)]
    top = max([v for a, b, _ in points for v in (a, b)] + [1e-3]) * 1.05
    span_x, span_y = SIZE - _LEFT - _RIGHT, SIZE - _TOP - _BOTTOM

    def place(a: float, b: float) -> tuple[float, float]:
        return _LEFT + a / top * span_x, SIZE - _BOTTOM - b / top * span_y

    parts = [f'<svg viewBox="0 0 {SIZE} {SIZE}" class="plot" role="img">']
    for tick in _ticks(top):
        text = f"{100 * tick:.3g}%" if percent else f"{tick:.3g}"
        tx, ty = place(tick, tick)
        parts.append(f'<line x1="{_LEFT}" x2="{SIZE - _RIGHT}" y1="{ty:.1f}" y2="{ty:.1f}" class="grid"/>')
        parts.append(f'<line x1="{tx:.1f}" x2="{tx:.1f}" y1="{_TOP}" y2="{SIZE - _BOTTOM}" class="grid"/>')
        parts += [_text(_LEFT - 4, ty + 3, text, "end"), _text(tx, SIZE - _BOTTOM + 12, text)]
    (x0, y0), (x1, y1) = place(0, 0), place(top, top)
    parts.append(f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" class="equal"/>')
    for a, b, label in points:
        cx, cy = place(a, b)
        parts.append(f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="3" class="dot"><title>{escape(label)}</title></circle>')
    parts.append(_text(_LEFT + span_x / 2, SIZE - 6, x_label, kind="axis"))
    mid = _TOP + span_y / 2
    parts.append(
        f'<text transform="translate(10 {mid:.1f}) rotate(-90)" text-anchor="middle" class="axis">{escape(y_label)}</text>'
    )
    return "".join(parts) + "</svg>"


def dumbbells(rows: Sequence[tuple[str, float, float]], *, percent: bool = True) -> str:
    """One line a slide: a ring where the real value is, a dot where the virtual one is, and what lies between.

    rows : (label, virtual, real).
    """
    row_px, width, left, right = 18, 420, 130, 46
    height = row_px * len(rows) + 34
    top = max([v for _, a, b in rows for v in (a, b) if math.isfinite(v)] + [1e-3]) * 1.05
    span = width - left - right

    def place(value: float) -> float:
        return left + value / top * span

    parts = [f'<svg viewBox="0 0 {width} {height}" class="bars" role="img">']
    for tick in _ticks(top):
        text = f"{100 * tick:.3g}%" if percent else f"{tick:.3g}"
        parts.append(f'<line x1="{place(tick):.1f}" x2="{place(tick):.1f}" y1="4" y2="{height - 28}" class="grid"/>')
        parts.append(_text(place(tick), height - 14, text))
    for index, (label, virtual, real) in enumerate(rows):
        y = 14 + index * row_px
        name = label if len(label) <= 20 else label[:19] + "…"
        parts.append(_text(left - 6, y + 4, name, "end"))
        parts.append(f'<line x1="{place(virtual):.1f}" x2="{place(real):.1f}" y1="{y}" y2="{y}" class="between"/>')
        shown = (
            f"{100 * virtual:.1f}% virtual, {100 * real:.1f}% real"
            if percent
            else f"{virtual:.1f} virtual, {real:.1f} real"
        )
        parts.append(
            f'<circle cx="{place(real):.1f}" cy="{y}" r="4" class="ring"><title>{escape(shown)}</title></circle>'
        )
        parts.append(
            f'<circle cx="{place(virtual):.1f}" cy="{y}" r="4" class="dot"><title>{escape(shown)}</title></circle>'
        )
    return "".join(parts) + "</svg>"


def bars(
    rows: Sequence[tuple[str, float, float | None, float | None]],
    marks: Sequence[tuple[str, float]],
    low: float,
    high: float,
) -> str:
    """Horizontal bars with intervals from `low` to `high`, and named vertical marks.

    rows : (label, value, interval low, interval high).
    """
    row_px, width, left, right = 22, 520, 150, 60
    height = row_px * len(rows) + 40
    span = width - left - right

    def place(value: float) -> float:
        return left + (min(max(value, low), high) - low) / (high - low) * span

    parts = [f'<svg viewBox="0 0 {width} {height}" class="bars" role="img">']
    for k in range(5):
        tick = low + k * (high - low) / 4
        parts.append(f'<line x1="{place(tick):.1f}" x2="{place(tick):.1f}" y1="20" y2="{height - 18}" class="grid"/>')
        parts.append(_text(place(tick), height - 6, f"{tick:.3g}"))
    for label, value in marks:  # below the bars and their numbers
        parts.append(f'<line x1="{place(value):.1f}" x2="{place(value):.1f}" y1="16" y2="{height - 18}" class="mark"/>')
        parts.append(_text(place(value), 11, label, kind="axis"))
    for index, (label, value, below, above) in enumerate(rows):
        y = 24 + index * row_px
        parts.append(_text(left - 6, y + 11, label if len(label) <= 24 else label[:23] + "…", "end"))
        if not math.isfinite(value):
            continue
        parts.append(f'<rect x="{left}" y="{y}" width="{max(place(value) - left, 0):.1f}" height="14" class="bar"/>')
        if below is not None and above is not None:
            parts.append(
                f'<line x1="{place(below):.1f}" x2="{place(above):.1f}" y1="{y + 7}" y2="{y + 7}" class="interval"/>'
            )
        parts.append(_text(max(place(value), place(above or value)) + 5, y + 11, f"{value:.3f}", "start"))
    return "".join(parts) + "</svg>"


_WIDE, _HIGH, _MOST_POINTS = 300, 190, 300


def curve(points: Sequence[tuple[float, float]], *, x_label: str, mark: float | None = None) -> str:
    """A line through (x, y), which is finite and rises in x, from the least to the largest y; means where points are many.

    mark : an x that is pointed out.
    """
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if not finite:
        return f'<svg viewBox="0 0 {_WIDE} {_HIGH}" class="curve" role="img"></svg>'
    size = -(-len(finite) // _MOST_POINTS)
    groups = [finite[i : i + size] for i in range(0, len(finite), size)]
    means = [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]
    low, high = min(y for _, y in means), max(y for _, y in means)
    middle, half = (low + high) / 2, max((high - low) / 2, abs(low) * 1e-3, 1e-9)
    low, high = middle - half, middle + half
    first, last = means[0][0], max(means[-1][0], means[0][0] + 1)
    left, right, top, bottom = 56, 10, 8, 26

    def place(x: float, y: float) -> tuple[float, float]:
        across = left + (x - first) / (last - first) * (_WIDE - left - right)
        return across, top + (high - y) / (high - low) * (_HIGH - top - bottom)

    parts = [f'<svg viewBox="0 0 {_WIDE} {_HIGH}" class="curve" role="img" style="width:{_WIDE}px">']
    for k in range(4):
        y = low + (high - low) * k / 3
        py = place(first, y)[1]
        parts.append(f'<line x1="{left}" x2="{_WIDE - right}" y1="{py:.1f}" y2="{py:.1f}" class="grid"/>')
        parts.append(_text(left - 4, py + 3, f"{y:.3g}", "end"))
    for x, anchor in ((first, "start"), (last, "end")):
        parts.append(_text(place(x, low)[0], _HIGH - 14, f"{x:.0f}", anchor))
    parts.append(_text((left + _WIDE - right) / 2, _HIGH - 4, x_label, kind="axis"))
    if mark is not None:
        px = place(mark, low)[0]
        parts.append(f'<line x1="{px:.1f}" x2="{px:.1f}" y1="{top}" y2="{_HIGH - bottom}" class="mark"/>')
    path = " ".join(f"{px:.1f},{py:.1f}" for px, py in (place(x, y) for x, y in means))
    parts.append(f'<polyline points="{path}" fill="none" stroke="#8a4b16" stroke-width="1.6"/>')
    if len(means) <= 40:
        for x, y in means:
            px, py = place(x, y)
            parts.append(
                f'<circle cx="{px:.1f}" cy="{py:.1f}" r="2.2" class="dot"><title>{x:.0f}: {y:.6g}</title></circle>'
            )
    return "".join(parts) + "</svg>"


WIDE = 520
_STYLE = (
    "text{font:11px system-ui,sans-serif;fill:#1b1f24}.tick{font-size:10px;fill:#5b6470}.grid{stroke:#d9dee4;stroke-width:.6}"
    ".dot{fill:#8a4b16;fill-opacity:.75}.ring{fill:none;stroke:#2f5d8a;stroke-width:1.4}"
)


def standalone(plot: str) -> str:
    """A plot of this module as a file of its own: white ground, colours inside."""
    opening, rest = plot.split(">", 1)
    named = opening.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return f'{named}><style>{_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>{rest}\n'


def clouds(groups: Mapping[str, tuple[Any, Sequence[str]]], title: str) -> str:
    """Two groups of points in a plane without units, dots and rings: name to (places float (n, 2), names of the points)."""
    every = [(float(x), float(y)) for places, _ in groups.values() for x, y in places]
    lows = [min(p[k] for p in every) for k in (0, 1)]
    span = max(max(p[k] for p in every) - lows[k] for k in (0, 1)) or 1.0
    inner = WIDE - 40
    parts = [f'<svg viewBox="0 0 {WIDE} {WIDE}" class="plot" role="img">', _text(WIDE / 2, 14, title, kind="axis")]
    for k, (name, (places, labels)) in enumerate(groups.items()):
        kind = ("dot", "ring")[k % 2]
        parts.append(f'<circle cx="26" cy="{WIDE - 12 - 16 * k}" r="4" class="{kind}"/>')
        parts.append(_text(36, WIDE - 8 - 16 * k, name, "start", "axis"))
        for (x, y), label in zip(places, labels, strict=True):
            cx, cy = (20 + (float(v) - low) / span * inner for v, low in zip((x, y), lows, strict=True))
            parts.append(
                f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="3.5" class="{kind}"><title>{escape(f"{name}: {label}")}</title></circle>'
            )
    return "".join(parts) + "</svg>"


def named_points(rows: Sequence[tuple[str, float, float]], *, x_label: str, y_label: str) -> str:
    """Points with their names beside them, axes from the least to the most with a little room.

    rows : (name, x, y), finite.
    """
    ends = []
    for values in ([row[1] for row in rows], [row[2] for row in rows]):
        room = max((max(values) - min(values)) * 0.12, 1.0)
        ends.append((min(values) - room, max(values) + room))
    left, bottom, top, right = 52, 40, 14, 110
    spans = WIDE - left - right, WIDE - bottom - top

    def place(x: float, y: float) -> tuple[float, float]:
        (x0, x1), (y0, y1) = ends
        return left + (x - x0) / (x1 - x0) * spans[0], WIDE - bottom - (y - y0) / (y1 - y0) * spans[1]

    parts = [f'<svg viewBox="0 0 {WIDE} {WIDE}" class="plot" role="img">']
    for k in range(5):
        x, y = (low + k / 4 * (high - low) for low, high in ends)
        px, py = place(x, y)
        parts.append(f'<line x1="{left}" x2="{WIDE - right}" y1="{py:.1f}" y2="{py:.1f}" class="grid"/>')
        parts.append(f'<line x1="{px:.1f}" x2="{px:.1f}" y1="{top}" y2="{WIDE - bottom}" class="grid"/>')
        parts += [_text(left - 5, py + 3, f"{y:.1f}", "end"), _text(px, WIDE - bottom + 13, f"{x:.1f}")]
    for name, x, y in rows:
        px, py = place(x, y)
        parts.append(
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="4" class="dot"><title>{escape(f"{name}: {x:.2f}, {y:.2f}")}</title></circle>'
        )
        parts.append(_text(px + 7, py + 4, name if len(name) <= 24 else name[:23] + "…", "start", "axis"))
    parts.append(_text(left + spans[0] / 2, WIDE - 10, x_label, kind="axis"))
    mid = top + spans[1] / 2
    parts.append(
        f'<text transform="translate(14 {mid:.1f}) rotate(-90)" text-anchor="middle" class="axis">{escape(y_label)}</text>'
    )
    return "".join(parts) + "</svg>"
