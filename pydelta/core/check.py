"""Checks of what callers pass: each raises one sentence, ``[op] rule, got value``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch

from pydelta.core import codes
from pydelta.core.random import Key

FLOATS = tuple(getattr(torch, name) for name in codes.DTYPES)
TRANSFORMS = tuple(codes.TRANSFORMS)
MAX_DEFAULT_BLOCK = 32768
"""The longest block that every backend can transform."""
MAX_BLOCK = 1 << 24
_LARGEST = sys.float_info.max


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def floating(op: str, name: str, x: object) -> None:
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"[{op}] {name} must be a tensor, got {type(x).__name__}")
    if x.dtype not in FLOATS:
        raise TypeError(
            f"[{op}] {name} must be float32, bfloat16, float16 or float64, got {name_of(x.dtype)}"
        )
    if x.layout is not torch.strided:
        raise TypeError(f"[{op}] {name} must be dense, got {x.layout}")


def alike(op: str, name: str, x: torch.Tensor, of: str, like: torch.Tensor) -> None:
    """Same shape and device as ``like``."""
    if x.shape != like.shape:
        raise ValueError(f"[{op}] {name} must have {of}'s shape {tuple(like.shape)}, got {tuple(x.shape)}")
    if x.device != like.device:
        raise ValueError(f"[{op}] {name} must be on {of}'s device {like.device}, got {x.device}")


def dtype_of(op: str, name: str, x: torch.Tensor, expected: torch.dtype) -> None:
    if x.dtype != expected:
        raise ValueError(f"[{op}] {name} must be {name_of(expected)}, got {name_of(x.dtype)}")


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """What the arithmetic runs in: fp64 for fp64, fp32 for all else."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def same_precision(op: str, name: str, dtype: torch.dtype, base: torch.dtype) -> None:
    """float64 goes with float64 alone: everything else computes in fp32."""
    if compute_dtype(dtype) is not compute_dtype(base):
        raise ValueError(
            f"[{op}] {name} must be float64 exactly when base is ({name_of(base)}), got {name_of(dtype)}"
        )


def out_dtype(op: str, dtype: object, out: object, default: torch.dtype) -> torch.dtype:
    """The result's dtype: as asked, else ``out``'s, else the default."""
    if dtype is None:
        dtype = out.dtype if isinstance(out, torch.Tensor) else default
    if not isinstance(dtype, torch.dtype) or dtype not in FLOATS:
        raise TypeError(f"[{op}] out_dtype must be a floating dtype of torch, got {dtype!r}")
    same_precision(op, "out_dtype", dtype, default)
    return dtype


def has_dimension(op: str, name: str, x: torch.Tensor) -> None:
    if x.dim() == 0:
        raise ValueError(f"[{op}] {name} must have at least one dimension, got shape ()")


def dim(op: str, dim: object, x: torch.Tensor) -> int:
    """``dim`` counted from the front."""
    if isinstance(dim, bool) or not isinstance(dim, int):
        raise TypeError(f"[{op}] dim must be an int, got {type(dim).__name__}")
    if not -x.dim() <= dim < x.dim():
        raise ValueError(
            f"[{op}] dim must lie in [{-x.dim()}, {x.dim() - 1}] for shape {tuple(x.shape)}, got {dim}"
        )
    return dim % x.dim()


def default_block(n: int) -> int:
    """The largest power of two that divides ``n``, at most 32768; 1 for n = 0."""
    return min(n & -n, MAX_DEFAULT_BLOCK) if n else 1


def block(op: str, block: object, n: int) -> int:
    if block is None:
        return default_block(n)
    if isinstance(block, bool) or not isinstance(block, int):
        raise TypeError(f"[{op}] block must be an int, got {type(block).__name__}")
    if block < 1 or block & (block - 1) or n % block:
        raise ValueError(f"[{op}] block must be a power of two that divides {n}, got {block}")
    if block > MAX_BLOCK:
        raise ValueError(f"[{op}] block must be at most {MAX_BLOCK}, got {block}")
    return block


def key(op: str, name: str, value: object) -> Key:
    if not isinstance(value, Key):
        raise TypeError(f"[{op}] {name} must be a pydelta.Key, got {type(value).__name__}")
    return value


def number(op: str, name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"[{op}] {name} must be a number, got {type(value).__name__}")
    if not -_LARGEST <= value <= _LARGEST:
        raise ValueError(f"[{op}] {name} must be finite, got {value}")
    return float(value)


def flag(op: str, name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"[{op}] {name} must be a bool, got {type(value).__name__}")
    return value


def fraction(op: str, name: str, value: object) -> float:
    parsed = number(op, name, value)
    if not 0 <= parsed <= 1:
        raise ValueError(f"[{op}] {name} must lie in [0, 1], got {value}")
    return parsed


def choice(op: str, name: str, value: object, known: Sequence[str]) -> str:
    if value not in known:
        raise ValueError(f"[{op}] {name} must be one of {', '.join(known)}, got {value!r}")
    return str(value)


