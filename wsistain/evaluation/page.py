"""The report as one HTML page that needs nothing else: sortable tables, plots, picture sheets, conventions."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from wsistain.evaluation import svg
from wsistain.evaluation.metrics import LONG_NAMES, METRICS, PAPER_COLUMNS
from wsistain.evaluation.tables import (
    Results,
    best_of,
    columns_of,
    formatted,
    metric_value,
    missing_by_reason,
    with_spread,
)
from wsistain.pages.pictures import jpeg_data
from wsistain.pages.render import render

if TYPE_CHECKING:
    from wsistain.evaluation.patches import PatchResult

RGB = NDArray[np.uint8]

_ARROWS = {"higher": " ↑", "lower": " ↓", "zero": " → 0", "none": ""}


def page(title: str, body: Sequence[str]) -> str:
    """A whole HTML document with the house's style and the script that sorts tables; `body`: HTML, escaped already."""
    return render("plain.html", title=title, body=Markup("\n".join(body)))


def legend(gradient: str, low: str, high: str, note: str) -> str:
    """What the colours of a map mean: a CSS gradient between two words, and a sentence."""
    return (
        f'<div class="legend"><span>{escape(low)}</span><i style="background:{escape(gradient)}"></i>'
        f'<span>{escape(high)}</span><span class="what">{escape(note)}</span></div>'
    )


def picture_sheet(
    rows: Sequence[tuple[str, Mapping[str, RGB]]],
    labels: Mapping[str, str],
    legends: Mapping[str, str] | None = None,
    *,
    named: bool = False,
) -> str:
    """Rows of pictures with one heading a column; `labels` gives columns and order, a row may lack some.

    legends : HTML that stands under the heading of a column.
    named   : each row begins with its name.
    """
    columns = [c for c in labels if any(c in pictures for _, pictures in rows)]
    cells = [f"<div>{escape(labels[c])}{(legends or {}).get(c, '')}</div>" for c in columns]
    for name, pictures in rows:
        if named:
            cells.append(f"<h3>{escape(name)}</h3>")
        for column in columns:
            if column in pictures:
                title = escape(f"{name}: {labels[column]}", quote=True)
                cells.append(f'<img src="{jpeg_data(pictures[column])}" alt="{title}" title="{title}" loading="lazy">')
            else:
                cells.append("<div>–</div>")
    return f'<div class="sheet" style="grid-template-columns:repeat({len(columns)},minmax(130px,1fr))">{"".join(cells)}</div>'


def _table(results: Results, names: Sequence[str], level: str | None = None) -> str:
    heads = ['<th data-sort scope="col">System</th>']
    for name in names:
        metric = METRICS[name]
        title = escape(metric.convention, quote=True)
        heads.append(f'<th data-sort scope="col" title="{title}">{escape(metric.label)}{_ARROWS[metric.better]}</th>')
    rows = []
    for system in results["systems"].values():
        table = system["metrics"] if level is None else system["levels"].get(level, {})
        cells = [f"<td>{escape(system['label'])}</td>"]
        for name in names:
            cells.append(_cell(results, system, table.get(name), name, whole=level is None))
        rows.append(f'<tr class="{escape(system["kind"])}">{"".join(cells)}</tr>')
    return (
        f'<div class="wide"><table class="sortable"><thead><tr>{"".join(heads)}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(
    results: Results, system: Mapping[str, Any], entry: Mapping[str, Any] | None, name: str, *, whole: bool
) -> str:
    metric = METRICS[name]
    if entry is None:
        return '<td data-value="">–</td>'
    value = entry["value"]
    interval = ""
    if entry["ci_low"] is not None:
        interval = f"<small>{formatted(entry['ci_low'], metric)} to {formatted(entry['ci_high'], metric)}</small>"
    is_best = whole and value is not None and system["kind"] != "baseline" and value == best_of(results, name)
    return (
        f'<td data-value="{"" if value is None else repr(value)}"{" class=best" if is_best else ""}>'
        f"{with_spread(entry, metric)}{interval}</td>"
    )


