"""The published systems, and those of packages that are installed. A name leads to its module, imported only when asked for.

A system's module holds `Config` (a `wsistain.config.Strict` with `preset` values and `Config.tiny()`), `System`
(named after the method), and `generator_network(options) -> nn.Module`, which rebuilds the staining network from
the options in a weights header.

Systems from outside are entry points of the group `wsistain.systems` ("name = package.module:Class") of packages that
somebody installed here. A configuration or a weights file can name one; it can never name a module, so no file of a
stranger decides what code runs.
"""

import difflib
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
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


STAINING_ONLY: dict[str, str] = {
    "unistainnet": "wsistain.systems.unistainnet",
    "histdist": "wsistain.systems.histdist",
    "dvst": "wsistain.systems.dvst",
}
"""Systems whose published weights stain here and whose training is left to their authors: modules with
`generator_network` alone."""


GROUP = "wsistain.systems"
"""Of the entry points by which an installed package offers systems of its own."""


@cache
def installed_systems() -> dict[str, str]:
    """Name to "module:Class" of the systems of installed packages; a name of ours is never taken from us."""
    return {point.name: point.value for point in entry_points(group=GROUP) if point.name not in SYSTEMS}


def known_systems() -> dict[str, str]:
    """Every system that can be named here, ours first."""
    return {**SYSTEMS, **installed_systems()}


def find_system(name: str) -> ModuleType:
    """The module of the system called `name`; ConfigError with the nearest name, or naming a package it lacks."""
    known = known_systems()
    if name in STAINING_ONLY:
        raise ConfigError(f"{name} is not trained here: its published weights are imported ('wsistain weights import')")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"wanted one of {', '.join(known)}"
        hint += "; a system of somebody else's comes with the package that offers it, which has to be installed"
        if ":" in name or "." in name:
            hint = f"a module is never named here: offer it as an entry point of {GROUP} of an installed package"
        raise ConfigError(f"system {name!r} is not known; {hint}")
    return _import(name, known[name].partition(":")[0])


def _import(name: str, module: str) -> ModuleType:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("wsistain"):
            raise
        raise ConfigError(f"system {name} needs the package {error.name}: pip install 'wsistain[train]'") from None


def find_stainer(name: str) -> ModuleType:
    """The module whose `generator_network` builds what weights of the system called `name` hold: also of those that only
    stain. ConfigError as `find_system`."""
    return _import(name, STAINING_ONLY[name]) if name in STAINING_ONLY else find_system(name)


def system_class(name: str) -> type:
    """The class of the system called `name`."""
    module, wanted = find_system(name), known_systems()[name].partition(":")[2]
    found = getattr(module, wanted, None)
    if not isinstance(found, type) or not all(hasattr(module, part) for part in ("Config", "generator_network")):
        raise ConfigError(
            f"system {name} ({known_systems()[name]}) is not complete: its module needs Config, generator_network and {wanted}"
        )
    return found
