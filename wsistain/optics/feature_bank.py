"""What a generator itself saw of its training pictures, as its weights keep it in their header."""

from pydantic import Field

from wsistain.optics.stored_bank import MOST_NUMBERS, StoredBank

MOST_CHANNELS = MOST_NUMBERS // 2
"""Of the layer: of a wider one every second, third, ... is kept."""


class FeatureBank(StoredBank):
    """A bank of what one layer of the network says of squares of about 32 um: a mean and a spread a channel.

    layer : its name in the network.
    """

    layer: str = Field(min_length=1, max_length=200)
