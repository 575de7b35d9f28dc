"""How codes of a tensor are laid out. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydelta.core.levels import code_shapes
from pydelta.deltafile.manifest import ROW

_SHORT = 64
"""Last axes below this are a kernel's, and too short for a scale of their own."""


def matrix(shape: Sequence[int]) -> tuple[int, int]:
    """(rows, row length) of a tensor of two and more axes.

    A row is the last axis; in tensors of three and more axes whose last axis is short, as in a convolution's
    kernel, it is all axes but the first.
    """
    length = shape[-1] if len(shape) == 2 or shape[-1] >= _SHORT else math.prod(shape[1:])
    return math.prod(shape) // max(length, 1), length


def stored_shapes(shape: Sequence[int], bits: int, group: str | int) -> list[tuple[int, ...]]:
    """Of the stored codes and scales.

    Raises:
        ValueError: the group does not divide a row.
    """
    rows, length = matrix(shape)
    size = length if group == ROW else int(group)
    if length % size:
        raise ValueError(f"groups of {size} do not divide rows of {length}")
    return list(code_shapes((rows, length), bits, size))
