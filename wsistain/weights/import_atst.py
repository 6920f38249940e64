"""Generators trained with ATST-Net's published code (SikangSHU/ATST-Net) turned into our weights files.

Both directions import: `netG_A2B.pth` stains H&E, `netG_B2A.pth` goes back; the names inside tell which is which.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from wsistain.errors import WeightsError
from wsistain.networks import stain_unet, vit
from wsistain.published.tensors import load_into
from wsistain.systems.atst_net import UnetOptions, VitOptions, generator_network

ATST_KINDS = ("atst_net",)


def convert_atst(
    tensors: Mapping[str, Tensor], path: Path, *, g_ihc: VitOptions = VitOptions(), g_he: UnetOptions = UnetOptions()
) -> tuple[nn.Module, dict[str, Any], list[str], int]:
    """(network, header options, names set aside, kernels folded) of a checkpoint of either generator.

    g_ihc, g_he : sizes of the two; the published ones by default.

    Set aside are the tensors that the published networks hold and never use. Raises WeightsError naming what is
    missing, surplus or of another shape.
    """
    options: dict[str, Any]
    unused: tuple[str, ...]
    if "pretext_token" in tensors:
        options = {"direction": "he-to-ihc", **g_ihc.model_dump(mode="json"), "encoder": "as published"}
        unused = vit.UNUSED_PREFIXES
    elif "inc.1.weight" in tensors:
        options = {"direction": "ihc-to-he", **g_he.model_dump(mode="json")}
        unused = stain_unet.UNUSED_PREFIXES
    else:
        raise WeightsError(f"{path} is neither of ATST-Net's generators: it has no pretext_token and no inc.1.weight")
    network = generator_network(options)
    target = network.network if options["direction"] == "he-to-ihc" else network
    assert isinstance(target, nn.Module)
    load_into(target, tensors, str(path), ignore=unused)
    return network, options, sorted(n for n in tensors if n.startswith(unused)), 0
