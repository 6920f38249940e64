"""Weights that others have published, and where imported ones are kept.

Facts only: what is not stated by the authors (a file's name, its hash, the um per px of a data set) is left out, and asked
for when it is needed.
"""

import difflib
from dataclasses import dataclass
from pathlib import Path

from wsistain.config import MIST_MPP
from wsistain.errors import WeightsError
from wsistain.published.places import home_folder
from wsistain.runtime.files import refuse_url

_USIGAN_PAGE = "https://huggingface.co/BairdXiong/USIGAN"
_USIGAN_LICENCE = "CC BY-NC-SA 4.0 (stated by the authors' repository): not for commercial use"
_ASP_PAGE = (
    "https://github.com/lifangda01/AdaptiveSupervisedPatchNCE (section Testing and Evaluation, a Google Drive folder)"
)
_ASP_LICENCE = "BSD-2-Clause for the authors' repository; none is stated for the weights"
_PSP_PAGE = "https://github.com/ccitachi/PSPStain"
_PSP_LICENCE = "MIT for the authors' repository; none is stated for the weights"
_MIST = "MIST {} (Li et al. 2023), training part"


@dataclass(frozen=True)
class PublishedGenerator:
    """One published generator.

    name          : how it is asked for, e.g. "usigan-er".
    system        : system whose network it is.
    method        : what the authors call it.
    marker        : what it stains; several, with commas between, where one network stains them all.
    training_data : in words.
    mpp           : um per px of that data; None where its authors do not state it.
    tile_px       : edge of the tiles that the authors stain in one pass.
    licence       : of the weights, in words.
    page          : where they are published, for a browser.
    hub           : Hugging Face repository that `weights fetch` can download from; None: a browser is needed.
    file          : name of the checkpoint there; None: found by marker and data set among the repository's files.
    sha256        : of that file, where known.
    dataset       : word that tells checkpoints of one data set from another's in a file's path.
    note          : kept in the header and shown.
    """

    name: str
    system: str
    method: str
    marker: str
    training_data: str
    mpp: float | None
    tile_px: int
    licence: str
    page: str
    dataset: str
    hub: str | None = None
    file: str | None = None
    sha256: str | None = None
    note: str = ""

    @property
    def markers(self) -> tuple[str, ...]:
        return tuple(self.marker.split(","))


def _usigan(marker: str) -> list[PublishedGenerator]:
    shared = {"system": "usigan", "method": "USIGAN (Peng, Xiong et al., arXiv:2507.05843)", "marker": marker}
    where = {"licence": _USIGAN_LICENCE, "page": _USIGAN_PAGE, "hub": "BairdXiong/USIGAN"}
    return [
        PublishedGenerator(
            f"usigan-{marker.lower()}",
            **shared,
            **where,
            training_data=_MIST.format(marker),
            mpp=MIST_MPP,
            tile_px=1024,
            dataset="mist",
        ),
        PublishedGenerator(
            f"usigan-{marker.lower()}-ihc4bc",
            **shared,
            **where,
            training_data=f"IHC4BC {marker}, the authors' split",
            mpp=None,
            tile_px=1000,
            dataset="ihc4bc",
            note="the um per px of IHC4BC is not stated by its authors",
        ),
    ]


def _asp(marker: str) -> PublishedGenerator:
    return PublishedGenerator(
        f"asp-{marker.lower()}",
        system="asp",
        method="ASP (Li et al., MICCAI 2023, arXiv:2303.06193)",
        marker=marker,
        training_data=_MIST.format(marker),
        mpp=MIST_MPP,
        tile_px=1024,
        licence=_ASP_LICENCE,
        page=_ASP_PAGE,
        dataset="mist",
    )


def _histdist(marker: str) -> PublishedGenerator:
    return PublishedGenerator(
        f"histdist-{marker.lower()}",
        system="histdist",
        method="HistDiST (Großkopf et al. 2025)",
        marker=marker,
        training_data=_MIST.format(marker),
        mpp=MIST_MPP,
        tile_px=512,
        licence="none is stated by the authors' repository, so research only at most; Stable Diffusion 1.5 in it is "
        "CreativeML OpenRAIL-M, Phikon beside it is not for commercial use",
        page="https://github.com/ErikGro/HistDiST",
        dataset="mist",
        note="a folder in diffusers' layout, from a Google Drive; Phikon has to be on this machine (hf download owkin/phikon)",
    )


