"""How the levels of a pyramid relate to level 0."""

from collections.abc import Sequence


def downsamples(sizes: Sequence[tuple[int, int]]) -> tuple[float, ...]:
    """Level-0 px per px of each level, first 1, from (height, width) of each level.

    A whole number where rounding the size of level 0 up or down explains the level's size (62 px of 250 is a
    downsample of 4, not 4.03); else the mean of the two ratios, as OpenSlide has it.
    """
    height, width = sizes[0]
    found = []
    for h, w in sizes:
        mean = (height / h + width / w) / 2
        whole = round(mean)
        fits = all(n // whole <= k <= -(-n // whole) for n, k in ((height, h), (width, w)))
        found.append(float(whole) if fits else mean)
    return tuple(found)
