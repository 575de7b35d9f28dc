"""Cuts of the magnitudes of many tensors as one: histograms add up, so nothing is ever held together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch

from pydelta.core.check import compute_dtype
from pydelta.core.masks import MagnitudeThreshold, ranks
from pydelta.reference.magnitude_threshold import magnitude

Pairs = Callable[[], Iterable[tuple[torch.Tensor, torch.Tensor | None]]]
"""Gives (x, base) of every tensor, in order, each time it is called."""

_PART = 1 << 20
"""Elements whose magnitudes are counted together: it bounds memory."""
_DIGIT = 16
"""Bits of a magnitude that one pass settles."""
_BINS = 1 << _DIGIT


def model_threshold(pairs: Pairs, *, keep: float, drop_large: float) -> list[MagnitudeThreshold]:
    """The cuts of |x - base| over all tensors together, one per tensor.

    For each cut the tensors are gone through once per 16 bits of a magnitude (twice in fp32), and once more
    to find the last of the equal ones.
    """
    low, high = ranks(keep, drop_large, sum(x.numel() for x, _ in pairs()))
    lows = _cut(pairs, low)
    highs = _cut(pairs, high)
    return [MagnitudeThreshold(*a, *b) for a, b in zip(lows, highs, strict=True)]


def _cut(pairs: Pairs, rank: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(magnitude, index) behind the first ``rank`` elements, for every tensor."""
    if rank == 0:
        return [_pair(x, torch.inf, 0) for x, _ in pairs()]
    code, left = _select(pairs, rank)
    cuts = []
    for x, base in pairs():
        value, index, seen = 0.0, 0, 0
        for codes in _codes(x, base):
            ties = (codes == code).nonzero()[:left]
            if len(ties):
                left -= len(ties)
                index = seen + int(ties[-1]) + 1
            seen += len(codes)
        value = torch.tensor(code, dtype=_bits(x)).view(compute_dtype(x.dtype)).item()
        cuts.append(_pair(x, value, index))
    return cuts


def _select(pairs: Pairs, rank: int) -> tuple[int, int]:
    """(the code of the element of rank ``rank`` - 1, its place among its equals, counted from 1)."""
    prefix = 0
    width = torch.iinfo(next(_bits(x) for x, _ in pairs())).bits
    for shift in range(width - _DIGIT, -1, -_DIGIT):
        counts = torch.zeros(_BINS, dtype=torch.int64)
        for x, base in pairs():
            for codes in _codes(x, base):
                high = codes.to(torch.int64) >> shift
                digits = high[high >> _DIGIT == prefix] & (_BINS - 1)
                counts += digits.bincount(minlength=_BINS).cpu()
        reached = counts.flip(0).cumsum(0)
        digit = int(torch.searchsorted(reached, rank))
        rank -= int(reached[digit - 1]) if digit else 0
        prefix = prefix << _DIGIT | (_BINS - 1 - digit)
    return prefix, rank


def _pair(x: torch.Tensor, value: float, index: int) -> tuple[torch.Tensor, torch.Tensor]:
    return (
        torch.tensor([value], dtype=compute_dtype(x.dtype), device=x.device),
        torch.tensor([index], device=x.device),
    )


def _bits(x: torch.Tensor) -> torch.dtype:
    return torch.int64 if x.dtype is torch.float64 else torch.int32


def _codes(x: torch.Tensor, base: torch.Tensor | None) -> Iterator[torch.Tensor]:
    """The bits of the magnitudes, part by part: integers in the same order."""
    flat, origin = x.reshape(-1), None if base is None else base.reshape(-1)
    for start in range(0, flat.numel(), _PART):
        part = slice(start, start + _PART)
        yield magnitude(flat[part], None if origin is None else origin[part]).view(_bits(x))
