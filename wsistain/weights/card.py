"""Model cards: what a person must know of weights before they use them, as Hugging Face's hub shows it."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from wsistain.errors import OutputError, WeightsError, shown
from wsistain.runtime.files import local_path, reporting, write_text
from wsistain.weights.file import Header, file_hash, read_header

_LICENCES = {
    "apache-2.0": "apache-2.0", "mit": "mit", "bsd-2-clause": "bsd-2-clause", "bsd-3-clause": "bsd-3-clause",
    "cc0-1.0": "cc0-1.0", "cc by 4.0": "cc-by-4.0", "cc-by-4.0": "cc-by-4.0", "cc by-nc 4.0": "cc-by-nc-4.0",
    "cc-by-nc-4.0": "cc-by-nc-4.0", "cc by-nc-sa 4.0": "cc-by-nc-sa-4.0", "cc-by-nc-sa-4.0": "cc-by-nc-sa-4.0",
}  # fmt: skip
"""Licences in words, small, to the hub's names of them; anything else is `other`, in its words."""

_SHOWN = ("ssim", "psnr", "css", "fid", "kid", "r_p", "area_r", "positive_error", "dice", "cell_auc", "cell_h_error")


def model_card(path: Path, results: Path | None = None, called: str | None = None) -> str:
    """The card of a weights file, in Markdown with the hub's front matter.

    called  : what the file is called where the card is read; None: as now.
    results : a results.json of `wsistain evaluate` in which these very weights (by SHA-256) were measured.

    Raises WeightsError where the file is none, or was not measured there.
    """
    header = read_header(path)
    parts = [_front(header), _what(header), _data(header), _metrics(path, results), _limits(header)]
    parts.append(_use(called or path.name, header))
    return "\n".join(part for part in parts if part)


def _front(header: Header) -> str:
    licence = next((hub for words, hub in _LICENCES.items() if header.licence.lower().startswith(words)), "other")
    facts: dict[str, Any] = {"library_name": "wsistain", "pipeline_tag": "image-to-image", "license": licence}
    if licence == "other":
        facts["license_name"] = shown(header.licence)[:100]
    facts["tags"] = ["virtual-staining", "histopathology", header.system, *header.markers]
    return f"---\n{yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)}---\n"


def _what(header: Header) -> str:
    away = "IHC to H&E" if header.direction == "ihc-to-he" else f"H&E to {', '.join(header.markers)} (IHC)"
    return (
        f"# {header.system}: {shown(away)}\n\nA generator of virtual stains for [wsistain](https://pypi.org/project/wsistain/). "
        "**For research only, not for diagnosis**: what it paints was never in the tissue.\n\n"
        "| | |\n|---|---|\n"
        f"| system | {header.system} |\n| markers | {', '.join(map(shown, header.markers))} |\n"
        f"| scale | {header.mpp:g} um per px; slides and pictures are resampled to it |\n"
        f"| tile | {header.tile_px} px, norm {header.norm} |\n| step | {header.step} |\n"
        f"| licence | {_cell(header.licence)} |\n| made with | wsistain {shown(header.wsistain_version)} |\n"
    )


def _cell(text: str) -> str:
    return " ".join(shown(text).replace("|", "\\|").split())


def _data(header: Header) -> str:
    lines = ["## Training data\n", _cell(header.training_data) + "."]
    if header.trained_on is not None:
        facts = header.trained_on.model_dump(exclude_none=True)
        lines.append("Split: " + ", ".join(f"{key} {value}" for key, value in facts.items()) + ".")
    if header.slides:
        lines.append(
            f"The file holds hashes of the names of the {len(header.slides)} slides that were trained on; `wsistain evaluate` warns "
            "where one of them is measured."
        )
    else:
        lines.append("Which slides were trained on is not stated: a leak into an evaluation cannot be seen.")
    return "\n".join(lines) + "\n"


def _metrics(path: Path, results: Path | None) -> str:
    if results is None:
        return "## Measured\n\nNothing is stated here: measure it with `wsistain evaluate` on slides that it has not seen.\n"
    found = _read(results)
    digest = file_hash(path)
    rows = [s for s in found["systems"].values() if s.get("weights_sha256") == digest]
    if not rows:
        raise WeightsError(
            f"{results} holds no measurement of {path} (SHA-256 {digest[:12]}); evaluate these weights first"
        )
    data, labels = found["data"], found.get("metrics", {})
    lines = [
        "## Measured\n",
        f"On {data.get('n_pairs')} patches of {data.get('n_slides')} slides ({_cell(str(data.get('layout')))}, split "
        f"{_cell(str(data.get('split')))}, marker {_cell(str(data.get('marker')))}), {_cell(str(found.get('measured_at')))}; "
        "intervals of 95 % over slides.\n",
        "| metric | value | 95 % |\n|---|---|---|",
    ]
    for name in _SHOWN:
        value = rows[0].get("metrics", {}).get(name)
        if isinstance(value, Mapping) and value.get("value") is not None:
            facts = labels.get(name, {})
            scale = float(facts.get("scale", 1.0))  # files hold the value, tables and labels may speak of percent
            low, high = value.get("ci_low"), value.get("ci_high")
            interval = "not known"
            if low is not None and high is not None:
                interval = f"{scale * low:.3g} to {scale * high:.3g}"
            lines.append(f"| {_cell(str(facts.get('label', name)))} | {scale * value['value']:.4g} | {interval} |")
    lines += [f"\n> {_cell(warning)}" for warning in found.get("warnings", [])]
    return "\n".join(lines) + "\n"


def _read(results: Path) -> dict[str, Any]:
    try:
        found = json.loads(results.read_text(encoding="utf-8"))
        if not isinstance(found["systems"], dict) or not isinstance(found["data"], dict):
            raise KeyError("systems")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise WeightsError(
            f"{results} is no results.json of 'wsistain evaluate' ({type(error).__name__}: {error})"
        ) from None
    return {**found}


def _limits(header: Header) -> str:
    lines = [
        "## Limits\n",
        "- A virtual stain is a guess from morphology. Do not diagnose, grade or choose a treatment by it.",
        f"- It was trained at {header.mpp:g} um per px on what is named above; other scanners, organs and preparations were not.",
    ]
    if header.norm == "instance":
        lines.append(
            "- Instance norm: contrast depends on the tile; `wsistain run --norm slide` takes the slide's statistics."
        )
    if header.note:
        lines.append(f"- {_cell(header.note)}")
    return "\n".join(lines) + "\n"


def _use(called: str, header: Header) -> str:
    return f"## Use\n\n```\npip install wsistain\nwsistain run slide.svs --marker {shown(header.markers[0])} --weights {called}\n```\n"


def hub_folder(path: Path, output: Path, *, results: Path | None = None, overwrite: bool = False) -> Path:
    """A folder as a hub repository wants it: `weights.safetensors` and `README.md`, its card. Needs no network.

    Raises OutputError where `output` holds something, is no folder or is that of the weights themselves (a run's folder may
    hold others under that name), and what `model_card` raises.
    """
    card = model_card(path, results, "weights.safetensors")
    place = local_path(output)
    if place.exists() and not place.is_dir():
        raise OutputError(f"{output} is a file; choose a folder as --output")
    if path.resolve().parent == place.resolve():
        raise OutputError(f"{output} is the folder of the weights themselves; choose another --output")
    if place.exists() and any(place.iterdir()) and not overwrite:
        raise OutputError(f"{output} is not empty; choose another --output or pass --overwrite")
    with reporting(output, retry="run again"):
        output.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, output / "weights.safetensors")
        write_text(output / "README.md", card)
    return output