def backend(op: str, value: object) -> str:
    """The backend's name, "" for the dispatcher's choice."""
    if value is not None and not isinstance(value, str):
        raise TypeError(f"[{op}] backend must be a str, got {type(value).__name__}")
    return value or ""


def sequence(op: str, name: str, values: object) -> Sequence[Any]:
    if not isinstance(values, (list, tuple)):
        raise TypeError(f"[{op}] {name} must be a list or tuple, got {type(values).__name__}")
    return values


def models(op: str, tuned: object, base: torch.Tensor | None) -> list[torch.Tensor]:
    """K >= 1 floating tensors like ``base`` or the first of them, for an op that is not differentiable."""
    entries = sequence(op, "tuned", tuned)
    if not entries:
        raise ValueError(f"[{op}] tuned must hold at least one tensor, got none")
    first, of = (entries[0], "tuned[0]") if base is None else (base, "base")
    floating(op, of, first)
    shape, dtype, device = first.shape, first.dtype, first.device
    for i, x in enumerate(entries):
        if x.__class__ is torch.Tensor and x.dtype is dtype and x.shape == shape and x.device == device:
            continue  # as nearly always: no words are made for them
        floating(op, f"tuned[{i}]", x)
        alike(op, f"tuned[{i}]", x, of, first)
        dtype_of(op, f"tuned[{i}]", x, dtype)
    return [x.detach() if x.requires_grad else x for x in entries]


def keys(op: str, values: object, expected: int) -> Sequence[Key]:
    """K keys."""
    entries = sequence(op, "keys", values)
    count(op, "keys", entries, expected)
    for i, value in enumerate(entries):
        if value.__class__ is not Key:
            key(op, f"keys[{i}]", value)
    return entries


def weights(op: str, values: object, expected: int) -> list[float]:
    """K numbers, 1 for each model where there are none."""
    if values is None:
        return [1.0] * expected
    factors = sequence(op, "weights", values)
    count(op, "weights", factors, expected)
    return [number(op, f"weights[{i}]", w) for i, w in enumerate(factors)]


def index(op: str, name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"[{op}] {name} must be an int, got {type(value).__name__}")
    if not 0 <= value < 1 << 62:
        raise ValueError(f"[{op}] {name} must lie in [0, 2**62), got {value}")
    return value


def count(op: str, name: str, values: Sequence[object], expected: int) -> None:
    if len(values) != expected:
        raise ValueError(f"[{op}] {name} must have one entry per model ({expected}), got {len(values)}")


def like(
    op: str, name: str, x: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype, to: torch.Tensor
) -> None:
    """Of this shape and dtype, and on the device of ``to``."""
    if x.shape != shape or x.dtype != dtype or x.device != to.device:
        raise ValueError(
            f"[{op}] {name} must be {name_of(dtype)} of shape {shape} on {to.device}, "
            f"got {name_of(x.dtype)} of shape {tuple(x.shape)} on {x.device}"
        )


def column_norm(op: str, name: str, norm: object, x: torch.Tensor) -> torch.Tensor:
    """One number for each column of ``x``, in the dtype that its magnitudes are computed in."""
    floating(op, name, norm)
    assert isinstance(norm, torch.Tensor)
    dtype = compute_dtype(x.dtype)
    like(op, name, norm.to(dtype), (x.shape[-1] if x.dim() else 1,), dtype, x)
    return norm.detach().to(dtype).contiguous()


def out(op: str, out: object, like: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if not isinstance(out, torch.Tensor):
        raise TypeError(f"[{op}] out must be a tensor, got {type(out).__name__}")
    alike(op, "out", out, "the input", like)
    dtype_of(op, "out", out, dtype)
    reach = 0
    for stride, size in sorted(zip(out.stride(), out.shape, strict=True)):
        if size > 1 and stride <= reach:
            got = tuple(out.stride())
            raise ValueError(f"[{op}] out must have a place of its own for every element, got strides {got}")
        reach += (size - 1) * stride
    return out


def no_partial_overlap(op: str, out: torch.Tensor, inputs: Sequence[torch.Tensor]) -> None:
    """``out`` is one of the inputs, element for element, or shares no memory with them.

    What is tested is the span of memory that each tensor covers, so interleaved views count as
    overlapping.
    """
    first, last = _span(out)
    for x in inputs:
        if x.data_ptr() >= last:
            continue
        a, b = _span(x)
        same = a == first and x.dtype == out.dtype and _strides(x) == _strides(out)
        if first < b and not same:
            raise ValueError(
                f"[{op}] out must be an input itself or share no memory with it, got a partial overlap"
            )


def _strides(x: torch.Tensor) -> list[int]:
    """The strides that matter: a dimension of size 1 is never stepped along."""
    return [stride for size, stride in zip(x.shape, x.stride(), strict=True) if size > 1]


def _span(x: torch.Tensor) -> tuple[int, int]:
    start = x.data_ptr()
    if x.is_contiguous():
        return start, start + x.nbytes
    if x.numel() == 0:
        return start, start
    reach = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return start, start + (reach + 1) * x.element_size()
