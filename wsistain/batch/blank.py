"""Slides in which an earlier batch found no tissue, so that the same bytes are not looked at again on the same terms."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from wsistain import __version__
from wsistain.batch.sheet import Entry
from wsistain.runtime.files import write_text

_MOST_BYTES = 16 << 20


def terms_of(entry: Entry, run: str) -> str:
    """What the finding rests on, as a digest: the slide's bytes, its row, the areas drawn on it, `run.yaml`, the version."""
    row = {
        name: value for name, value in asdict(entry).items() if name in ("mpp", "series", "roi_class", "fingerprint")
    }
    areas = hashlib.blake2b(Path(entry.roi).read_bytes()).hexdigest() if entry.roi else ""
    return hashlib.blake2b(repr((sorted(row.items()), areas, run, __version__)).encode(), digest_size=16).hexdigest()


def key_of(entry: Entry) -> str:
    """The job of an entry, as its log is called."""
    return f"{entry.slide}.{entry.tag}"


def read_blank(path: Path) -> dict[str, str]:
    """The terms of each job that found no tissue; {} where nothing, or nothing of ours, is kept."""
    try:
        held = json.loads(path.read_bytes()) if path.stat().st_size <= _MOST_BYTES else {}
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(held, dict):
        return {}
    return {str(name): value for name, value in held.items() if isinstance(value, str)}


def keep_blank(path: Path, entries: Sequence[Entry], run: str) -> None:
    """Write down the entries that had no tissue, in place of what was written before."""
    write_text(path, json.dumps({key_of(e): terms_of(e, run) for e in entries if e.fingerprint}, indent=1) + "\n")
