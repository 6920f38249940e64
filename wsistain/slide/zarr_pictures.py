"""Which picture of an OME-Zarr folder is the slide: checked attributes, sound arrays, one focal plane and time."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import zarr

from wsistain.errors import SlideError
from wsistain.slide.base import Part
from wsistain.slide.mpp import Found
from wsistain.slide.ngff import Multiscale, ome_of, read_attributes, refuse_other_colours
from wsistain.slide.pyramid import agrees, finest
from wsistain.slide.tiff_ome import NO_SLIDE
from wsistain.slide.tiff_pages import no_such_series
from wsistain.slide.tiff_scale import ome_mpp
from wsistain.slide.zarr_store import ZARR_ERRORS, OrdinaryFiles, open_zarr

MOST_PX_SIDE, MOST_PX = 2**23, 2**39
"""Longest side and most px of a picture: a whole glass slide at 0.05 um per px has 1.5 million by half a million."""

_MOST_CHUNK_BYTES = 1_500_000_000
_LEAST_CHUNK_PX = 256
_MOST_PICTURES = 1000
_MOST_XML = 64 * 2**20


@dataclass(frozen=True)
class ZarrPicture:
    """A picture that can be read as RGB.

    arrays      : the levels, finest first. y, x, c: the axes in them.
    planes      : of each level, the index along every axis that is none of these.
    scales      : (y, x) units per px of each level; None where a level states none.
    mpp, others : what its own attributes state, and what else the folder does.
    """

    series: int
    arrays: tuple[zarr.Array, ...]
    y: int
    x: int
    c: int
    planes: tuple[dict[int, int], ...]
    scales: tuple[tuple[float, float] | None, ...]
    mpp: Found | None
    others: tuple[tuple[str, Found], ...] = ()
    parts: tuple[Part, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of each level."""
        return tuple((int(a.shape[self.y]), int(a.shape[self.x])) for a in self.arrays)


@dataclass
class _Found:
    """One picture of a folder: as read, or why it cannot be."""

    number: int
    name: str
    size: tuple[int, int] = (0, 0)
    picture: ZarrPicture | None = None
    problem: str = ""
    xml_mpp: Found | None = None


def choose_picture(path: Path, series: int | None = None) -> ZarrPicture:
    """The finest RGB picture of a folder, or the one with the number `series`. SlideError when there is none."""
    try:
        root = open_zarr(path)
        attributes = root.attrs.asdict()
    except ZARR_ERRORS as error:
        raise _unreadable(path, error) from None
    # A folder is one picture, or a collection of them as Bio-Formats writes it.
    ome = ome_of(attributes)
    if "multiscales" in ome or "bioformats2raw.layout" not in ome:
        if "multiscales" not in ome and ("plate" in ome or "well" in ome):
            raise SlideError(f"{path} is a plate of wells, not a slide; name the folder of one field of a well")
        if series:
            raise no_such_series(str(path), series, 1)
        return _read_picture(str(path), root, 0)
    found = _all_pictures(path, root)
    if series is not None:
        chosen = next((one for one in found if one.number == series), None)
        if chosen is None:
            raise no_such_series(str(path), series, len(found))
        notes: tuple[str, ...] = ()
    else:
        chosen, notes = _best(found)
    if chosen.picture is None:
        raise SlideError(chosen.problem)
    return _with_parts(chosen.picture, chosen, found, notes)


def _unreadable(path: Path, error: Exception) -> SlideError:
    said = " ".join(str(error).split())[:200]
    return SlideError(f"{path} is no OME-Zarr picture that can be read ({type(error).__name__}: {said})")


def _all_pictures(path: Path, root: zarr.Group) -> list[_Found]:
    """Every picture of a bioformats2raw layout, in its order."""
    names = _series_names(path, root)
    images = _xml_images(path)
    found = []
    for number, name in enumerate(names):
        image = images[number] if number < len(images) else None
        called = image.get("Name", "") if image is not None else ""
        one = _Found(number, called, xml_mpp=ome_mpp(image))
        try:
            group = root[name]
            if not isinstance(group, zarr.Group):
                raise SlideError(f"{path}/{name} is an array, not a picture with its levels")
            one.picture = _read_picture(f"{path}/{name}", group, number)
            one.size = one.picture.sizes[0]
        except SlideError as error:
            one.problem = str(error)
        except ZARR_ERRORS as error:
            one.problem = str(_unreadable(path / name, error))
        found.append(one)
    if not found:
        raise SlideError(f"{path} lists no picture; wanted folders 0, 1 ... with multiscales")
    return found


