"""Randomness as a function of place: hashes of lattice indices, smooth noise, and periodic textures.

Nothing here keeps a state, so a value depends on (seed, name, place) only, never on the order of evaluation.
"""

import zlib
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

F32 = NDArray[np.float32]
U64 = NDArray[np.uint64]
K = TypeVar("K")
V = TypeVar("V")
Ints = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROW, _COL = np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x165667B19E3779F9)
_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_ANGLES = np.arange(256) * (2 * np.pi / 256)
_GRAD = np.stack([np.sin(_ANGLES), np.cos(_ANGLES)]).astype(np.float32)


def mix64(x: U64) -> U64:
    """A well-mixed 64-bit value for each 64-bit value (the finaliser of SplitMix64, Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * _M1
    x = (x ^ (x >> np.uint64(27))) * _M2
    return x ^ (x >> np.uint64(31))


@lru_cache(maxsize=4096)
def salt_of(seed: int, name: str) -> np.uint64:
    """One 64-bit key for a seed and a purpose; equal in every process."""
    key = np.array([seed & 0xFFFFFFFFFFFFFFFF], np.uint64) * _GOLDEN + np.uint64(zlib.crc32(name.encode()))
    return np.uint64(mix64(mix64(key))[0])


def hash_at(salt: np.uint64, row: Any, col: Any) -> U64:
    """64 random bits for each pair of integers (negative ones too), broadcast."""
    return mix64(
        mix64(np.asarray(row, np.int64).view(np.uint64) * _ROW + salt)
        + np.asarray(col, np.int64).view(np.uint64) * _COL
    )


def uniform(bits: U64) -> F32:
    """float32 in [0, 1) from the upper 24 bits."""
    values: F32 = (bits >> np.uint64(40)).astype(np.float32) * np.float32(1 / (1 << 24))
    return values


def draw(ids: U64, salt: np.uint64) -> F32:
    """float32 in [0, 1) for each 64-bit identity and one purpose."""
    return uniform(mix64(ids ^ salt))


def normal(ids: U64, salt: np.uint64) -> F32:
    """Roughly standard normal: the sum of four 16-bit uniforms, so bounded at 3.46. float32."""
    bits = mix64(ids ^ salt)
    total = np.zeros(bits.shape, np.float32)
    for shift in (0, 16, 32, 48):
        total += ((bits >> np.uint64(shift)) & np.uint64(0xFFFF)).astype(np.float32)
    values: F32 = (total * np.float32(1 / 65535) - np.float32(2)) * np.float32(1.7320508)
    return values


def lattice(row: Ints, col: Ints) -> Callable[[Callable[[Ints, Ints], Any], int, int], Any]:
    """A function (values of (row, col), dr, dc) -> those values at (row + dr, col + dc), for offsets -1..1.

    Where many places share few lattice points, the values are made once for each lattice point; same numbers.
    """
    if row.size == 0:
        return lambda values, dr, dc: values(row + dr, col + dc)
    r0, c0 = int(row.min()) - 1, int(col.min()) - 1
    nr, nc = int(row.max()) - r0 + 2, int(col.max()) - c0 + 2
    # A table pays only where most of its points are asked for.
    if nr * nc > 2 * row.size:
        return lambda values, dr, dc: values(row + dr, col + dc)
    rows, cols = np.arange(r0, r0 + nr)[:, None], np.arange(c0, c0 + nc)[None, :]
    base = (row - r0) * nc + (col - c0)
    made: dict[int, Any] = {}

    def look(values: Callable[[Ints, Ints], Any], dr: int, dc: int) -> Any:
        # The same function written in place is a new object at every call, but its code is one.
        key = id(values.__code__)
        if key not in made:
            made[key] = values(rows, cols)
        table, at = made[key], base + (dr * nc + dc)
        if isinstance(table, tuple):
            return tuple(np.broadcast_to(t, (nr, nc)).ravel()[at] for t in table)
        return table.ravel()[at]

    return look


def smooth_noise(salt: np.uint64, y: Floats, x: Floats, period: float) -> F32:
    """Gradient noise (Perlin 2002: quintic fade) with unit variance over the plane; |value| below about 3.

    y, x   : coordinates in the unit of `period`; float64 where they are large, broadcast.
    period : lattice spacing; the features are about as wide as that.
    """
    v, u = y / period, x / period
    r, c = np.floor(v), np.floor(u)
    fv, fu = (v - r).astype(np.float32), (u - c).astype(np.float32)
    row, col = r.astype(np.int64), c.astype(np.int64)
    sv, su = fv * fv * fv * (fv * (fv * 6 - 15) + 10), fu * fu * fu * (fu * (fu * 6 - 15) + 10)

    look = lattice(row, col)

    def corner(dr: int, dc: int) -> F32:
        g = look(lambda r, c: (hash_at(salt, r, c) >> np.uint64(56)).astype(np.intp), dr, dc)
        value: F32 = _GRAD[0][g] * (fv - dr) + _GRAD[1][g] * (fu - dc)
        return value

    a, b, c2, d = corner(0, 0), corner(0, 1), corner(1, 0), corner(1, 1)
    top, low = a + su * (b - a), c2 + su * (d - c2)
    noise: F32 = (top + sv * (low - top)) * np.float32(4.64)
    return noise


def fractal(seed: int, name: str, y: Floats, x: Floats, period: float, octaves: int = 3, gain: float = 0.5) -> F32:
    """Sum of `octaves` smooth noises, each half as wide and `gain` as strong, turned against each other; unit variance."""
    total: F32 = np.zeros(np.broadcast_shapes(y.shape, x.shape), np.float32)
    power = 0.0
    for k in range(octaves):
        s, c = np.sin(0.6 + 1.1 * k), np.cos(0.6 + 1.1 * k)
        weight = gain**k
        total += np.float32(weight) * smooth_noise(
            salt_of(seed, f"{name}.{k}"), c * y + s * x, c * x - s * y, period / 2**k
        )
        power += weight**2
    return total * np.float32(power**-0.5)


class Kept(Generic[K, V]):
    """The last `size` values that were asked for; unlike `lru_cache` on a method it does not keep its owner alive."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.values: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value of `key`, made now where it is not kept."""
        if key in self.values:
            self.values.move_to_end(key)
            return self.values[key]
        value = self.values[key] = make()
        if len(self.values) > self.size:
            self.values.popitem(last=False)
        return value


