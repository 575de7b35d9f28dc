"""How lists of tensors are cut, and in which order their sums run: the same on every backend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

CHUNK = 65536
"""Elements of one tensor that are worked on together; a tensor's last chunk may hold fewer."""

LANES = 1024
"""Element j of a chunk is added to lane j mod LANES."""


def chunks(numels: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(tensor, first element) of every chunk, in order."""
    for i, numel in enumerate(numels):
        for start in range(0, numel, CHUNK):
            yield i, start


def halve(values: torch.Tensor) -> torch.Tensor:
    """The sum along the last dimension: entry l takes entry l + h for h = ..., 4, 2, 1, from the next power
    of two on. Zeros do not change it, so a device, a thread count or padding never shows."""
    half = 1 << max(values.shape[-1] - 1, 0).bit_length() >> 1
    if values.shape[-1] == 0:
        return values.sum(-1)
    while half:
        beyond = values[..., half:]
        values = values[..., :half].clone()
        values[..., : beyond.shape[-1]] += beyond
        half >>= 1
    return values[..., 0]
