"""Patches as training samples: order, pairing, geometry and augmentation, each a function of (seed, epoch, index).

Nothing depends on how many worker processes decode, nor on where a run was interrupted.
"""

import math
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from wsistain.config import DataConfig
from wsistain.data.augment import stain_jitter
from wsistain.data.layouts import NoPartError, PatchRef, Split, list_patches, with_masks
from wsistain.data.pictures import SUFFIXES, Unreadable, picture_size, read_mask, read_picture, resize_short
from wsistain.data.splits import choose_part
from wsistain.data.stated import check_stated
from wsistain.errors import DataError
from wsistain.markers import Marker
from wsistain.runtime.children import end_with_parent

Key = tuple[int, int]
"""(epoch, index of the H&E patch)."""

_ORDER, _PARTNER, _LOOK = 0, 1, 2  # streams of random numbers


class Sample(NamedTuple):
    """One training sample: uint8 (h, w, 3) pictures, mask bool (h, w) or None, the H&E patch's name, the marker."""

    name: str
    he: np.ndarray
    ihc: np.ndarray
    mask: np.ndarray | None
    marker: str | None = None


class Samples(NamedTuple):
    """A batch as it leaves the workers: uint8 (b, h, w, 3) pictures, mask uint8 (b, h, w) of 0 and 1 or None."""

    names: tuple[str, ...]
    he: Tensor
    ihc: Tensor
    mask: Tensor | None
    markers: tuple[str | None, ...] = ()


class Fault(NamedTuple):
    """What a worker returns for a patch it could not use; raised in the main process, where it reads well."""

    why: str


@dataclass(frozen=True)
class Look:
    """How a patch is cut.

    crop_px : edge of the square that is cut out at random.
    load_px : shorter side to which the whole patch is resized first, None to leave it.
    flip    : mirror half of the samples left to right.
    stain_jitter       : strength of the H&E colour augmentation.
    shrink_from_epoch  : from this epoch on, whole patches shrunk to the crop; None for never.
    """

    crop_px: int
    load_px: int | None = None
    flip: bool = True
    stain_jitter: float = 0.0
    shrink_from_epoch: int | None = None


@lru_cache(maxsize=4)
def _permutation(seed: int, stream: int, epoch: int, n: int) -> np.ndarray:
    return np.random.default_rng([seed, stream, epoch]).permutation(n)


def load_patches(cfg: DataConfig, marker: Marker, split: Split) -> list[PatchRef]:
    """The patches of a training configuration, with their masks where it names them. Raises DataError."""
    root = Path(cfg.root).expanduser()
    refs = _of_split(cfg, root, marker, split)
    check_stated(refs, root, marker, cfg.mpp)
    if cfg.names is not None and split == "train":
        refs = _chosen(refs, Path(cfg.names).expanduser())
    return with_masks(refs, root / cfg.masks) if cfg.masks else refs


def _of_split(cfg: DataConfig, root: Path, marker: Marker, split: Split) -> list[PatchRef]:
    def listed(part: Split) -> list[PatchRef]:
        is_paired = cfg.pairing == "weak"
        return list_patches(
            cfg.layout, root, marker, part, paired=is_paired, val_share=cfg.val_share, split_seed=cfg.split_seed
        )

    if cfg.split == "official":
        return listed(split)
    listing = Path(cfg.split_file).expanduser() if cfg.split_file else None
    return choose_part(
        all_patches(listed), cfg.split, split, share=cfg.val_share, seed=cfg.split_seed, root=root, listing=listing
    )


def all_patches(listed: Callable[[Split], list[PatchRef]]) -> list[PatchRef]:
    """The patches of both parts of a data set, sorted by name; DataError where a name is in both, or both are missing."""
    refs, faults = [], []
    parts: tuple[Split, ...] = ("train", "val")
    for part in parts:
        try:
            refs += listed(part)
        except NoPartError as error:  # any other fault is told, or a whole part would be left out in silence
            faults.append(error)
    if len(faults) == len(parts):
        raise faults[0]
    names = sorted(ref.name for ref in refs)
    twice = [a for a, b in pairwise(names) if a == b]
    if twice:
        raise DataError(f"{len(twice)} patches are in both parts of the data set ({twice[0]}); rename or remove them")
    return sorted(refs, key=lambda ref: ref.name)


