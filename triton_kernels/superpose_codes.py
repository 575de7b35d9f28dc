"""The codes of a superposition in Triton, which itself is nowhere in memory whole."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from pydelta.core.quantized import Quantized
from pydelta.core.random import Key
from pydelta.triton_kernels.quantize import quantize
from pydelta.triton_kernels.superpose import superpose

ROOM = 1 << 21
"""Elements that are superposed at a time, or one row: in fp32 a part of the second-level cache."""


def superpose_codes(
    base: torch.Tensor,
    tuned: Sequence[torch.Tensor],
    keys: Sequence[Key],
    *,
    out: Quantized,
    weights: Sequence[float],
    transform: str,
    bits: int,
    group: str | int,
) -> None:
    """Superposes rows into scratch memory and codes them before the next ones."""
    if base.numel() == 0:
        return
    rows, n = math.prod(base.shape[:-1]), base.shape[-1]
    base, *tuned = (x.view(rows, n) for x in (base, *tuned))
    codes, scales = out.codes.view(rows, -1), out.scales.view(rows, -1)
    total = base.new_empty((min(rows, max(1, ROOM // n)), n), dtype=torch.float32)
    for first in range(0, rows, len(total)):
        some = slice(first, first + len(total))
        sums = total[: min(len(total), rows - first)]
        parts = base[some], [x[some] for x in tuned]
        superpose(
            *parts, keys, out=sums, weights=weights, transform=transform, dim=1, out_dtype=torch.float32
        )
        part = Quantized(codes[some], scales[some], bits, group, tuple(sums.shape), sums.dtype)
        quantize(sums, bits=bits, group=group, out=part)
