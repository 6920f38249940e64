"""The table of a paper from the runs of a grid: its rows and columns, measured and as printed."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wsistain.errors import DataError
from wsistain.evaluation.metrics import METRICS
from wsistain.evaluation.tables import Results, formatted, markdown_table, metric_value, with_spread
from wsistain.runtime.files import reporting, write_json, write_text

Measure = Callable[[list[str], str, Path], Results]
"""Results of weights for a marker, written into a folder."""


def read_facts(runs: Path) -> dict[str, Any]:
    """What `train --grid` wrote about the table in the folder `runs`; DataError where that is none."""
    path = runs / "grid.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        for row in facts["rows"]:
            _ = row["name"], row["label"], row["folders"].items(), row["published"].items()
        _ = facts["title"], [METRICS[m] for m in facts["metrics"]]
        return {**facts}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{runs} holds no grid of 'wsistain train --grid' ({type(error).__name__}: {error})") from None


def _is_finished(weights: Path) -> bool:
    from wsistain.weights.file import read_header

    return weights.is_file() and not read_header(weights).note


def evaluate_grid(runs: Path, output: Path, measure: Measure) -> tuple[str, list[str]]:
    """The table as Markdown, and the rows (`<marker>/<row>`) that are not trained yet; DataError where none is.

    Each marker's report goes into `output`/<marker>, the table into table.md and table.json beside them.
    """
    # Marker by marker, the rows whose training is finished.
    facts = read_facts(runs)
    markers = list(dict.fromkeys(m for row in facts["rows"] for m in row["folders"]))
    measured: dict[str, Results] = {}
    missing = []
    for marker in markers:
        folders = [row["folders"][marker] for row in facts["rows"] if marker in row["folders"]]
        done = [f for f in folders if _is_finished(runs / f / "weights.safetensors")]
        missing += [f for f in folders if f not in done]
        if done:
            measured[marker] = measure([str(runs / f) for f in done], marker, output / marker)
    if not measured:
        raise DataError(f"no row of {runs} is trained yet: wsistain train --grid FILE --output {runs}")

    # The table, as text and as numbers.
    text = table_text(facts, markers, measured, missing)
    values = {
        row["name"]: {
            m: _values(facts, measured[m], row["name"]) for m in measured if row["folders"].get(m) is not None
        }
        for row in facts["rows"]
    }
    with reporting(output, retry="run again"):
        write_json(output / "table.json", {**facts, "measured": values, "not_trained": missing}, indent=1)
        write_text(output / "table.md", text)
    return text, missing


def _values(facts: Mapping[str, Any], results: Results, name: str) -> dict[str, float | None] | None:
    system = results["systems"].get(name)
    return None if system is None else {m: metric_value(system, m) for m in facts["metrics"]}


def table_text(
    facts: Mapping[str, Any], markers: list[str], measured: Mapping[str, Results], missing: list[str]
) -> str:
    """The table in the paper's form: a row a method, the columns once for each marker; then the same as printed."""
    metrics = [METRICS[m] for m in facts["metrics"]]
    arrows = {"higher": " ↑", "lower": " ↓", "zero": " →0", "none": ""}
    many = len(markers) > 1
    header = [
        "",
        *(f"{marker + ' ' if many else ''}{m.label}{arrows[m.better]}" for marker in markers for m in metrics),
    ]
    rows, printed = [], []
    for row in facts["rows"]:
        cells, theirs = [row["label"]], [row["label"]]
        for marker in markers:
            results = measured.get(marker)
            system = results["systems"].get(row["name"]) if results is not None else None
            entries = [system["metrics"].get(n) if system else None for n in facts["metrics"]]
            cells += [
                with_spread(e, m) if facts.get("plus_minus") else formatted(e["value"] if e else None, m)
                for e, m in zip(entries, metrics, strict=True)
            ]
            known = row["published"].get(marker) or [None] * len(metrics)
            theirs += ["–" if v is None else f"{v:g}" for v in known]
        rows.append(cells)
        printed.append(theirs)
    parts = [f"# {facts['title']}\n", markdown_table(header, rows)]
    warnings = dict.fromkeys(w for r in measured.values() for w in r.get("warnings", []))
    parts += [f"> **Note**: {warning}.\n" for warning in warnings]
    if missing:
        parts.append(f"Not trained yet: {', '.join(missing)}.\n")
    if any(row["published"] for row in facts["rows"]):
        parts += ["## As published, in the paper's units\n", markdown_table(header, printed)]
    sizes = {
        m: f"{r['data']['n_pairs']} pictures ({r['data']['layout']} {r['data']['split']})" for m, r in measured.items()
    }
    parts.append("Measured on " + "; ".join(f"{m}: {text}" for m, text in sizes.items()) + ".\n")
    return "\n".join(parts)
