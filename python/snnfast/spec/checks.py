# SPDX-License-Identifier: Apache-2.0
"""Checks of arguments: each raises an error that names the argument, what was required and what arrived."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch

FloatArray = npt.NDArray[np.float32]


def check_choice(name: str, value: object, choices: Any) -> None:
    """Raise a ``ValueError`` that lists the choices unless ``value`` is one of the ``Literal`` type ``choices``."""
    allowed = get_args(choices)
    if not isinstance(value, str) or value not in allowed:  # an array may equal a text, element by element
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def check_count(name: str, value: object, *, minimum: int = 1, maximum: int | None = None) -> int:
    """Return ``value`` as an ``int``; raise if it is no whole number or out of range."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, got {value!r} ({type(value).__name__})")
    if value < minimum or (maximum is not None and value > maximum):
        limit = f"at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        bits = int(value).bit_length()  # Python writes no number of more than some thousand digits
        raise ValueError(f"{name} must be {limit}, got {value if bits <= 1024 else f'a number of {bits} bits'}")
    return int(value)


def check_seed(seed: object) -> int:
    """Return a seed as an ``int`` in [0, 2**64); raise otherwise."""
    return check_count("seed", seed, minimum=0, maximum=2**64 - 1)


def check_float(name: str, value: object) -> float:
    """Return ``value`` as a finite ``float`` that float32 can hold; raise otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number, got {value!r} ({type(value).__name__})")
    try:
        number = float(value)
    except OverflowError:  # an integer beyond every float
        number = math.inf
    if not abs(number) <= float(np.finfo(np.float32).max):
        raise ValueError(f"{name} must be finite and within the range of float32, got {number!r}")
    return number


def is_masked(value: object) -> bool:
    """Whether ``value`` is an array with a mask, which conversions would drop. numpy imports them when first asked."""
    return isinstance(value, np.ndarray) and type(value) is not np.ndarray and isinstance(value, np.ma.MaskedArray)


def plain_array(name: str, value: object) -> npt.NDArray[Any]:
    """A tensor, an array or nested sequences as an array, which may share their memory; refused if it hides numbers."""
    if isinstance(value, torch.Tensor):
        if value.device.type == "meta" or value.layout != torch.strided or value.is_nested:
            kind = "nested" if value.is_nested else value.layout
            raise TypeError(f"{name} must be a dense tensor with data, got one on {value.device} ({kind})")
        tensor = value.detach().cpu().resolve_conj().resolve_neg()
        try:
            return tensor.float().numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
        except TypeError as error:  # numpy has no such type
            raise TypeError(f"{name} must hold real numbers, got {value.dtype}") from error
    if is_masked(value):
        raise TypeError(f"{name} must be a plain array, got one with a mask: fill it first")
    try:
        return np.asarray(value)
    except ValueError as error:  # rows of several lengths
        raise ValueError(f"{name} must be an array, got {type(value).__name__} that is none: {error}") from error


def as_array(name: str, value: object, dimensions: int) -> FloatArray:
    """A private, contiguous float32 copy of a tensor or array, refused unless finite and of the given rank."""
    array = plain_array(name, value)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must hold real numbers, got {array.dtype}")
    if array.ndim != dimensions:
        raise ValueError(f"{name} must have {dimensions} dimension{'s'[: dimensions != 1]}, got shape {array.shape}")
    if array.size == 0:
        raise ValueError(f"{name} must not be empty, got shape {array.shape}")
    with np.errstate(over="ignore"):
        copy = np.array(array, dtype=np.float32, order="C", copy=True)
    bad = np.argwhere(~np.isfinite(copy))
    if len(bad):
        at = tuple(int(i) for i in bad[0])
        raise ValueError(f"{name} must be finite in float32, got {array[at]!r} at index {at} ({len(bad)} such values)")
    copy.flags.writeable = False
    return copy
