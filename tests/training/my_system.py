"""A system as another package would bring it: Pix2Pix under a name of its own."""

from wsistain.systems.pix2pix import Config, Pix2Pix, generator_network

__all__ = ["Config", "Mine", "generator_network"]


class Mine(Pix2Pix):
    """The same with another name."""