def _plots(results: Results, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Positive area virtual against real a picture, and by slide, for every system."""
    parts: list[str] = []
    if rows:
        parts.append("<h2>Positive area, virtual against real</h2><p class=soft>One point a picture; share of pixels "
                     "whose stain density is at least the marker's 1+ cut-off; the dashed line is equality.</p><div class=plots>")  # fmt: skip
        for name, system in results["systems"].items():
            if name == "real":
                continue
            mine = [r for r in rows if r["system"] == name]
            x, y = ([float(r[k]) for r in mine] for k in ("real_positive_fraction", "positive_fraction"))
            value = formatted(metric_value(system, "area_r"), METRICS["area_r"])
            plot = svg.scatter(x, y, [str(r["name"]) for r in mine], x_label="real IHC", y_label="virtual")
            parts.append(f"<figure><figcaption>{escape(system['label'])}, r = {value}</figcaption>{plot}</figure>")
        parts.append("</div>")
    if results["data"]["n_slides"]:
        parts.append("<h2>Positive area by slide</h2><p class=soft>Dot: virtual, ring: real IHC, mean of the slide's pictures.</p>"
                     "<div class=plots>")  # fmt: skip
        for name, system in results["systems"].items():
            if name == "real":
                continue
            lines = [(s, v["positive_fraction"], v["real_positive_fraction"]) for s, v in system["slides"].items()]
            parts.append(
                f"<figure><figcaption>{escape(system['label'])}</figcaption>{svg.dumbbells(lines[:40])}</figure>"
            )
        parts.append("</div>")
    return parts


def _truth(results: Results) -> list[str]:
    truth = results["truth"]
    if not truth:
        return []
    rows = []
    for system in results["systems"].values():
        entry = system["metrics"]["cell_auc"]
        value = float("nan") if entry["value"] is None else entry["value"]
        rows.append((system["label"], value, entry["ci_low"], entry["ci_high"]))
    marks = [("best from H&E", truth["best_attainable_auc"])] if truth["best_attainable_auc"] is not None else []
    read = truth["truth_auc"]
    text = (
        f"{truth['n_tumour_cells']} tumour cells of {truth['n_cells']}; the aligned truth itself, read in the same way, reaches "
        f"{'–' if read is None else f'{read:.3f}'}. No system that sees only H&E can pass the dashed line in the long run."
    )
    return [
        "<h2>Against the aligned truth</h2>",
        f"<p class=soft>{escape(text)}</p>",
        f"<figure><figcaption>Cell AUC</figcaption>{svg.bars(rows, marks, 0.4 if all(not r[1] < 0.4 for r in rows) else 0.0, 1.0)}</figure>",
        _table(results, columns_of(results, [n for n, m in METRICS.items() if m.group == "truth"])),
    ]


def _missing(results: Results) -> list[str]:
    if not results["missing"]:
        return []
    groups = missing_by_reason(results)
    lines = "".join(f"<p>{escape(', '.join(labels))}: {escape(reason)}.</p>" for labels, reason, _ in groups)
    fetch = escape("\n".join(dict.fromkeys(c for _, _, commands in groups for c in commands)))
    return [f"<h2>Not computed</h2><div class=note>{lines}<p>To fetch what is missing:</p><pre>{fetch}</pre></div>"]


def to_html(results: Results, rows: Sequence[Mapping[str, Any]], shown: Sequence["PatchResult"]) -> str:
    """The report page of patch results.

    rows  : one a picture and system, as in pairs.csv (may be empty: no scatter plots).
    shown : patches with thumbnails.
    """
    # The heading, and the table as papers print it.
    data = results["data"]
    slides = f"{data['n_slides']} slides" if data["n_slides"] else "slides not known"
    title = f"{data['marker']}, {data['layout']} {data['split']}"
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p class=soft>{data['n_pairs']} pictures ({escape(', '.join(data['sizes']))} px), {slides}, "
        f"{escape(results['measured_at'])}; wsistain {escape(results['wsistain_version'])}, {escape(results['date'])}. "
        "Virtual stains are for research, not for diagnosis. Click a heading to sort; point at it for the convention. "
        "Brown: best of the weights; ±: standard deviation over pictures (KID: over subsets), as papers print it; small: "
        "95 % interval over slides.</p>",
        *(f"<div class=note>{escape(warning)}</div>" for warning in results.get("warnings", [])),
        "<h2>As in the papers</h2>",
        _table(results, sorted(columns_of(results, PAPER_COLUMNS), key=lambda n: n in results["missing"])),
    ]

    # What could not be used or measured, and how the truth was read.
    if data["unreadable"]:
        listed = "".join(f"<li>{escape(u['name'])}: {escape(u['why'])}</li>" for u in data["unreadable"][:50])
        body.append(f"<div class=note>{len(data['unreadable'])} patches could not be used:<ul>{listed}</ul></div>")
    body += _missing(results) + _truth(results)

    # The other metrics, then the papers' by level.
    stain = [n for n, m in METRICS.items() if m.group == "pathology" and n not in PAPER_COLUMNS]
    other = [n for n, m in METRICS.items() if m.group in ("fidelity", "distribution") and n not in PAPER_COLUMNS]
    body += ["<h2>Stain</h2>", _table(results, columns_of(results, stain))]
    if columns_of(results, other):
        body += ["<h2>Other conventions</h2>", _table(results, columns_of(results, other))]
    for level, n in data["levels"].items():
        body += [
            f"<h3>Level {escape(level)} ({n} pictures)</h3>",
            _table(results, columns_of(results, PAPER_COLUMNS), level),
        ]

    # Plots and pictures.
    body += _plots(results, rows)
    if shown:
        labels = {"he": "H&E", "real": "real IHC", "truth": "aligned truth"}
        labels |= {n: s["label"] for n, s in results["systems"].items() if n not in ("identity", "real")}
        body += ["<h2>Pictures</h2>", picture_sheet([(r.ref.name, r.pictures) for r in shown], labels)]

    # What every number means, and where the rows come from.
    names = columns_of(results, list(METRICS))
    body.append("<h2>Conventions</h2><dl>" + "".join(
        f"<dt>{escape(METRICS[n].label)}</dt><dd>{escape(METRICS[n].convention)}</dd>" for n in names
    ) + "</dl>")  # fmt: skip
    body.append("<ul>" + "".join(f"<li>{escape(note)}</li>" for note in results["notes"]) + "</ul>")
    facts = {
        LONG_NAMES.get(n, n): {k: v for k, v in s.items() if k not in ("metrics", "levels", "slides")}
        for n, s in results["systems"].items()
    }
    dump = escape(json.dumps({"systems": facts, "networks": results["networks"]}, indent=2, ensure_ascii=False))
    body.append(f"<details><summary>Where the rows come from</summary><pre>{dump}</pre></details>")
    return page(f"wsistain: {title}", body)
