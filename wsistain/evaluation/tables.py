"""Results as CSV, and as Markdown tables in the form of the papers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from wsistain.evaluation.metrics import METRICS, PAPER_COLUMNS, Metric
from wsistain.runtime.spreadsheet import csv_text

Results = dict[str, Any]


def metric_value(system: Mapping[str, Any], name: str) -> float | None:
    """The value of a metric of one system, None where it was not computed or is undefined."""
    entry = system["metrics"].get(name)
    return None if entry is None else entry["value"]


def columns_of(results: Results, names: Sequence[str]) -> list[str]:
    """Those of `names` that at least one system has, or that are missing for want of a network."""
    systems = results["systems"].values()
    return [n for n in names if n in results["missing"] or any(n in s["metrics"] for s in systems)]


def best_of(results: Results, name: str) -> float | None:
    """The best value of a metric among the weights (not the baselines), None where nothing is better or worse."""
    values = [metric_value(s, name) for s in results["systems"].values() if s["kind"] != "baseline"]
    numbers = [v for v in values if v is not None]
    better = METRICS[name].better
    if not numbers or better == "none":
        return None
    return {"higher": max, "lower": min}.get(better, lambda v: min(v, key=abs))(numbers)


def formatted(value: float | None, metric: Metric) -> str:
    """A number as the tables print it (percent where the metric says so); a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value * metric.scale:.{metric.decimals}f}"


def with_spread(entry: Mapping[str, Any] | None, metric: Metric) -> str:
    """A number as papers print it, with the plus-minus where there is one: see `Estimate.spread`."""
    text = formatted(entry["value"] if entry else None, metric)
    spread = entry.get("spread") if entry else None
    return text if spread is None or text == "–" else f"{text} ± {formatted(spread, metric)}"


def with_interval(entry: Mapping[str, Any] | None, metric: Metric) -> str:
    """A number with its 95 % interval in brackets, where there is one."""
    if entry is None:
        return "–"
    text = formatted(entry["value"], metric)
    if entry["ci_low"] is None or text == "–":
        return text
    return f"{text} [{formatted(entry['ci_low'], metric)}, {formatted(entry['ci_high'], metric)}]"


def to_csv(results: Results) -> str:
    """One row a system and level ("all" first): value, interval and count of every metric."""
    names = [n for n in METRICS if any(n in s["metrics"] for s in results["systems"].values())]
    columns = ["system", "kind", "level"]
    for name in names:
        columns += [name, f"{name}_spread", f"{name}_ci_low", f"{name}_ci_high", f"{name}_n"]
    rows = []
    for system, facts in results["systems"].items():
        for level, table in {"all": facts["metrics"], **facts["levels"]}.items():
            row: dict[str, Any] = {"system": system, "kind": facts["kind"], "level": level}
            for name in names:
                entry = table.get(name)
                if entry is not None:
                    beside = ("spread", "ci_low", "ci_high", "n")
                    row |= {name: entry["value"], **{f"{name}_{k}": entry.get(k) for k in beside}}
            rows.append(row)
    return csv_text(columns, rows)


def pairs_to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """One row a picture and system: every per-picture number."""
    columns: dict[str, None] = {}
    for row in rows:
        columns |= dict.fromkeys(row)
    return csv_text(list(columns), rows)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others numbers."""
    lines = ["| " + " | ".join(header) + " |", "| --- |" + " ---: |" * (len(header) - 1)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _system_rows(results: Results, names: Sequence[str], *, intervals: bool) -> list[list[str]]:
    rows = []
    for system in results["systems"].values():
        row = [system["label"]]
        for name in names:
            metric, entry = METRICS[name], system["metrics"].get(name)
            text = with_interval(entry, metric) if intervals else with_spread(entry, metric)
            is_best = (
                text != "–" and system["kind"] != "baseline" and metric_value(system, name) == best_of(results, name)
            )
            row.append(f"**{text}**" if is_best else text)
        rows.append(row)
    return rows


def _level_tables(results: Results, names: Sequence[str]) -> list[str]:
    parts = []
    for level, n in results["data"]["levels"].items():
        rows = []
        for system in results["systems"].values():
            table = system["levels"].get(level, {})
            rows.append([system["label"], *(with_spread(table.get(m), METRICS[m]) for m in names)])
        parts += [f"### Level {level} ({n} pictures)\n", markdown_table(["", *(METRICS[m].label for m in names)], rows)]
    return parts


def missing_by_reason(results: Results) -> list[tuple[list[str], str, list[str]]]:
    """Labels of the metrics that are missing for one reason, the reason, and the commands that help."""
    found: dict[str, tuple[list[str], str, list[str]]] = {}
    for name, missing in results["missing"].items():
        entry = found.setdefault(missing["reason"], ([], missing["reason"], missing["commands"]))
        entry[0].append(METRICS[name].label)
    return list(found.values())


def to_markdown(results: Results) -> str:
    """The report as Markdown: the papers' table, the pathology and truth tables, levels, conventions, what is missing."""
    # The heading.
    data = results["data"]
    title = f"# Evaluation: {data['marker']}, {data['layout']} {data['split']}, {data['n_pairs']} pictures\n"
    slides = f"{data['n_slides']} slides" if data["n_slides"] else "slides not known"
    parts = [
        title,
        f"{slides}; pictures {', '.join(data['sizes'])} px; {results['measured_at']}. Bold: best of the weights. ±: standard deviation over "
        "pictures (KID: over subsets), as papers print it.\n",
        *(f"> **Note**: {warning}.\n" for warning in results.get("warnings", [])),
    ]

    # A table for each group of metrics that was measured; the papers' without intervals, as papers print theirs.
    groups = {
        "As in the papers": PAPER_COLUMNS,
        "Stain": [n for n, m in METRICS.items() if m.group == "pathology" and n not in PAPER_COLUMNS],
        "Against the aligned truth": [n for n, m in METRICS.items() if m.group == "truth"],
        "Other conventions": [
            n for n, m in METRICS.items() if m.group in ("fidelity", "distribution") and n not in PAPER_COLUMNS
        ],
    }
    for heading, wanted in groups.items():
        names = columns_of(results, wanted)
        if not names:
            continue
        arrows = {"higher": " ↑", "lower": " ↓", "zero": " →0", "none": ""}
        header = ["", *(METRICS[n].label + arrows[METRICS[n].better] for n in names)]
        parts += [
            f"## {heading}\n",
            markdown_table(header, _system_rows(results, names, intervals=heading != "As in the papers")),
        ]

    # The truth, levels, what is missing, and what every number means.
    if results["truth"]:
        truth = results["truth"]
        best = truth["best_attainable_auc"]
        parts.append(
            f"Best attainable cell AUC from H&E: {'not stated' if best is None else f'{best:.3f}'}; the aligned truth "
            f"itself, read in the same way, reaches {truth['truth_auc']:.3f} ({truth['n_cells']} cells).\n"
        )
    if data["levels"]:
        parts += ["## By level\n", *_level_tables(results, columns_of(results, PAPER_COLUMNS))]
    if results["missing"]:
        parts.append("## Missing\n")
        for labels, reason, commands in missing_by_reason(results):
            parts.append(f"- {', '.join(labels)}: {reason}." + "".join(f"\n  `{c}`" for c in commands))
        parts.append("")
    parts.append("## Conventions\n")
    shown = columns_of(results, list(METRICS))
    parts += [f"- **{METRICS[n].label}** (`{n}`): {METRICS[n].convention}." for n in shown]
    parts += [f"- {note}" for note in results["notes"]]
    return "\n".join(parts) + "\n"