def _series_names(path: Path, root: zarr.Group) -> list[str]:
    try:
        listed = ome_of(root["OME"].attrs.asdict()).get("series")
    except ZARR_ERRORS:
        listed = None
    if isinstance(listed, list) and listed and all(isinstance(s, str) and s and ".." not in s for s in listed):
        return [s.strip("/") for s in listed[:_MOST_PICTURES]]
    try:
        numbers = sorted(int(p.name) for p in path.iterdir() if p.name.isdecimal() and len(p.name) < 6)
    except OSError as error:
        raise _unreadable(path, error) from None
    return [str(n) for n in numbers[:_MOST_PICTURES]]


def _xml_images(path: Path) -> list[ElementTree.Element]:
    """The Image elements of the OME-XML that bioformats2raw keeps; empty where it is missing or unreadable."""
    file = path / "OME" / "METADATA.ome.xml"
    try:
        if not file.is_file() or file.stat().st_size > _MOST_XML:
            return []
        root = ElementTree.fromstring(file.read_bytes())
    except (OSError, ElementTree.ParseError, ValueError):
        return []
    return [element for element in root if element.tag.rpartition("}")[2] == "Image"]


def _best(found: list[_Found]) -> tuple[_Found, tuple[str, ...]]:
    usable = [one for one in found if one.picture is not None and not NO_SLIDE.search(one.name)]
    usable = usable or [one for one in found if one.picture is not None]
    if not usable:
        raise SlideError(found[0].problem)
    best, note = finest([(one.size, one.picture.mpp or one.xml_mpp) for one in usable if one.picture is not None])
    return usable[best], (note,) if note else ()


def _with_parts(picture: ZarrPicture, chosen: _Found, found: list[_Found], notes: tuple[str, ...]) -> ZarrPicture:
    parts = list(picture.parts)
    for one in found:
        if one is chosen:
            continue
        called = f"picture {one.name!r}" if one.name else "picture"
        why = f", {one.problem}" if one.problem else ""
        parts.append(Part(f"another {called}{why}", one.size, one.number))
    xml = (("its OME-XML", chosen.xml_mpp),) if chosen.xml_mpp is not None else ()
    return replace(picture, others=xml, parts=tuple(parts), notes=(*notes, *picture.notes))


def _read_picture(name: str, group: zarr.Group, number: int) -> ZarrPicture:
    # What is stated, and whether the arrays agree with it.
    attributes = group.attrs.asdict()
    described = read_attributes(attributes, name)
    image = described.multiscales[0]
    try:
        arrays = [sound_array(group[dataset.path]) for dataset in image.datasets]
        n_axes = arrays[0].ndim
        axes = image.axis_names(n_axes)
        y, x = axes.index("y"), axes.index("x")
        c = axes.index("c") if "c" in axes else -1
        scales = [image.scale(level, n_axes) for level in range(len(arrays))]
        mpp = image.mpp(y, x, n_axes)
    except ZARR_ERRORS as error:
        raise _unreadable(Path(name), error) from None
    _refuse_other_pixels(arrays[0], (y, x, c), axes, name)
    refuse_other_colours(described.omero, name)

    # Levels that are reduced copies, one plane of each.
    kept, parts = _levels(arrays, y, x, number)
    planes, notes = _planes(image, arrays, axes, (y, x, c))
    if len(described.multiscales) > 1:
        notes.append(f"the folder describes {len(described.multiscales)} pyramids; the first one is taken")
    levels = [(arrays[k], planes[k], scales[k]) for k in kept]
    return ZarrPicture(
        series=number,
        arrays=tuple(array for array, _, _ in levels),
        y=y,
        x=x,
        c=c,
        planes=tuple(plane for _, plane, _ in levels),
        scales=tuple(None if scale is None else (scale[y], scale[x]) for _, _, scale in levels),
        mpp=mpp,
        parts=tuple(parts),
        notes=tuple(notes),
    )


def sound_array(array: zarr.Array | zarr.Group) -> zarr.Array:
    """The array of a level; ValueError where it is no picture or its chunks take unbounded memory or time."""
    if not isinstance(array, zarr.Array):
        raise ValueError("a level is a group, not an array")
    shape, chunks = [int(n) for n in array.shape], [int(n) for n in array.chunks]
    if not 2 <= len(shape) <= 8 or len(chunks) != len(shape) or min(shape) < 1 or min(chunks) < 1:
        raise ValueError(f"an array of shape {tuple(shape)} in chunks of {tuple(chunks)}")
    if max(shape) > MOST_PX_SIDE or float(np.prod(np.array(shape, float))) > 64 * MOST_PX:
        raise ValueError(f"an array of shape {tuple(shape)}, larger than any slide")
    whole = [min(c, n) for c, n in zip(chunks, shape, strict=True)]
    if float(np.prod(np.array(chunks, float))) * array.dtype.itemsize > _MOST_CHUNK_BYTES:
        raise ValueError(f"chunks of {tuple(chunks)}, too large to be held in memory; write it with smaller chunks")
    if np.prod(whole) < _LEAST_CHUNK_PX and np.prod(np.array(shape, float)) > 256 * _LEAST_CHUNK_PX:
        raise ValueError(f"chunks of {tuple(chunks)}, too small to be read; write it with larger chunks")
    if isinstance(array.store, OrdinaryFiles):
        array.store.bound(array.path, int(np.prod(np.array(chunks, float))) * array.dtype.itemsize)
    return array


