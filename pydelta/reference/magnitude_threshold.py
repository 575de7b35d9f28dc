"""Exact order statistics of magnitudes."""

from __future__ import annotations

import math

import torch

from pydelta.core.check import compute_dtype
from pydelta.core.masks import MagnitudeThreshold, ranks


def magnitude(
    x: torch.Tensor, base: torch.Tensor | None = None, column_norm: torch.Tensor | None = None
) -> torch.Tensor:
    """|x - base| * column_norm in fp32 (fp64), each step rounded."""
    value = x.to(compute_dtype(x.dtype))
    if base is not None:
        value = value - base.to(value.dtype)
    return value.abs() if column_norm is None else value.abs() * column_norm.to(value.dtype)


def groups(x: torch.Tensor, group: str) -> torch.Tensor:
    """(groups, size): the whole tensor as one, or its rows along the last dimension."""
    rows = math.prod(x.shape[:-1]) if group == "row" else 1
    return x.reshape(rows, x.numel() // rows if rows else x.shape[-1])


def magnitude_threshold(
    x: torch.Tensor,
    *,
    keep: float,
    drop_large: float = 0.0,
    group: str = "tensor",
    base: torch.Tensor | None = None,
    column_norm: torch.Tensor | None = None,
) -> MagnitudeThreshold:
    """The cuts that leave the elements of ranks high .. low - 1, by a stable sort of each group.

    A cut at rank 0 is (inf, 0): nothing lies before it. At rank r > 0 it lies just behind the element of rank
    r - 1.
    """
    values = groups(magnitude(x, base, column_norm), group)
    low, high = ranks(keep, drop_large, values.shape[1])
    ordered, index = values.sort(dim=1, descending=True, stable=True)

    def cut(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        if rank == 0:
            return torch.full_like(values[:, :1], torch.inf)[:, 0], index.new_zeros(len(values))
        return ordered[:, rank - 1].clone(), index[:, rank - 1] + 1

    if values.shape[1] == 0:
        none = values.new_full((len(values),), torch.inf), index.new_zeros(len(values))
        return MagnitudeThreshold(*none, *none, group, column_norm)
    return MagnitudeThreshold(*cut(low), *cut(high), group, column_norm)
