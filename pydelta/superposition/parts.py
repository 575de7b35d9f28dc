"""Tensors cut into parts that stay in the cache between the arithmetic and the file."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence

import torch

from pydelta.superposition.rules import Rule

PART = 1 << 18
"""Elements of a part: 1 MiB in fp32."""


def split(rule: Rule, *tensors: torch.Tensor) -> Iterator[tuple[int, list[torch.Tensor]]]:
    """(index of the first element, that part of each tensor), in the order of the tensors' bytes.

    The transforms act on one index of the axes before the input axis at a time, so cutting there changes no
    bit. A part has its input axis at 1. Where the input axis is the first there is one part, the whole.
    """
    if not rule.dim:
        yield 0, list(tensors)
        return
    inner = rule.shape[rule.dim :]
    size = math.prod(inner)
    rows = max(1, PART // size)
    flat = [x.view(-1, *inner) for x in tensors]
    for first in range(0, flat[0].shape[0], rows):
        yield first * size, [x[first : first + rows] for x in flat]


def input_axis(rule: Rule) -> int:
    """Of a part that :func:`split` gave."""
    return 1 if rule.dim else 0


class Workspace(threading.local):
    """Memory that a thread uses again for part after part: fresh pages cost more than the arithmetic."""

    def __init__(self) -> None:
        self._flat: dict[tuple[str, torch.dtype], torch.Tensor] = {}

    def get(self, role: str, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """An uninitialised tensor, which the next call with the same role and dtype takes back."""
        count = math.prod(shape)
        flat = self._flat.get((role, dtype))
        if flat is None or flat.numel() < count:
            flat = self._flat[role, dtype] = torch.empty(count, dtype=dtype)
        return flat[:count].view(tuple(shape))