def _refuse_other_pixels(array: zarr.Array, yxc: tuple[int, int, int], axes: list[str], name: str) -> None:
    y, x, c = yxc
    channels = array.shape[c] if c >= 0 else 1
    odd = [a for i, a in enumerate(axes) if i not in yxc and a not in "zt" and array.shape[i] > 1]
    if array.dtype != np.uint8 or channels != 3 or odd:
        raise SlideError(
            f"{name} holds {tuple(array.shape)} ({', '.join(axes)}) of {array.dtype}, not 8-bit RGB; "
            "wsistain stains brightfield RGB slides"
        )
    if array.shape[y] * array.shape[x] > MOST_PX:
        raise SlideError(f"{name} has {array.shape[x]} x {array.shape[y]} px, more than any slide; export it again")


def _levels(arrays: list[zarr.Array], y: int, x: int, number: int) -> tuple[list[int], list[Part]]:
    """The levels that are reduced copies by their shape, finest first, and what is left out."""
    sizes = [(int(a.shape[y]), int(a.shape[x])) if a.ndim == arrays[0].ndim else (0, 0) for a in arrays]
    kept = [0]
    for level in range(1, len(arrays)):
        same_kind = arrays[level].dtype == arrays[0].dtype and arrays[level].ndim == arrays[0].ndim
        if same_kind and agrees(sizes[0], sizes[level], slack=0.02) and sizes[level][1] < sizes[kept[-1]][1]:
            kept.append(level)
    parts = []
    for level, size in enumerate(sizes):
        used = level in kept
        what = f"level {kept.index(level)}" if used else "listed as a level, but of another shape or kind"
        parts.append(Part(what, size, number if level == 0 else None, used))
    return kept, parts


def _planes(
    image: Multiscale, arrays: list[zarr.Array], axes: list[str], yxc: tuple[int, int, int]
) -> tuple[list[dict[int, int]], list[str]]:
    """Of each level the index along z and t (and what else has one place only), and what to say of the choice."""
    notes: list[str] = []
    others = [i for i in range(len(axes)) if i not in yxc]
    shares: dict[int, float] = {}
    for i in others:
        n = int(arrays[0].shape[i])
        if n == 1:
            continue
        if axes[i] == "t":
            shares[i] = 0.0
            notes.append(f"the picture has {n} times; the first one is taken")
            continue
        index, in_focus = _focus(image, i, n, len(axes))
        shares[i] = (index + 0.5) / n
        word = "the one at offset 0" if in_focus else "none is said to be in focus, so the middle one"
        notes.append(f"the picture has {n} focal planes; {word} (plane {index}) is taken")
    # By share of the axis: a coarser level may have fewer planes.
    planes = [
        {i: min(int(shares.get(i, 0.0) * array.shape[i]), int(array.shape[i]) - 1) for i in others}
        if array.ndim == len(axes)
        else {}
        for array in arrays
    ]
    return planes, notes


def _focus(image: Multiscale, axis: int, n: int, n_axes: int) -> tuple[int, bool]:
    """The plane at position 0 where the file says where its planes lie, else the middle one."""
    start, scale = image.translation(0, n_axes), image.scale(0, n_axes)
    if start is not None and scale is not None and start[axis] != 0:
        at = -start[axis] / scale[axis]
        if -0.25 <= at <= n - 0.75 and abs(at - round(at)) <= 0.25:
            return round(at), True
    return n // 2, False


def downsamples_of(picture: ZarrPicture, levels: tuple[int, ...]) -> tuple[float, ...] | None:
    """Level-0 px per px of some levels from their scales; None where one states none or scale and size disagree."""
    scales: list[Any] = [picture.scales[k] for k in levels]
    if any(scale is None for scale in scales):
        return None
    found = tuple((s[0] / scales[0][0] + s[1] / scales[0][1]) / 2 for s in scales)
    sizes = [picture.sizes[k] for k in levels]
    for size, step in zip(sizes, found, strict=True):
        if not all(
            n / (k + 1) * 0.98 <= step <= n / max(k - 1, 0.5) * 1.02 for n, k in zip(sizes[0], size, strict=True)
        ):
            return None
    return found
