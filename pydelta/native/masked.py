"""Masks, cuts, merges."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch

from pydelta.core.codes import ELECTIONS
from pydelta.core.kernel_masks import LoweredMask, lower
from pydelta.core.masks import KernelMask, MagnitudeThreshold, ranks
from pydelta.native.call import DTYPES, on, pointer


def _lower(
    ext: ModuleType, mask: KernelMask | None, x: torch.Tensor, base: torch.Tensor | None
) -> LoweredMask:
    """The CPU's kernels rank a row's elements themselves, CUDA's are given the ranks."""
    return lower(mask, x, base, with_ranks=ext.__name__.endswith("_cuda"))


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
    lowered = _lower(ext, mask, delta, base)
    on(
        delta,
        ext.mask_rescale,
        delta=delta.data_ptr(),
        base=pointer(base),
        out=out.data_ptr(),
        dtype=DTYPES[delta.dtype],
        numel=delta.numel(),
        n=delta.shape[-1] if delta.dim() else 1,
        kind=lowered.kind,
        seed=lowered.key.seed,
        key_stream=lowered.key.stream,
        below=lowered.below,
        factor=lowered.factor,
        tables=lowered.addresses(),
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
    lowered = [_lower(ext, mask, x, base) for mask, x in zip(masks, tuned, strict=True)]
    on(
        first,
        ext.merge_into,
        base=pointer(base),
        tuned=[x.data_ptr() for x in tuned],
        out=out.data_ptr(),
        dtype=DTYPES[first.dtype],
        out_dtype=DTYPES[out_dtype],
        numel=first.numel(),
        n=first.shape[-1] if first.dim() else 1,
        start=start,
        kinds=[mask.kind for mask in lowered],
        seeds=[mask.key.seed for mask in lowered],
        streams=[mask.key.stream for mask in lowered],
        below=[mask.below for mask in lowered],
        factors=[mask.factor for mask in lowered],
        tables=[address for mask in lowered for address in mask.addresses()],
        weights=list(weights),
        election=ELECTIONS[elect],
        lam=lam,
        normalize=normalize,
    )
