"""Is an output the one that is wanted? The key of what is there against that of what is asked for."""

import json
from pathlib import Path
from typing import Any

from wsistain.errors import OutputError

OTHER_INPUT = "it was begun with something else"
"""What the refusal to resume says when slide, weights or plan are not those of the output."""

_CHANGED = {"norm", "precision", "output"}
"""What the keys of formats 1 and 2 both name, and mean something else by."""


def compare_finished(folder: Path, stored: dict[str, Any], key: dict[str, Any]) -> None:
    """Raises OutputError where a finished output is not the one that is wanted.

    One that an earlier version wrote is compared in what its key says in the same words: it is whole, so nothing can be
    mixed in it.
    """
    if stored.get("format") != key.get("format"):
        common = (stored.keys() & key.keys()) - _CHANGED - {"format"}
        stored, key = ({n: v for n, v in k.items() if n in common} for k in (stored, key))
    compare(folder, stored, key)


def _flat(key: dict[str, Any]) -> dict[str, Any]:
    """The key with the names of what lies inside a value after that value's name and a dot."""
    flat: dict[str, Any] = {}
    for name, value in key.items():
        inner = _flat(value) if isinstance(value, dict) else {}
        flat |= {f"{name}.{n}": v for n, v in inner.items()} if inner else {name: value}
    return flat


def compare(folder: Path, stored: dict[str, Any], key: dict[str, Any]) -> None:
    """Raises OutputError where an output has another key than is wanted, naming all that differs."""
    stored, key = _flat(stored), _flat(key)
    names = sorted(n for n in {*stored, *key} if stored.get(n) != key.get(n))
    if names:
        changed = "; ".join(f"the {n} (was {_short(stored.get(n))}, is {_short(key.get(n))})" for n in names)
        raise OutputError(
            f"{folder} cannot be resumed because {OTHER_INPUT}: {changed}; "
            "pass --overwrite to begin anew or choose another --output"
        )


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= 40 else f"{text[:12]}...{text[-8:]}"
