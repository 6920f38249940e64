"""What weights know of their training pictures: kept at the end of training, or written into weights that exist."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from wsistain.data.layouts import PatchRef
from wsistain.data.patches import read_pair
from wsistain.data.pictures import read_picture, resize_short
from wsistain.errors import DataError, WeightsError
from wsistain.generators.features import LEAST_ROWS, enough, make_features
from wsistain.generators.load import build_generator, find_generator
from wsistain.generators.network import NetworkGenerator
from wsistain.optics.familiar import CELL_UM, make_familiar
from wsistain.optics.feature_bank import FeatureBank
from wsistain.weights.file import AROUND_BASES, Header, load_tensors, read_header, save_weights

LOOKED_AT = 48
"""H&E pictures of which weights keep a bank."""

ENDINGS = (".jpg", ".jpeg", ".png", ".tif", ".tiff")

RGB = NDArray[np.uint8]


def spread_over(patches: Sequence[PatchRef], mpp: float, load_px: int | None = None) -> list[RGB]:
    """Some of the H&E patches, spread over all, as training resizes them, that are as large as a cell or more."""
    sources = [p for p in patches if p.he is not None]
    step = max(1, len(sources) // LOOKED_AT)
    pictures = [read_pair(p)[0] for p in sources[::step][:LOOKED_AT]]
    sized = [p if load_px is None else resize_short(p, load_px) for p in pictures if p is not None]
    return [p for p in sized if min(p.shape[:2]) * mpp >= CELL_UM]


def seen_by(weights: Path, header: Header, pictures: Sequence[RGB], device: str = "auto") -> FeatureBank | None:
    """What the network of a weights file sees in `pictures`; None as in `make_features`."""
    generator = build_generator(find_generator(str(weights), header.markers[0]), device=device)
    if not isinstance(generator, NetworkGenerator):
        raise WeightsError(f"{weights} hold no network")

    def stain(rgb: RGB) -> object:
        return generator.stain(rgb[None], [(0, 0)])

    threads = torch.get_num_threads()
    try:
        return make_features(generator.network, stain, pictures, header.mpp, multiple=header.size_multiple)
    finally:
        torch.set_num_threads(threads)  # a generator takes one


def keep_features(weights: Path, pictures: Sequence[RGB], device: str) -> None:
    """Write into finished weights what their network sees in its training pictures, where it can be told.

    Not of networks round a base model, of which a second one would have to be loaded: `wsistain weights bank` does that.
    """
    header = read_header(weights)
    if header.system in AROUND_BASES or not enough(pictures, header.mpp):
        return
    features = seen_by(weights, header, pictures, device)
    if features is not None:
        save_weights(weights, header.model_copy(update={"features": features}), load_tensors(weights))


def add_bank(weights: Path, folder: Path, output: Path | None = None) -> tuple[int, int]:
    """Write into weights what their training pictures look like and what the network sees in them; tensors stay as they are.

    folder : H&E pictures that they were trained on, at their um per px. output : another file; None: the same.

    Returns how many squares of looks and of features were kept. Raises WeightsError and DataError; nothing is written then.
    """
    header = read_header(weights)
    if header.direction != "he-to-ihc":
        raise WeightsError(f"{weights} goes {header.direction}; wanted weights that stain an H&E")
    if output is not None and output.exists():
        raise WeightsError(f"{output} exists; name another file")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in ENDINGS) if folder.is_dir() else []
    if not found:
        raise DataError(
            f"{folder} holds no pictures ({', '.join(ENDINGS)}); name the folder of the H&E, as trainA of MIST"
        )
    step = max(1, len(found) // LOOKED_AT)
    pictures = [read_picture(p) for p in found[::step][:LOOKED_AT]]
    familiar = make_familiar([p for p in pictures if min(p.shape[:2]) * header.mpp >= CELL_UM], header.mpp)
    features = seen_by(weights, header, pictures)
    if familiar is None or features is None:
        raise DataError(
            f"the {len(pictures)} pictures of {folder} that were read hold too little tissue to say what they are like; wanted "
            f"H&E at {header.mpp:g} um per px, with {LEAST_ROWS} squares of 32 um or more in each half of them"
        )
    update = {"familiar": familiar, "features": features}
    save_weights(output or weights, header.model_copy(update=update), load_tensors(weights))
    return len(familiar.bank), len(features.bank)
