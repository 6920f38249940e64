"""What is stored where: the levels of a stained slide, and the blocks, shards and chunks that they are cut into.

Level 0 has the generator's mpp. Level l + 1 is level l halved, odd sizes rounded up, and the last level is the
first that fits into one chunk. A block's own levels are those whose shards lie wholly inside one block; they are
written by the task of that block. The levels above are built at the end from one reduced piece a block.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

from wsistain.config import OutputConfig
from wsistain.errors import OutputError
from wsistain.output.codec import check_codec

WORK = ".wsistain"
"""Folder inside an unfinished output: journal, lock and pieces. A finished output has none."""

GLASS = 255
"""Value of a pixel of the stain that nothing was written to."""

V2_CHUNK = 1024


@dataclass(frozen=True)
class Layer:
    """One pyramid of an output.

    folder   : in which it lies inside the output; "": the output itself.
    channels : of its pixels. blank : value of what nothing was written to.
    """

    folder: str
    channels: int
    blank: int


STAIN = Layer("", 3, GLASS)
PROBABILITY = Layer("probability", 1, 0)
"""Beside the stain, of the same size: how likely each place is positive, 0..255 for 0..1."""


@dataclass(frozen=True)
class OutputSpec:
    """Everything that the writers need to know about an output; picklable, made once from the plan.

    path          : the OME-Zarr folder, on a local or mounted file system.
    height, width : px of level 0.
    mpp           : um per px of level 0.
    block         : edge of the unit of work at level 0, px; a multiple of the shard.
    storage       : the user's options. A shard is what one task writes at a time, an even multiple of 1 chunk or more.
                    ngff "0.5": Zarr v3, a shard is one file; "0.4": Zarr v2, a chunk of one colour is one file.
    origin_um     : (y, x) of the top left corner of level 0 from the top left corner of the slide, um.
    layer         : the pyramid that is written; all layers of an output share its path, sizes and blocks.

    Raises OutputError when the sizes do not fit together.
    """

    path: str
    height: int
    width: int
    mpp: float
    block: int = 4096
    storage: OutputConfig = field(default_factory=OutputConfig)
    origin_um: tuple[float, float] = (0.0, 0.0)
    layer: Layer = STAIN

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            size = f"{self.width} x {self.height} px"
            raise OutputError(f"{self.path}: an output of {size} holds nothing; choose another region")
        if not (self.mpp > 0 and math.isfinite(self.mpp)):
            raise OutputError(f"{self.path}: mpp {self.mpp} is not positive; pass --mpp")
        shard = self.storage.shard
        if shard % 2:
            raise OutputError(f"shard {shard} is not even; try --set output.shard={2 * shard}")
        if self.block < shard or self.block % shard:
            fitting = -(-self.block // shard) * shard
            raise OutputError(
                f"block {self.block} is not a multiple of shard {shard}; try --set tiling.block={fitting}"
            )
        check_codec(self.storage)

    @property
    def levels(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of every level, 0 finest; each is half of the one before, odd sizes rounded up."""
        sizes = [(self.height, self.width)]
        while max(sizes[-1]) > self.storage.chunk:
            sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
        return tuple(sizes)

    @property
    def block_levels(self) -> int:
        """How many levels, from 0 on, are written by the tasks of the blocks; at least 1."""
        count = 1
        while count < len(self.levels) and self.block % (self.storage.shard << count) == 0:
            count += 1
        return count

    @property
    def has_pieces(self) -> bool:
        """Whether levels remain that need more than one block."""
        return len(self.levels) > self.block_levels

    @property
    def block_grid(self) -> tuple[int, int]:
        """(rows, columns) of blocks."""
        return -(-self.height // self.block), -(-self.width // self.block)

    @property
    def stored_chunk(self) -> int:
        """Edge of the chunks as stored: `chunk`; in 0.4, where each is a file, the largest multiple up to 1024 px."""
        if self.storage.ngff == "0.5":
            return self.storage.chunk
        fitting = [
            n for n in range(self.storage.chunk, V2_CHUNK + 1, self.storage.chunk) if self.storage.shard % n == 0
        ]
        return max(fitting, default=self.storage.chunk)

    def shard_grid(self, level: int) -> tuple[int, int]:
        """(rows, columns) of shards of a level."""
        height, width = self.levels[level]
        return -(-height // self.storage.shard), -(-width // self.storage.shard)

    def block_size(self, row: int, col: int) -> tuple[int, int]:
        """(height, width) of a block at level 0, px, clipped at the slide's edge; ValueError outside the grid."""
        rows, cols = self.block_grid
        if not (0 <= row < rows and 0 <= col < cols):
            raise ValueError(f"block ({row}, {col}) lies outside the grid of {rows} x {cols}")
        return min(self.block, self.height - row * self.block), min(self.block, self.width - col * self.block)

    def shard_files(self, level: int, row: int, col: int) -> tuple[str, ...]:
        """Paths, relative to the output, of the files that may hold a shard: one in 0.5, one a chunk in 0.4."""
        if self.storage.ngff == "0.5":
            return (f"{self.inner}{level}/c/0/{row}/{col}",)
        per_side = self.storage.shard // self.stored_chunk
        height, width = self.levels[level]
        rows, cols = -(-height // self.stored_chunk), -(-width // self.stored_chunk)
        return tuple(
            f"{self.inner}{level}/{channel}/{y}/{x}"
            for y in range(row * per_side, min((row + 1) * per_side, rows))
            for x in range(col * per_side, min((col + 1) * per_side, cols))
            for channel in range(self.layer.channels)
        )

    def piece_file(self, row: int, col: int) -> str:
        """Path, relative to the output, of the reduced piece of a block."""
        return f"{WORK}/pieces/{self.inner}{row}_{col}.zst"

    @property
    def inner(self) -> str:
        """What the paths of the layer's files begin with, relative to the output: "" or "probability/"."""
        return f"{self.layer.folder}/" if self.layer.folder else ""

    @property
    def folder(self) -> Path:
        """`path` as a Path."""
        return Path(self.path)
