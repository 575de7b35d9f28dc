"""Masks, cuts, merges."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch

from pydelta.core.check import compute_dtype
from pydelta.core.masks import (
    DellaMask,
    MagnitudeThreshold,
    RandomMask,
    Ready,
    della_tables,
    ranks,
    ranks_in_rows,
)
from pydelta.core.random import Key
from pydelta.native.call import DTYPES, on, pointer

# csrc/core/mask.h holds the same codes.
_NONE, _RANDOM, _DELLA, _TENSOR, _ROW = range(5)
_ELECTIONS = {"sum": 0, "ties": 1, "ties_unweighted": 2}


_Packed = tuple[int, int, int, int, float, list[int]]


def _packed(
    ext: ModuleType,
    mask: Ready | None,
    x: torch.Tensor,
    base: torch.Tensor | None,
    alive: list[torch.Tensor],
) -> _Packed:
    """A mask's kind, seed, stream, bound, factor and five tables; tensors made for it go to ``alive``.

    The CPU's kernels rank a row's elements themselves, CUDA's are given the ranks.
    """
    if mask is None:
        return _NONE, 0, 0, 0, 1.0, [0] * 5
    if isinstance(mask, RandomMask):
        return _RANDOM, mask.key.seed, mask.key.stream, mask.below, mask.factor, [0] * 5
    tables: tuple[torch.Tensor | None, ...]
    if isinstance(mask, DellaMask):
        kind, key = _DELLA, mask.key
        below, factor = della_tables(mask.keep, mask.epsilon, x.shape[-1] if x.dim() else 1)
        below, factor = below.to(x.device), factor.to(x.device, compute_dtype(x.dtype))
        given = ranks_in_rows(x, base) if ext.__name__.endswith("_cuda") else None
        tables = below, factor, given, None, None
    else:
        kind, key = _TENSOR if mask.group == "tensor" else _ROW, Key(0)
        norm = mask.column_norm
        if norm is not None:
            norm = norm.to(compute_dtype(x.dtype)).contiguous()
        cuts = (mask.low, mask.low_index, mask.high, mask.high_index)
        tables = *(part.contiguous() for part in cuts), norm
    alive += [table for table in tables if table is not None]
    return kind, key.seed, key.stream, 0, 1.0, [pointer(table) for table in tables]


def magnitude_threshold(
    ext: ModuleType,
    x: torch.Tensor,
    *,
    keep: float,
    drop_large: float,
    group: str,
    base: torch.Tensor | None,
    column_norm: torch.Tensor | None,
    out: MagnitudeThreshold,
) -> None:
    groups = out.low.numel()
    size = x.numel() // max(groups, 1)
    cuts = (out.low, out.low_index, out.high, out.high_index)
    on(
        x,
        ext.magnitude_threshold,
        x.data_ptr(),
        pointer(base),
        pointer(column_norm),
        DTYPES[x.dtype],
        groups,
        size,
        *ranks(keep, drop_large, size),
        *(part.data_ptr() for part in cuts),
    )


def mask_rescale(
    ext: ModuleType, delta: torch.Tensor, mask: Ready, *, base: torch.Tensor | None, out: torch.Tensor
) -> None:
    alive: list[torch.Tensor] = []
    n = delta.shape[-1] if delta.dim() else 1
    pointers = delta.data_ptr(), pointer(base), out.data_ptr(), DTYPES[delta.dtype]
    on(delta, ext.mask_rescale, *pointers, delta.numel(), n, *_packed(ext, mask, delta, base, alive))


def merge_into(
    ext: ModuleType,
    base: torch.Tensor | None,
    tuned: Sequence[torch.Tensor],
    *,
    out: torch.Tensor,
    weights: Sequence[float],
    masks: Sequence[Ready | None],
    elect: str,
    lam: float,
    normalize: bool,
    start: int,
    out_dtype: torch.dtype,
) -> None:
    first = tuned[0]
    alive: list[torch.Tensor] = []
    packed = [_packed(ext, mask, x, base, alive) for mask, x in zip(masks, tuned, strict=True)]
    kinds, seeds, streams, below, factors, tables = zip(*packed, strict=True)
    on(
        first,
        ext.merge_into,
        pointer(base),
        [x.data_ptr() for x in tuned],
        out.data_ptr(),
        DTYPES[first.dtype],
        DTYPES[out_dtype],
        first.numel(),
        first.shape[-1] if first.dim() else 1,
        start,
        kinds,
        seeds,
        streams,
        below,
        factors,
        [pointer for five in tables for pointer in five],
        list(weights),
        _ELECTIONS[elect],
        lam,
        normalize,
    )
