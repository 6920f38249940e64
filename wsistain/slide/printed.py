"""What straight rules and printing presses leave on a slide: rows of equal dots (fiducials) and the edges of a coverslip.

Their colour may be that of a dye; their geometry is not that of tissue. Printed dots are round, of one size and evenly
spaced in straight rows. Cut glass has straight thin edges, millimetres long, that leave the picture or meet at right angles.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

Mask = NDArray[np.bool_]
F64 = NDArray[np.float64]
Labels = NDArray[np.integer]

_DOT_UM = (24.0, 250.0)  # diameter; the thinnest needle of a tissue array punches 600 um
_DOT_PX = 3  # smaller ones show no shape
_ROUND, _FILLED = 0.25, 0.62  # width against height; share of its box that is filled, pi / 4 by a large disc
_ALIKE, _EVEN = 0.18, 0.07  # diameters, and distances along a row, agree within this or within a px
_NEIGHBOURS, _ROW, _REACH = (
    6,
    8,
    1.7,
)  # neighbours tried; dots with one on both sides that prove a print; pitches to others
_MOST_DOTS = 20_000  # more specks than this are no print that could be looked through

_EDGE_LENGTH_UM = 1500.0  # edges of a coverslip are longer, and straight:
_EDGE_SD_UM, _EDGE_SD_SHARE, _EDGE_MOST_SD_UM = 24.0, 0.01, 80.0  # standard deviation across, more where they are long
_THIN_UM = 72.0  # half the width of the widest edge that is looked for where it crosses others or tissue
_CLEAR_UM, _CLEAR_PX = 24.0, 2  # glass on both sides of a line
_CLEAR = 0.1  # share of what lies beside it that may absorb light
_PIECE_UM, _GAP_UM = 100.0, 120.0  # shortest piece of a line, longest gap in it
_FILLED_LINE = 0.7  # share of a piece that absorbs light
_MEET_UM, _SQUARE = 250.0, np.cos(np.radians(80))  # ends that meet, and cosine of the least right angle
_MOST_LINES, _MOST_POINTS, _FITS = 12, 6000, 3
_BAND_UM, _ANGLES = 48.0, 360  # bands that points are counted in, and their directions


def printed_dots(marks: Mask, mpp: float) -> Mask:
    """bool (h, w): the islands of `marks` that are round, of one size and evenly spaced in straight rows of many."""
    labels, n = ndimage.label(marks, np.ones((3, 3)))
    found = np.zeros(n + 1, bool)
    numbers = _discs(labels, n, mpp)
    if _ROW <= numbers.size <= _MOST_DOTS:
        centres = np.array(ndimage.center_of_mass(marks, labels, numbers), np.float64)
        diameters = 2 * np.sqrt(np.bincount(labels.ravel(), minlength=n + 1)[numbers] / np.pi)
        for size in _sizes(diameters):
            alike = np.flatnonzero(np.abs(diameters - size) <= np.maximum(_ALIKE * size, 1))
            found[numbers[alike[_in_rows(centres[alike])]]] = True
    return found[labels]


def _discs(labels: Labels, n: int, mpp: float) -> NDArray[np.intp]:
    """The numbers of the islands that are as large and as round as a dot."""
    areas = np.bincount(labels.ravel(), minlength=n + 1)
    boxes = ndimage.find_objects(labels)
    sides = np.array([[part.stop - part.start for part in box] for box in boxes], np.float64).reshape(-1, 2)
    low, high = sides.min(axis=1), sides.max(axis=1)
    filled = areas[1:] / np.maximum(low * high, 1)
    fits = (low >= max(_DOT_PX, _DOT_UM[0] / mpp)) & (high <= _DOT_UM[1] / mpp + 2)
    fits &= (high - low <= np.maximum(_ROUND * high, 1)) & (filled >= _FILLED)
    return np.flatnonzero(fits) + 1


def _sizes(diameters: F64) -> Iterator[float]:
    """Diameters that many dots share, the most frequent first, as long as there are enough for a row."""
    left = np.sort(diameters)
    while left.size >= _ROW:
        reach = np.maximum(_ALIKE * left, 1)
        counts = np.searchsorted(left, left + reach, "right") - np.searchsorted(left, left - reach)
        if counts.max() < _ROW:
            return
        size = float(left[np.argmax(counts)])
        yield size
        left = left[np.abs(left - size) > max(_ALIKE * size, 1)]


def _in_rows(centres: F64) -> NDArray[np.bool_]:
    """Which of the dots float (n, 2) (px) belong to a print: rows of one pitch, and what lies as near to them."""
    found = np.zeros(len(centres), bool)
    if len(centres) < _ROW:
        return found
    # A dot is in a row if the mirror image of a near neighbour is a dot too.
    tree = cKDTree(centres)
    steps, nearest = tree.query(centres, k=min(_NEIGHBOURS + 1, len(centres)))
    steps, nearest = steps[:, 1:], nearest[:, 1:]
    missed, _ = tree.query(2 * centres[:, None] - centres[nearest])
    even = missed <= np.maximum(_EVEN * steps, 1)
    pitches = np.sort(steps[even])
    if pitches.size < _ROW:
        return found
    # All rows of a print have one pitch; chance meetings of specks have not.
    reach = np.maximum(_EVEN * pitches, 1)
    counts = np.searchsorted(pitches, pitches + reach, "right") - np.searchsorted(pitches, pitches - reach)
    pitch = float(pitches[np.argmax(counts)])
    proven = (even & (np.abs(steps - pitch) <= max(_EVEN * pitch, 1))).any(axis=1)
    if proven.sum() < _ROW:
        return found
    # Ends and corners of the print lie as near to a proven dot as those to one another.
    near, _ = cKDTree(centres[proven]).query(centres)
    beside = near <= _REACH * pitch
    if proven.sum() < 0.3 * beside.sum():
        return found
    return beside


@dataclass(frozen=True)
class _Line:
    """A straight line, um: a point on it, its direction (float (2,)), half its width, and its pieces with glass on both sides.

    pieces : float (n, 2), from where to where along the line.
    """

    centre: F64
    way: F64
    half: float
    pieces: F64

    def ends(self) -> F64:
        """float (2, 2): where its first piece starts and its last piece stops."""
        return self.centre + self.pieces[[0, -1], [0, 1]][:, None] * self.way


def straight_edges(marks: Mask, mpp: float) -> Mask:
    """bool (h, w): thin straight lines in `marks` with glass on both sides that leave the picture or meet squarely.

    They may cross one another and tissue; what lies on tissue is left.
    """
    labels, _ = ndimage.label(marks, np.ones((3, 3)))
    size = np.array(marks.shape) * mpp
    lines: list[_Line] = []
    for i, box in enumerate(ndimage.find_objects(labels), 1):
        if max(part.stop - part.start for part in box) * mpp >= _EDGE_LENGTH_UM:
            corner = np.array([part.start for part in box])
            lines += _lines((np.argwhere(_thin(labels[box] == i, _THIN_UM / mpp)) + corner + 0.5) * mpp, marks, mpp)
    found = np.zeros(marks.shape, bool)
    for line in lines:
        if _leaves(line, size) or any(_meets(line, other) for other in lines if other is not line):
            rows, cols = _drawn(line, marks.shape, mpp)
            found[rows, cols] = True
    return found & ndimage.binary_dilation(marks) if lines else found


def _thin(mask: Mask, radius_px: float) -> Mask:
    """What a disc does not fit into."""
    padded = np.pad(mask, 1)
    core = ndimage.distance_transform_edt(padded) > max(1.0, radius_px)
    if not core.any():
        return mask
    thin: Mask = (padded & (ndimage.distance_transform_edt(~core) > radius_px + 1))[1:-1, 1:-1]
    return thin


def _lines(points: F64, marks: Mask, mpp: float) -> list[_Line]:
    """The straight lines through points float (n, 2) (um), the one through most of them first."""
    lines: list[_Line] = []
    for _ in range(_MOST_LINES):
        if len(points) * mpp < _EDGE_LENGTH_UM:
            break
        centre, way = _strongest(points[:: len(points) // _MOST_POINTS + 1])
        # Fitted to what lies near it, again where that has moved.
        for _ in range(_FITS):
            near = points[np.abs(_across(points, centre, way)) < _THIN_UM]
            if len(near) < 3:
                break
            centre, way = near.mean(axis=0), np.linalg.eigh(np.cov(near.T))[1][:, 1]
        on_it = np.abs(_across(points, centre, way)) < _THIN_UM
        line = _isolated(points[on_it], centre, way, marks, mpp) if on_it.sum() > 2 else None
        if line is not None:
            lines.append(line)
        points = points[~on_it]
    return lines


def _strongest(points: F64) -> tuple[F64, F64]:
    """A point on the straight band that holds most points, and its direction: a Hough transform in bands of a line's width."""
    best, centre, way = 0, points[0], np.array([1.0, 0.0])
    for angle in np.arange(_ANGLES) * np.pi / _ANGLES:
        along = np.array([np.cos(angle), np.sin(angle)])
        across = _across(points, np.zeros(2), along) / _BAND_UM
        counts = np.bincount((across - across.min()).astype(np.intp))
        if counts.max() > best:
            best, way = int(counts.max()), along
            inside = (across - across.min()).astype(np.intp) == np.argmax(counts)
            centre = points[inside].mean(axis=0)
    return centre, way


