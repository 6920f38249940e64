"""A network as a generator of tiles: uint8 in, uint8 out, on any device, the same bytes whatever the batch."""

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsistain.errors import ConfigError, WeightsError, WsistainError
from wsistain.generators.spec import PRECISIONS, GeneratorSpec, without_margin
from wsistain.networks.facts import ManyMarkers, OneByOne, ShortensItself, TellsChance, facts_of
from wsistain.networks.slide_norm import NormField, Where, freeze, norm_layers, pooled_statistics
from wsistain.runtime.heap import keep_freed_memory

RGB = NDArray[np.uint8]


def choose_device(device: str) -> torch.device:
    """The device that `device` ("auto", "cpu", "cuda", "cuda:N") means here; ConfigError where it is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"device {device!r} is not known; wanted auto, cpu, cuda or cuda:N") from None
    if chosen.type == "cuda" and (not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count()):
        raise ConfigError(
            f"device {device} is not here ({torch.cuda.device_count()} CUDA devices found); try --device cpu"
        )
    if chosen.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"device {device!r} is not supported; wanted auto, cpu, cuda or cuda:N")
    return chosen


class _Threads(threading.local):
    """Has this thread told torch to use one thread?"""

    is_set = False


def _check_finite(y: Tensor) -> None:
    """WeightsError where a number is not finite: as a pixel it would be black, and read as stained all over."""
    # What is not finite stays in a sum, which is cheaper than asking each number.
    if not torch.isfinite(y.sum(dtype=torch.float32)):
        raise WeightsError(
            "the network makes numbers that are not finite of these tiles: its weights are damaged, or its precision is too "
            "short for them; try precision float32, or other weights"
        )


def _to_pixels(y: Tensor) -> RGB:
    """uint8 (n, h, w, 3) of a network's (n, 3, h, w) in [-1, 1]; WeightsError where it is not finite."""
    _check_finite(y)
    grey = y.float().add_(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
    out: RGB = grey.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return out


def _with_chance(y: Tensor, p: Tensor) -> RGB:
    """uint8 (n, h, w, 4) of a picture as for `_to_pixels` and of chances (n, 1, h, w) in [0, 1]: 255 where 0, as glass."""
    _check_finite(p)
    left = 255 - p.float().mul(255).round_().clamp_(0, 255).to(torch.uint8)
    return np.concatenate([_to_pixels(y), left.permute(0, 2, 3, 1).cpu().numpy()], axis=3)


def _pictures_of(network: OneByOne) -> Callable[..., Any]:
    """What a network hands over one by one, the pictures alone."""

    def call(x: Tensor, markers: Sequence[str], **more: Any) -> Iterator[Tensor]:
        return (picture for picture, _ in network.stained(x, markers, **more))

    return call


def _joined(parts: Sequence[tuple[RGB, ...]]) -> tuple[RGB, ...]:
    """Parts of a batch, each one picture a marker, one after the other."""
    return parts[0] if len(parts) == 1 else tuple(np.concatenate(of_one) for of_one in zip(*parts, strict=True))


class NetworkGenerator:
    """Stains with a network that maps float (b, 3, h, w) in [-1, 1] to the same.

    On the CPU tiles run one by one on one torch thread each (the caller runs several threads), so that the result
    does not depend on batch size or core count. On CUDA tiles run in the batch they come in; the pipeline keeps
    batches the same. A batch that does not fit is halved until it does.
    """

    def __init__(
        self,
        network: nn.Module,
        spec: GeneratorSpec,
        *,
        device: str = "auto",
        precision: str = "float32",
        compiled: bool = False,
    ):
        self.spec = spec
        self._device = choose_device(device)
        self.device = str(self._device)
        if precision not in PRECISIONS:
            raise ConfigError(f"precision {precision!r} is not known; wanted one of {', '.join(PRECISIONS)}")
        self.precision = precision
        self.network = network.eval().requires_grad_(False).to(self._device)
        facts = facts_of(network)
        self._takes_positions, self._takes_margin = facts.takes_positions, facts.takes_margin
        # Under autocast every layer is short; a network that knows better keeps what would be seen in float32.
        dtype = None if precision == "float32" else getattr(torch, precision)
        shortens = self._device.type == "cpu" and isinstance(network, ShortensItself)
        if isinstance(network, ShortensItself):
            network.shorten(dtype if shortens else None)
        self._autocast = None if shortens else dtype
        self._where: Where | None = None
        self._threads = _Threads()
        if self._device.type == "cpu":
            keep_freed_memory()
        else:
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._is_panel = isinstance(network, ManyMarkers)
        call: Callable[..., Any] = network.stain if isinstance(network, ManyMarkers) else self.network
        if spec.probability:
            if not isinstance(network, TellsChance):
                raise TypeError(f"{type(network).__name__} tells no chances")
            call = network.stain_and_tell
        if isinstance(network, OneByOne) and not compiled:  # of what is compiled all come at once
            call = network.stained if spec.probability else _pictures_of(network)
        self._call = torch.compile(call) if compiled else call

    def for_marker(self, spec: GeneratorSpec) -> "NetworkGenerator":
        """The same network as the generator of another of its markers; nothing is loaded anew."""
        other = copy.copy(self)
        other.spec = spec
        return other

    @property
    def has_instance_norm(self) -> bool:
        """Do the statistics of a tile enter its result?"""
        return bool(norm_layers(self.network))

    def freeze_norm(self, field: NormField) -> None:
        """Use the statistics of `field` in every instance-norm layer from now on."""
        self._where = freeze(self.network, field)
        self.network.to(self._device)

    @property
    def n_norms(self) -> int:
        """Instance-norm layers of the network."""
        return len(norm_layers(self.network))

    def measure_norm(self, tiles: RGB, on_layer: Callable[[], None] | None = None) -> dict[str, NDArray[np.float32]]:
        """Pooled statistics of every instance-norm layer over `tiles`, uint8 (k, h, w, 3): name to (2, c).

        on_layer : called as each layer is done.
        """
        self._one_thread()
        statistics = pooled_statistics(self.network, self._to_float(tiles), on_layer)
        return {name: value.numpy() for name, value in statistics.items()}

    def stain(self, tiles: RGB, positions: Sequence[tuple[int, int]]) -> RGB:
        """Stained tiles, uint8 (n, h, w, channels of the spec); `positions` are the (y, x) of their corners, output px.

        Raises WsistainError when even one tile does not fit on the device.
        """
        return self.stain_markers(tiles, positions, (self.spec.marker,))[0]

    def stain_markers(
        self, tiles: RGB, positions: Sequence[tuple[int, int]], markers: Sequence[str], margin: int = 0
    ) -> tuple[RGB, ...]:
        """As `stain`, for several markers of one network: what they share is computed once.

        margin : px at each edge of the tiles that are seen and not kept: the results are as much smaller.
        """
        # One by one: in a batch of another size a convolution may take another path and differ in the last bit.
        if self._device.type == "cpu":
            self._one_thread()
            parts = [self._forward(tiles[k : k + 1], positions[k : k + 1], markers, margin) for k in range(len(tiles))]
            return _joined(parts)
        return self._forward_halving(tiles, positions, markers, margin)

    def _forward_halving(
        self, tiles: RGB, positions: Sequence[tuple[int, int]], markers: Sequence[str], margin: int = 0
    ) -> tuple[RGB, ...]:
        try:
            return self._forward(tiles, positions, markers, margin)
        except torch.OutOfMemoryError:
            if len(tiles) == 1:
                raise WsistainError(
                    f"{self.device} has not enough memory for one tile of {tiles.shape[1]} px; "
                    "try a smaller one (--set tiling.stride=256) or --device cpu"
                ) from None
        # Outside the `except`: the error's traceback would keep the tensors of the failed pass.
        torch.cuda.empty_cache()
        half = len(tiles) // 2
        first = self._forward_halving(tiles[:half], positions[:half], markers, margin)
        return _joined([first, self._forward_halving(tiles[half:], positions[half:], markers, margin)])

    def _one_thread(self) -> None:
        # Results of a convolution may change in the last bit with the number of threads; tiles are the parallel unit.
        if not self._threads.is_set:
            torch.set_num_threads(1)
            self._threads.is_set = True

    @torch.no_grad()
    def _forward(
        self, tiles: RGB, positions: Sequence[tuple[int, int]], markers: Sequence[str], margin: int
    ) -> tuple[RGB, ...]:
        x = self._to_float(tiles)
        more: dict[str, Any] = {"margin": margin} if self._takes_margin else {}
        if self._where is not None:
            self._where.boxes = [(y, x0, tiles.shape[1], tiles.shape[2]) for y, x0 in positions]
        with torch.autocast(self._device.type, self._autocast, enabled=self._autocast is not None):
            if self.spec.probability:
                stained = tuple(_with_chance(y, p) for y, p in self._call(x, list(markers), **more))
            elif self._is_panel:
                stained = tuple(_to_pixels(y) for y in self._call(x, list(markers), **more))
            elif self._takes_positions:
                stained = (_to_pixels(self._call(x, list(positions), **more)),)
            else:
                stained = (_to_pixels(self._call(x, **more)),)
        return stained if more else tuple(without_margin(pixels, margin) for pixels in stained)

    def _to_float(self, tiles: RGB) -> Tensor:
        tiles = np.ascontiguousarray(tiles)
        raw = torch.from_numpy(tiles if tiles.flags.writeable else tiles.copy())  # torch has no read-only tensors
        if self._device.type == "cuda":
            raw = raw.pin_memory().to(self._device, non_blocking=True)
        x = raw.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)
        return x.contiguous(memory_format=torch.channels_last) if self._device.type == "cuda" else x.contiguous()
