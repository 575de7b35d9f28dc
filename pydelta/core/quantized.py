"""Low-bit tensors: packed codes, one scale per row or group."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

from pydelta.core import check
from pydelta.core.levels import MAGNITUDES, row_bytes

BITS = tuple(MAGNITUDES)

LANES = 64
"""Sums over a group run in so many interleaved lanes, which are then added in halves."""


@dataclass(frozen=True, eq=False)
class Quantized:
    """A tensor in 1, 2, 4 or 8 bits an element.

    An element is ``scale * level``: its code holds the sign (the top bit, 1 means minus) and the index of a
    level of the Lloyd-Max quantiser of N(0, 1). A group's scale makes the reconstruction q unbiased,
    <x, q> = ||x||^2.

    Args:
        codes: uint8, (\\*rows, bytes): each row's codes along the last dimension, little-endian, padded to
            whole bytes.
        scales: float32, (\\*rows, groups of a row).
        bits: 1, 2, 4 or 8.
        group: "row", or the number of elements that share a scale.
        shape, dtype: of the tensor that was quantised.

    Raises:
        TypeError, ValueError: the parts do not belong to one another.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    bits: int
    group: str | int
    shape: tuple[int, ...]
    dtype: torch.dtype

    def __post_init__(self) -> None:
        op = "Quantized"
        object.__setattr__(self, "shape", tuple(self.shape))
        check_bits(op, self.bits)
        if not self.shape:
            raise ValueError(f"[{op}] shape must have at least one dimension, got ()")
        size = group_size(op, self.group, self.shape[-1])
        *rows, n = self.shape
        check.like(op, "codes", self.codes, (*rows, row_bytes(n, self.bits)), torch.uint8, self.codes)
        check.like(op, "scales", self.scales, (*rows, n // size if size else 0), torch.float32, self.codes)

    @property
    def device(self) -> torch.device:
        return self.codes.device

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return self.codes.nbytes + self.scales.nbytes

    def to(self, device: torch.device | str) -> Quantized:
        """The same on another device."""
        codes, scales = self.codes.to(device), self.scales.to(device)
        return Quantized(codes, scales, self.bits, self.group, self.shape, self.dtype)


def check_bits(op: str, bits: object) -> int:
    if isinstance(bits, bool) or bits not in BITS:
        raise ValueError(f"[{op}] bits must be one of {', '.join(map(str, BITS))}, got {bits!r}")
    assert isinstance(bits, int)
    return bits


def group_size(op: str, group: object, n: int) -> int:
    """Elements that share a scale, in rows of ``n``."""
    if group == "row":
        return n
    if isinstance(group, bool) or not isinstance(group, int):
        raise TypeError(f"[{op}] group must be 'row' or an int, got {group!r}")
    if group < 1 or n % group:
        raise ValueError(f"[{op}] group must divide the row length {n}, got {group}")
    return group


def check_codes(op: str, name: str, q: Quantized, x: torch.Tensor) -> None:
    """Codes of a tensor of x's shape, on its device."""
    if q.shape != tuple(x.shape) or q.device != x.device:
        raise ValueError(
            f"[{op}] {name} must be the codes of shape {tuple(x.shape)} on {x.device}, "
            f"got {q.shape} on {q.device}"
        )


@functools.lru_cache(maxsize=32)
def tables(bits: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(levels, thresholds): the positive levels, and the midpoints between them, in float32."""
    levels = torch.tensor(MAGNITUDES[bits], dtype=torch.float32)
    return levels.to(device), ((levels[1:] + levels[:-1]) / 2).to(device)
