"""Elements of tensors by their places: bit for bit, in any dtype."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

_PART = 1 << 16
"""Elements that are looked at together: it bounds the memory of indices."""
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits(x: torch.Tensor) -> torch.Tensor:
    """The bits of a contiguous tensor as (N,) integers of its width; shares memory."""
    return x.detach().view(-1).view(_WORDS[x.element_size()])


def count(mask: torch.Tensor) -> int:
    """How often a mask is true."""
    return int(np.count_nonzero(mask.numpy()) if mask.device.type == "cpu" else mask.count_nonzero())


def take(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The elements of a tensor where ``mask`` is true, in the order of their indices."""
    words = bits(x.contiguous())
    if x.device.type != "cpu":
        return words[mask].view(x.dtype)
    taken, end = torch.empty(count(mask), dtype=words.dtype), 0
    for part, places in _places(mask):
        begin, end = end, end + len(places)
        np.take(words.numpy()[part], places, out=taken.numpy()[begin:end], mode="clip")
    return taken.view(x.dtype)


def put(x: torch.Tensor, mask: torch.Tensor, values: torch.Tensor) -> None:
    """Writes ``values`` to where ``mask`` is true, in the order of the indices; bit for bit, in any dtype."""
    dense = x.contiguous()
    words, new = bits(dense), bits(values)
    if x.device.type == "cpu":
        end = 0
        for part, places in _places(mask):
            begin, end = end, end + len(places)
            words.numpy()[part][places] = new.numpy()[begin:end]
    else:
        words[mask] = new
    if not x.is_contiguous():
        word = _WORDS[x.element_size()]
        x.view(word).copy_(dense.view(word))


def _places(mask: torch.Tensor) -> Iterator[tuple[slice, npt.NDArray[np.int64]]]:
    """Parts of a mask on the CPU, and where each is true: several times faster than the mask as an index."""
    for start in range(0, mask.numel(), _PART):
        part = slice(start, start + _PART)
        yield part, np.flatnonzero(mask.numpy()[part])
