"""A delta, masked and rescaled."""

from __future__ import annotations

import torch

from pydelta.core.check import compute_dtype
from pydelta.core.masks import DellaMask, KernelMask, MagnitudeThreshold, RandomMask, della_tables
from pydelta.core.random import u32
from pydelta.reference.magnitude_threshold import groups, magnitude


def masked(delta: torch.Tensor, mask: KernelMask | None, start: int = 0) -> torch.Tensor:
    """The delta, in fp32 (fp64), times what the mask multiplies each element by: a dropped one by 0.

    So NaN stays NaN whatever a mask says, and an infinity that is dropped becomes NaN, as in torch: no mask
    hides them.

    Args:
        start: the index that the first element has in the tensor the mask is of.
    """
    if mask is None:
        return delta
    if isinstance(mask, RandomMask):
        draws = u32(mask.key, start, delta.numel(), delta.device).view(delta.shape)
        return delta * torch.where(draws < mask.below, torch.tensor(mask.factor, dtype=delta.dtype), 0)
    if isinstance(mask, DellaMask):
        return _della(delta, mask, start)
    return delta * _between(delta, mask, start)


def _between(delta: torch.Tensor, cuts: MagnitudeThreshold, start: int) -> torch.Tensor:
    """Before the low cut and not before the high one; what is no number lies before none."""
    values = groups(magnitude(delta, None, cuts.column_norm), cuts.group)
    first = start if cuts.group == "tensor" else 0
    index = torch.arange(first, first + values.shape[1], device=delta.device)

    def before(m: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
        return (values > m[:, None]) | ((values == m[:, None]) & (index < i[:, None]))

    kept = before(cuts.low, cuts.low_index) & ~before(cuts.high, cuts.high_index)
    return kept.view(delta.shape)


def _della(delta: torch.Tensor, mask: DellaMask, start: int) -> torch.Tensor:
    rows = groups(delta, "row")
    below, factor = (table.to(delta.device) for table in della_tables(mask.keep, mask.epsilon, rows.shape[1]))
    order = rows.abs().argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(rows.shape[1], device=delta.device).expand_as(order)
    )
    draws = u32(mask.key, start, delta.numel(), delta.device).view(rows.shape)
    return (rows * torch.where(draws < below[rank], factor.to(rows.dtype)[rank], 0)).view(delta.shape)


def mask_rescale(delta: torch.Tensor, mask: KernelMask, *, base: torch.Tensor | None = None) -> torch.Tensor:
    """mask(delta - base), rounded to the delta's dtype once. Zeros are positive."""
    compute = compute_dtype(delta.dtype)
    value = delta.to(compute) if base is None else delta.to(compute) - base.to(compute)
    return (masked(value, mask) + 0.0).to(delta.dtype)
