"""Masks, cuts, merges."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch

from pydelta.core.codes import ELECTIONS
from pydelta.core.kernel_masks import lower
from pydelta.core.masks import KernelMask, MagnitudeThreshold, ranks
from pydelta.native.call import DTYPES, by_position, on, pointer


def _wants_ranks(ext: ModuleType) -> bool:
    """The CPU's kernels rank a row's elements themselves, CUDA's are given the ranks."""
    return ext.__name__.endswith("_cuda")


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
    low_rank, high_rank = ranks(keep, drop_large, size)
    on(
        x,
        ext.magnitude_threshold,
        x=x.data_ptr(),
        base=pointer(base),
        column_norm=pointer(column_norm),
        dtype=DTYPES[x.dtype],
        groups=groups,
        size=size,
        low_rank=low_rank,
        high_rank=high_rank,
        low=out.low.data_ptr(),
        low_index=out.low_index.data_ptr(),
        high=out.high.data_ptr(),
        high_index=out.high_index.data_ptr(),
    )


def mask_rescale(
    ext: ModuleType, delta: torch.Tensor, mask: KernelMask, *, base: torch.Tensor | None, out: torch.Tensor
) -> None:
    lowered = lower(mask, delta, base, with_ranks=_wants_ranks(ext))
    kind, key, below, factor, _ = lowered
    by_position(
        delta,
        ext.mask_rescale,
        delta.data_ptr(),
        pointer(base),
        out.data_ptr(),
        DTYPES[delta.dtype],
        delta.numel(),
        delta.shape[-1] if delta.dim() else 1,
        kind,
        key.seed,
        key.stream,
        below,
        factor,
        lowered.addresses(),
    )


def merge_into(
    ext: ModuleType,
    base: torch.Tensor | None,
    tuned: Sequence[torch.Tensor],
    *,
    out: torch.Tensor,
    weights: Sequence[float],
    masks: Sequence[KernelMask | None],
    elect: str,
    lam: float,
    normalize: bool,
    start: int,
    out_dtype: torch.dtype,
) -> None:
    first = tuned[0]
    wanted = _wants_ranks(ext)
    lowered = [lower(mask, x, base, with_ranks=wanted) for mask, x in zip(masks, tuned, strict=True)]
    kinds, keys, below, factors, _ = zip(*lowered, strict=True)
    by_position(
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
        [key.seed for key in keys],
        [key.stream for key in keys],
        below,
        factors,
        [address for mask in lowered for address in mask.addresses()],
        list(weights),
        ELECTIONS[elect],
        lam,
        normalize,
    )
