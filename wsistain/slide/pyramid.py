"""How the levels of a pyramid relate to level 0."""

from collections.abc import Sequence

_SAME_SCALE = 1.05
"""Pictures whose um per px differ by less are of the same fineness."""


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


def agrees(whole: tuple[int, int], part: tuple[int, int], *, slack: float = 0.0) -> bool:
    """Whether a picture of (height, width) `part` can be a reduced copy of one of size `whole`, from its shape alone.

    One downsample has to explain both sides, each rounded up or down. `slack` is allowed on top, as a share, for
    formats whose levels are padded.
    """
    height, width = (n / k for n, k in zip(whole, part, strict=True))
    return abs(height / width - 1) <= max(slack, 1.1 * sum(1 / k for k in part)) and min(height, width) >= 1


def finest(pictures: Sequence[tuple[tuple[int, int], tuple[float, float] | None]]) -> tuple[int, str]:
    """Which of several pictures of a file is the slide, and what to say where that is not plain.

    pictures : (height, width) and, where stated, (y, x) um per px of each.

    The one with the smallest um per px, among equals (or where one states none) the largest; the first of those.
    """
    scales = [scale[0] for _, scale in pictures if scale is not None]
    best = list(range(len(pictures)))
    if len(scales) == len(pictures):
        best = [i for i in best if scales[i] <= min(scales) * _SAME_SCALE]
    chosen = max(best, key=lambda i: (pictures[i][0][0] * pictures[i][0][1], -i))
    if len(best) == 1:
        return chosen, ""
    alike = "of the same fineness" if len(scales) == len(pictures) else "that do not all state their um per px"
    return chosen, (
        f"the file holds {len(best)} pictures {alike}; the largest of them is taken, "
        "--series chooses another (`wsistain info` lists them)"
    )