def _chosen(refs: list[PatchRef], listing: Path) -> list[PatchRef]:
    """Those of `refs` that a text file names, one a line, with or without a picture's suffix; DataError on others."""
    try:
        lines = [line.strip() for line in listing.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{listing} (data.names) cannot be read as a list of names: {error}") from None
    wanted = {_without_suffix(line) for line in lines if line and not line.startswith("#")}
    unknown = sorted(wanted - {ref.name for ref in refs})
    if unknown or not wanted:
        raise DataError(
            f"{listing} (data.names) names {len(wanted)} patches, of which {len(unknown)} are not among the {len(refs)} "
            f"training patches: {', '.join(unknown[:3])}"
        )
    return [ref for ref in refs if ref.name in wanted]


def _without_suffix(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in SUFFIXES else name


def read_pair(ref: PatchRef) -> tuple[np.ndarray | None, np.ndarray | None]:
    """H&E and IHC of a patch as uint8 (h, w, 3) each, None for a side it lacks. Raises DataError."""
    if ref.is_joined and ref.he is not None:
        both = read_picture(ref.he)
        check_two_panels(ref.he.name, *both.shape[:2])
        half = both.shape[1] // 2
        return np.ascontiguousarray(both[:, :half]), np.ascontiguousarray(both[:, half:])
    return (read_picture(ref.he) if ref.he else None), (read_picture(ref.ihc) if ref.ihc else None)


def check_two_panels(name: str, height: int, width: int) -> None:
    """DataError where a picture of this size cannot be two side by side: of odd width, or an odd number of squares."""
    if width % 2:
        raise DataError(f"{name} is {width} px wide: not two pictures side by side")
    if width % height == 0 and width // height % 2:
        panels = width // height
        raise DataError(
            f"{name} is {width} x {height} px: {panels} square picture{'s' if panels > 1 else ''} side by side, wanted two"
        )


@dataclass(frozen=True)
class PatchCheck:
    """What the files' headers say: sizes (h, w) of the H&E patches, and every file that cannot be used."""

    sizes: frozenset[tuple[int, int]]
    unreadable: tuple[Unreadable, ...]


def check_patches(refs: Sequence[PatchRef], *, is_paired: bool = True) -> PatchCheck:
    """The sizes of all patches and a list of the unreadable ones, without decoding them (thousands of files a second).

    Found here: files that are missing, empty, cut short, no pictures, not 8-bit RGB, and pairs that differ in size.
    Damage in the middle of a file shows only when it is decoded.
    """

    # By headers alone: sizes, and that what belongs together is of one size.
    def check(ref: PatchRef) -> tuple[tuple[int, int] | None, list[Unreadable]]:
        sizes: dict[Path, tuple[int, int]] = {}
        faults = []
        wanted = [p for p in (ref.he, ref.ihc, ref.truth, ref.mask) if p is not None]
        for path in dict.fromkeys(wanted):
            try:
                height, width = picture_size(path, is_mask=path == ref.mask)
                if ref.is_joined and path == ref.he:
                    check_two_panels(path.name, height, width)
                sizes[path] = (height, width // 2 if ref.is_joined and path == ref.he else width)
            except DataError as error:
                faults.append(Unreadable(path, str(error).removeprefix(f"{path.name} ")))
        if is_paired and not faults and len(set(sizes.values())) > 1:
            differ = ", ".join(f"{h} x {w}" for h, w in sizes.values())
            faults.append(Unreadable(wanted[0], f"differs in size from what belongs to it: {differ}"))
        return (sizes.get(ref.he) if ref.he else None), faults

    with ThreadPoolExecutor(16) as pool:  # the wait is for the file system
        found = list(pool.map(check, refs))
    return PatchCheck(
        frozenset(size for size, _ in found if size is not None),
        tuple(fault for _, faults in found for fault in faults),
    )


class PatchDataset(Dataset[Sample | Fault]):
    """Training samples by key (epoch, index), decoded when asked for.

    refs      : the patches; those with an H&E make up the epoch.
    is_paired : IHC of the same name under the same crop and flip; otherwise the IHC of a random other patch (each
                about once an epoch) under its own.
    seed      : of every random choice.

    Holds paths only, so it travels to worker processes by any start method.
    """

    def __init__(self, refs: Sequence[PatchRef], look: Look, *, is_paired: bool, seed: int):
        self.sources = [r for r in refs if r.he is not None]
        self.targets = [r for r in refs if r.ihc is not None]
        self.look, self.is_paired, self.seed = look, is_paired, seed

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, key: Key) -> Sample | Fault:
        try:
            return self._sample(*key)
        except DataError as error:
            return Fault(str(error))

    def partner(self, epoch: int, index: int) -> PatchRef:
        """The patch whose IHC goes with H&E `index` in this epoch."""
        if self.is_paired:
            return self.sources[index]
        order = _permutation(self.seed, _PARTNER, epoch, len(self.targets))
        return self.targets[int(order[index % len(order)])]

    def _sample(self, epoch: int, index: int) -> Sample:
        rng = np.random.default_rng([self.seed, _LOOK, epoch, index])
        ref = self.sources[index]
        he, ihc = read_pair(ref)
        mask = read_mask(ref.mask) if ref.mask else None
        if he is None:
            raise DataError(f"{ref.name} has no H&E picture")
        if self.is_paired:
            if ihc is None or ihc.shape != he.shape or (mask is not None and mask.shape != he.shape[:2]):
                shapes = [p.shape[:2] for p in (he, ihc, mask) if p is not None]
                raise DataError(f"the pictures of {ref.name} differ in size: {', '.join(map(str, shapes))}")
            he, ihc, mask = self._cut([he, ihc, mask], epoch, ref.name, rng)
        else:
            other = self.partner(epoch, index)
            he, mask = self._cut([he, mask], epoch, ref.name, rng)
            (ihc,) = self._cut([read_pair(other)[1]], epoch, other.name, rng)
        assert he is not None and ihc is not None
        return Sample(ref.name, stain_jitter(he, self.look.stain_jitter, rng), ihc, mask, ref.marker)

    def _cut(
        self, pictures: list[np.ndarray | None], epoch: int, name: str, rng: np.random.Generator
    ) -> list[np.ndarray | None]:
        """The pictures resized, cropped and flipped alike; masks (h, w) by nearest pixel."""
        look = self.look
        edge = look.load_px
        if look.shrink_from_epoch is not None and epoch >= look.shrink_from_epoch:
            edge = look.crop_px
        if edge is not None:
            pictures = [p if p is None else resize_short(p, edge, nearest=p.ndim == 2) for p in pictures]
        height, width = next(p.shape[:2] for p in pictures if p is not None)
        if min(height, width) < look.crop_px:
            raise DataError(f"{name} is {height} x {width} px, smaller than the crop {look.crop_px} (data.crop_px)")
        y, x = rng.integers(0, [height - look.crop_px + 1, width - look.crop_px + 1])
        window = (slice(y, y + look.crop_px), slice(x, x + look.crop_px))
        step = -1 if look.flip and rng.random() < 0.5 else 1
        return [p if p is None else np.ascontiguousarray(p[window][:, ::step]) for p in pictures]


def collate(samples: Sequence[Sample | Fault]) -> Samples | Fault:
    """Samples stacked, or the first fault among them."""
    good: list[Sample] = []
    for sample in samples:
        if isinstance(sample, Fault):
            return sample
        good.append(sample)
    masks = [s.mask for s in good if s.mask is not None]
    return Samples(
        tuple(s.name for s in good),
        torch.from_numpy(np.stack([s.he for s in good])),
        torch.from_numpy(np.stack([s.ihc for s in good])),
        torch.from_numpy(np.stack(masks).astype(np.uint8)) if masks else None,
        tuple(s.marker for s in good),
    )


class PatchOrder(Sampler[list[Key]]):
    """The batches of one process from step `start` to before step `stop`, as lists of keys (epoch, index).

    Every epoch is a permutation of the `n` patches that depends on (seed, epoch) alone. A step takes `batch_size`
    patches for each of `n_processes`; the epoch's last step takes what is left, so that no patch is dropped, and is
    filled up with patches from the epoch's beginning until every process has equally many.
    """

    def __init__(
        self, n: int, batch_size: int, *, seed: int, start: int, stop: int, process: int = 0, n_processes: int = 1
    ):
        if n < 1:
            raise DataError("there are no patches to train on")
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.start, self.stop = start, stop
        self.process, self.n_processes = process, n_processes
        self.steps_per_epoch = steps_per_epoch(n, batch_size, n_processes)

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[list[Key]]:
        for step in range(self.start, self.stop):
            yield self.keys(step)

    def keys(self, step: int) -> list[Key]:
        """This process's share of the step's patches."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = _permutation(self.seed, _ORDER, epoch, self.n)
        size = self.batch_size * self.n_processes
        taken = order[place * size : (place + 1) * size]
        lacking = -len(taken) % self.n_processes
        filled = np.concatenate([taken, np.resize(order, lacking)]) if lacking else taken
        return [(epoch, int(i)) for i in filled[self.process :: self.n_processes]]


def steps_per_epoch(n: int, batch_size: int, n_processes: int = 1) -> int:
    """Steps in which every one of `n` patches is seen."""
    return math.ceil(n / (batch_size * n_processes))


def _worker(number: int) -> None:
    """First of all in a decoding process: it ends with its parent, and only then."""
    end_with_parent(deaf=True)


def patch_loader(
    dataset: PatchDataset, order: PatchOrder, *, workers: int, pin_memory: bool = False
) -> DataLoader[Sample | Fault]:
    """Batches (`Samples` or `Fault`) in the order given, decoded ahead by `workers` processes (0: here).

    One iterator runs through all epochs, so workers start once. They are started clean (forkserver, or spawn where
    there is none): forking a process that holds threads or a GPU is unsafe.
    """
    methods = multiprocessing.get_all_start_methods()
    return DataLoader(
        dataset,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        worker_init_fn=_worker if workers else None,
        prefetch_factor=4 if workers else None,
        multiprocessing_context=("forkserver" if "forkserver" in methods else "spawn") if workers else None,
    )
