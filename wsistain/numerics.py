"""Numerics that every loss shares: float32 where half precision would spoil the result."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar, get_args

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def _wide(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16):
        return value.float()
    if isinstance(value, Sequence) and value and all(isinstance(v, Tensor) for v in value):
        return [_wide(v) for v in value]
    return value


def _device(values: Sequence[Any]) -> str | None:
    for value in values:
        if isinstance(value, Tensor):
            return value.device.type
        if isinstance(value, Sequence) and value and isinstance(value[0], Tensor):
            return value[0].device.type
    return None


def in_float32(function: Callable[P, R]) -> Callable[P, R]:
    """The same function, run outside autocast with half-precision tensors (also in lists) widened to float32.

    For sums over many small terms, logarithms, exponentials and cosines. float64 stays float64.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        device = _device([*args, *kwargs.values()])
        if device is None:
            return function(*args, **kwargs)
        with torch.autocast(device, enabled=False):
            return function(*(_wide(a) for a in args), **{k: _wide(v) for k, v in kwargs.items()})

    return run


def check_choice(name: str, value: object, literal: Any) -> None:
    """ValueError where `value` is none of the members of `literal` (a `typing.Literal`), naming the argument."""
    choices = get_args(literal)
    if value not in choices:
        raise ValueError(f"{name} {value!r} is not known; wanted one of {', '.join(map(str, choices))}")
