"""The published systems. A name leads to its module, imported only when asked for.

A system's module holds `Config` (a `wsistain.config.Strict` with `preset` values and `Config.tiny()`), `System`
(named after the method), and `generator_network(options) -> nn.Module`, which rebuilds the staining network from
the options in a weights header.
"""

import difflib
from importlib import import_module
from types import ModuleType

from wsistain.errors import ConfigError

SYSTEMS: dict[str, str] = {
    "aligned": "wsistain.systems.aligned:Aligned",
    "lpstain": "wsistain.systems.lpstain:LPStain",
    "pix2pix": "wsistain.systems.pix2pix:Pix2Pix",
    "pyramidp2p": "wsistain.systems.pyramidp2p:PyramidP2P",
    "cyclegan": "wsistain.systems.cyclegan:CycleGAN",
    "cut": "wsistain.systems.cut:CUT",
    "asp": "wsistain.systems.asp:ASP",
    "usigan": "wsistain.systems.usigan:USIGAN",
    "asp_dgrank": "wsistain.systems.asp_dgrank:ASPDGRank",
    "pix2pix_turbo": "wsistain.systems.pix2pix_turbo:Pix2PixTurbo",
    "cyclegan_turbo": "wsistain.systems.cyclegan_turbo:CycleGANTurbo",
    "ot_stainnet": "wsistain.systems.ot_stainnet:OTStainNet",
    "atst_net": "wsistain.systems.atst_net:AtstNet",
    "miu_diff": "wsistain.systems.miu_diff:MiuDiff",
}


def find_system(name: str) -> ModuleType:
    """The module of the system called `name`; ConfigError with the nearest name, or naming a package it lacks."""
    if name not in SYSTEMS:
        near = difflib.get_close_matches(name, SYSTEMS, n=1, cutoff=0.4)
        raise ConfigError(
            f"system {name!r} is not known; "
            + (f"did you mean {near[0]!r}?" if near else f"wanted one of {', '.join(SYSTEMS)}")
        )
    try:
        return import_module(SYSTEMS[name].partition(":")[0])
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("wsistain"):
            raise
        raise ConfigError(f"system {name} needs the package {error.name}: pip install 'wsistain[train]'") from None


def system_class(name: str) -> type:
    """The class of the system called `name`."""
    found: type = getattr(find_system(name), SYSTEMS[name].partition(":")[2])
    return found