class Texture:
    """A periodic picture of band-limited noise, sampled at any place: the cheap way to have detail at each pixel."""

    def __init__(self, name: str, sigma: float, minus: float, *, size: int = 512) -> None:
        """Zero mean, unit variance: Gaussian of `sigma` samples, less one `minus` times as wide. Equal for all seeds."""
        index = np.arange(size * size, dtype=np.uint64)
        white = normal(index, salt_of(0, name)).reshape(size, size)
        picture = gaussian_filter(white, sigma, mode="wrap") - gaussian_filter(white, sigma * minus, mode="wrap")
        self.picture: F32 = ((picture - picture.mean()) / picture.std()).astype(np.float32)
        self.size = size

    def near(self, row: Floats, col: Floats) -> F32:
        """float32 at the samples nearest to (row, col), wrapped round: for detail as fine as the samples."""
        r, c = (row + 1e6 * self.size).astype(np.int64), (col + 1e6 * self.size).astype(np.int64)
        values: F32 = self.picture.ravel()[(r & (self.size - 1)) * self.size + (c & (self.size - 1))]
        return values

    def at(self, row: Floats, col: Floats) -> F32:
        """float32 at fractional (row, col) samples, bilinear, wrapped round."""
        values: F32 = map_coordinates(
            self.picture, [row, col], output=np.float32, order=1, mode="grid-wrap", prefilter=False
        )
        return values


class Grain:
    """Fibrous noise at any place in any direction: one white picture filtered along `TURNS` directions.

    All directions share the white picture, so turning the direction slowly bends the fibres instead of mixing them.
    """

    TURNS = 16

    def __init__(self, name: str, across: float, along: float, minus: float, *, size: int = 512) -> None:
        """Gaussian of `across` and `along` samples, less one `minus` times as wide across. Equal for all seeds."""
        white = normal(np.arange(size * size, dtype=np.uint64), salt_of(0, name)).reshape(size, size)
        spectrum = np.fft.rfft2(white)
        fy, fx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]
        stack = np.empty((self.TURNS, size, size), np.float32)
        for k in range(self.TURNS):
            c, s = np.cos(np.pi * k / self.TURNS), np.sin(np.pi * k / self.TURNS)
            u, v = c * fx + s * fy, c * fy - s * fx
            filt = np.exp(-2 * np.pi**2 * ((along * u) ** 2 + (across * v) ** 2))
            filt -= np.exp(-2 * np.pi**2 * ((along * u) ** 2 + (minus * across * v) ** 2))
            picture = np.fft.irfft2(spectrum * filt, s=(size, size))
            stack[k] = picture / picture.std()
        self.stack = stack

    def near(self, turn: F32, row: Floats, col: Floats) -> F32:
        """As `at`, at the nearest sample and direction: for detail as fine as the samples."""
        size = self.stack.shape[1]
        k = (turn * np.float32(self.TURNS / np.pi) + np.float32(self.TURNS * 4 + 0.5)).astype(np.int64) & (
            self.TURNS - 1
        )
        r, c = (row + 1e6 * size).astype(np.int64) & (size - 1), (col + 1e6 * size).astype(np.int64) & (size - 1)
        values: F32 = self.stack.ravel()[(k * size + r) * size + c]
        return values

    def at(self, turn: F32, row: Floats, col: Floats) -> F32:
        """float32 at fractional (row, col) samples; turn: angle of the fibres from +col to +row, rad."""
        place = [turn * np.float32(self.TURNS / np.pi), row, col]
        values: F32 = map_coordinates(self.stack, place, output=np.float32, order=1, mode="grid-wrap", prefilter=False)
        return values


def pixel_noise(salt: np.uint64, y: int, x: int, h: int, w: int) -> F32:
    """float32 (h, w, 3), triangular noise of unit variance keyed by the pixel's own place."""
    bits = hash_at(salt, np.arange(y, y + h)[:, None], np.arange(x, x + w)[None, :])
    noise = np.empty((h, w, 3), np.float32)
    for channel in range(3):
        low = (bits >> np.uint64(20 * channel)) & np.uint64(0x3FF)
        high = (bits >> np.uint64(20 * channel + 10)) & np.uint64(0x3FF)
        noise[..., channel] = (low + high).astype(np.float32)
    noise -= np.float32(1023)
    noise *= np.float32(6**0.5 / 1024)
    return noise