def _across(points: F64, centre: F64, way: F64) -> F64:
    """float (n,), um: how far points lie from a line, on one side less than 0."""
    across: F64 = (points - centre) @ np.array([-way[1], way[0]])
    return across


def _isolated(points: F64, centre: F64, way: F64, marks: Mask, mpp: float) -> _Line | None:
    """The pieces of a line that lie on glass; None where they are short all together, or crooked."""
    along = (points - centre) @ way
    half = 2 * float(_across(points, centre, way).std()) + mpp
    # What absorbs light on the line and on both sides of it, px by px along it.
    t = np.arange(along.min(), along.max() + mpp, mpp)
    reach = half + mpp + max(_CLEAR_UM, _CLEAR_PX * mpp)
    aside = np.arange(-reach, reach, mpp / 2)
    dark = _sampled(marks, centre + t[:, None, None] * way + aside[:, None] * np.array([-way[1], way[0]]), mpp)
    here, left, right = np.abs(aside) <= half, aside < -half - mpp, aside > half + mpp
    alone = (dark[:, left].mean(axis=1) < _CLEAR) & (dark[:, right].mean(axis=1) < _CLEAR)
    filled = dark[:, here].any(axis=1) & alone
    gap = max(1, round(_GAP_UM / mpp))
    joined = ndimage.binary_closing(np.pad(filled, gap), np.ones(gap))[gap:-gap] & alone
    # Long, well filled, straight pieces.
    labels, _ = ndimage.label(joined)
    runs = [part for (part,) in ndimage.find_objects(labels) if (part.stop - part.start) * mpp >= _PIECE_UM]
    runs = [part for part in runs if filled[part].mean() >= _FILLED_LINE]
    pieces = np.array([(t[part.start], t[part.stop - 1]) for part in runs], np.float64).reshape(-1, 2)
    length = float((pieces[:, 1] - pieces[:, 0]).sum())
    if length < _EDGE_LENGTH_UM:
        return None
    inside = _across(
        points[((along[:, None] >= pieces[:, 0]) & (along[:, None] <= pieces[:, 1])).any(axis=1)], centre, way
    )
    if inside.size < 3 or inside.std() >= max(_EDGE_SD_UM, min(_EDGE_SD_SHARE * length, _EDGE_MOST_SD_UM)):
        return None
    return _Line(centre, way, half, pieces)


