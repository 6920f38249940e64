"""The markers that wsistain knows: where in the cell they are, and how they are named elsewhere."""

from dataclasses import dataclass

from wsistain.errors import ConfigError


@dataclass(frozen=True)
class Marker:
    """One antigen.

    name        : our name, as in `--marker`.
    compartment : "nuclear" or "membranous"; where the chromogen lies.
    prompt      : text that conditions the latent-diffusion systems.
    positive_od : DAB optical density (0..3) from which a cell counts as positive.
    aliases     : spellings found in data sets and file names, lower case.
    """

    name: str
    compartment: str
    prompt: str
    positive_od: float
    aliases: tuple[str, ...]


MARKERS: dict[str, Marker] = {
    m.name: m
    for m in (
        Marker("ER", "nuclear", "immunohistochemistry ER stain", 0.15, ("er", "esr1", "estrogen receptor")),
        Marker("PR", "nuclear", "immunohistochemistry PR stain", 0.15, ("pr", "pgr", "progesterone receptor")),
        Marker("Ki67", "nuclear", "immunohistochemistry Ki67 stain", 0.15, ("ki67", "ki-67", "mki67")),
        Marker("HER2", "membranous", "immunohistochemistry HER2 stain", 0.15, ("her2", "her-2", "erbb2")),
    )
}


def find_marker(name: str) -> Marker:
    """The marker called `name`, in any spelling of its aliases; ConfigError with the known names otherwise."""
    wanted = name.strip().lower()
    for marker in MARKERS.values():
        if wanted == marker.name.lower() or wanted in marker.aliases:
            return marker
    raise ConfigError(f"marker {name!r} is not known; wanted one of {', '.join(MARKERS)}")


def parse_markers(text: str) -> tuple[Marker, ...]:
    """The markers of a comma-separated list such as "ER,PR", in that order, each once."""
    found: dict[str, Marker] = {}
    for part in text.split(","):
        marker = find_marker(part)
        found[marker.name] = marker
    return tuple(found.values())
