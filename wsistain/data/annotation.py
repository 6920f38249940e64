"""Automatic masks of a patch folder, made once and kept beside it.

One folder for each set of parameters: `<folder>/<name>-<hash>/` with `settings.json` and one PNG a patch (255 is
positive), named as the H&E patch, so that `data.masks` may also name it.
"""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from wsistain.data.layouts import PatchRef
from wsistain.data.patches import read_pair
from wsistain.errors import DataError
from wsistain.optics.masks import Annotation, annotate
from wsistain.runtime.files import reporting, write_bytes, write_json


def mask_folder(parent: Path, name: str, settings: Annotation) -> Path:
    """Where the masks called `name` (data set, marker, split) with these settings lie below `parent`."""
    digest = hashlib.sha256(json.dumps(settings.as_dict(), sort_keys=True).encode()).hexdigest()[:10]
    return parent / f"{name}-{digest}"


def annotate_patches(
    refs: Sequence[PatchRef], folder: Path, settings: Annotation, *, workers: int = 2
) -> list[PatchRef]:
    """`refs` with their automatic masks, made from the IHC of each patch and written to `folder` where not there yet.

    folder  : made when absent; see `mask_folder`. Masks that are there are trusted, so name another folder for other
              pictures.
    workers : threads that decode and annotate (about 10 patches of 1024 px a second and thread).

    Each mask is written in one move: several processes may do this at once. Raises DataError where a patch has no
    IHC or cannot be read, OutputError where the folder cannot be written.
    """
    wanted = [(ref, folder / f"{ref.name}.png") for ref in refs if ref.he is not None]
    todo = [(ref, path) for ref, path in wanted if not path.is_file()]
    with reporting(folder, retry="run again"):
        if todo:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "settings.json", settings.as_dict(), indent=1)
        with ThreadPoolExecutor(max(workers, 1)) as pool:
            for future in [pool.submit(_annotate_file, ref, path, settings) for ref, path in todo]:
                future.result()
    places = {ref.name: path for ref, path in wanted}
    return [replace(ref, mask=places.get(ref.name)) for ref in refs]


def _annotate_file(ref: PatchRef, path: Path, settings: Annotation) -> None:
    from imagecodecs import png_encode

    ihc = read_pair(ref)[1]
    if ihc is None:
        raise DataError(f"{ref.name} has no IHC picture to annotate")
    mask = annotate(ihc, settings).astype(np.uint8) * 255
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, bytes(png_encode(mask)))