def _sampled(marks: Mask, places: F64, mpp: float) -> Mask:
    """`marks` at places float (..., 2) (um); False outside the picture."""
    index = np.floor(places / mpp).astype(np.intp)
    inside = ((index >= 0) & (index < marks.shape)).all(axis=-1)
    rows, cols = (np.where(inside, index[..., axis], 0) for axis in (0, 1))
    found: Mask = marks[rows, cols] & inside
    return found


def _leaves(line: _Line, size: F64) -> bool:
    """Whether a line ends at the border of the picture."""
    ends = line.ends()
    return bool(np.minimum(ends, size - ends).min() < _MEET_UM)


def _meets(line: _Line, other: _Line) -> bool:
    """Whether two lines meet at about a right angle where both end, like the corner of a coverslip."""
    apart = np.linalg.norm(line.ends()[:, None] - other.ends()[None], axis=2)
    return bool(apart.min() < _MEET_UM and abs(line.way @ other.way) < _SQUARE)


def _drawn(line: _Line, shape: tuple[int, ...], mpp: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The px of the pieces of a line, and one more on each side."""
    aside = np.arange(-line.half - mpp, line.half + mpp, mpp / 2)[:, None] * np.array([-line.way[1], line.way[0]])
    along = np.concatenate([np.arange(start - mpp, stop + 2 * mpp, mpp / 2) for start, stop in line.pieces])
    places = (line.centre + along[:, None, None] * line.way + aside).reshape(-1, 2)
    index = np.floor(places / mpp).astype(np.intp)
    index = index[((index >= 0) & (index < shape)).all(axis=1)]
    return index[:, 0], index[:, 1]