_BCI_NOTE = "the um per px of BCI is not stated exactly by its authors (20x, about 0.46)"

_ON_MIST = ("ER", "PR", "Ki67", "HER2")  # MIST has these four, so their authors published a generator for each

CATALOGUE: dict[str, PublishedGenerator] = {
    entry.name: entry
    for entry in (
        *(entry for marker in _ON_MIST for entry in _usigan(marker)),
        *(_asp(marker) for marker in _ON_MIST),
        PublishedGenerator(
            "asp-her2-bci",
            system="asp",
            method="ASP (Li et al., MICCAI 2023, arXiv:2303.06193)",
            marker="HER2",
            training_data="BCI (Liu et al. 2022), training part",
            mpp=None,
            tile_px=1024,
            licence=_ASP_LICENCE,
            page=_ASP_PAGE,
            dataset="bci",
            note=_BCI_NOTE,
        ),
        PublishedGenerator(
            "pyramidp2p-her2-bci",
            system="pyramidp2p",
            method="PyramidP2P (Liu et al., CVPR workshops 2022, arXiv:2204.11425)",
            marker="HER2",
            training_data="BCI (Liu et al. 2022), training part",
            mpp=None,
            tile_px=1024,
            licence="none is stated by the authors' repository",
            page="https://github.com/bupt-ai-cz/BCI",
            dataset="bci",
            note=f"look on the page, or ask its authors, for the checkpoint (latest_net_G.pth). {_BCI_NOTE[0].upper()}{_BCI_NOTE[1:]}",
        ),
        PublishedGenerator(
            "unistainnet-mist",
            system="unistainnet",
            method="UNIStainNet (arXiv:2603.12716)",
            marker="HER2,Ki67,ER,PR",
            training_data="MIST (Li et al. 2023), training parts of the four markers",
            mpp=MIST_MPP,
            tile_px=512,
            licence="for research purposes only (stated by the authors' repository); UNI beside it has terms of its own, not for "
            "commercial use",
            page="https://github.com/facevoid/UNIStainNet",
            dataset="mist",
            hub="faceless-void/UNIStainNet",
            file="mist_multistain_last.ckpt",
            note="looks at the H&E through UNI, which has to be on this machine (hf download MahmoodLab/uni; asks for an account)",
        ),
        *(_histdist(marker) for marker in _ON_MIST),
        PublishedGenerator(
            "pspstain-her2",
            system="asp",
            method="PSPStain (Chen et al., MICCAI 2024); its generator is ASP's",
            marker="HER2",
            training_data=_MIST.format("HER2"),
            mpp=MIST_MPP,
            tile_px=1024,
            licence=_PSP_LICENCE,
            page=_PSP_PAGE,
            dataset="mist",
            note="the page announces its checkpoints; look there whether they are out",
        ),
        PublishedGenerator(
            "pspstain-her2-bci",
            system="asp",
            method="PSPStain (Chen et al., MICCAI 2024); its generator is ASP's",
            marker="HER2",
            training_data="BCI (Liu et al. 2022), training part",
            mpp=None,
            tile_px=1024,
            licence=_PSP_LICENCE,
            page=_PSP_PAGE,
            dataset="bci",
            note=f"the page announces its checkpoints; look there whether they are out. {_BCI_NOTE[0].upper()}{_BCI_NOTE[1:]}",
        ),
    )
}


def find_published(name: str) -> PublishedGenerator:
    """The published generator called `name`; WeightsError with the nearest names otherwise."""
    if name in CATALOGUE:
        return CATALOGUE[name]
    refuse_url(name)
    near = difflib.get_close_matches(name, CATALOGUE, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else "see 'wsistain weights list'"
    raise WeightsError(f"no published weights are called {name!r}; {hint}")


def installed_folder() -> Path:
    """Where imported weights are kept: $WSISTAIN_HOME/weights, or wsistain/weights in the user's cache folder."""
    return home_folder() / "weights"


def installed_files() -> dict[str, Path]:
    """Name to file of everything that is installed."""
    folder = installed_folder()
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))} if folder.is_dir() else {}
