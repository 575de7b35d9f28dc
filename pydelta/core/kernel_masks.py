"""Masks in the numbers and tables that every backend's kernels read."""

from __future__ import annotations

from typing import NamedTuple

import torch

from pydelta.core.check import compute_dtype
from pydelta.core.codes import MASKS
from pydelta.core.masks import DellaMask, KernelMask, RandomMask, della_tables, ranks_in_rows
from pydelta.core.random import Key

TABLES = 5
_NO_KEY = Key(0)
_NO_TABLES = (None,) * TABLES


class LoweredMask(NamedTuple):
    """A mask's kind, one of ``MASKS``, and what kernels read of it. csrc/core/mask.h numbers the tables."""

    kind: int
    key: Key = _NO_KEY
    below: int = 0
    factor: float = 1.0
    tables: tuple[torch.Tensor | None, ...] = _NO_TABLES

    def addresses(self) -> list[int]:
        """Where the tables lie, 0 for those that are absent."""
        if self.tables is _NO_TABLES:
            return [0] * TABLES
        return [0 if table is None else table.data_ptr() for table in self.tables]


def lower(
    mask: KernelMask | None, x: torch.Tensor, base: torch.Tensor | None, *, with_ranks: bool
) -> LoweredMask:
    """The mask of x - base. with_ranks: for kernels that do not rank a row's elements themselves."""
    if mask is None:
        return LoweredMask(MASKS["none"])
    if isinstance(mask, RandomMask):
        return LoweredMask(MASKS["random"], mask.key, mask.below, mask.factor)
    compute = compute_dtype(x.dtype)
    if isinstance(mask, DellaMask):
        below, factor = della_tables(mask.keep, mask.epsilon, x.shape[-1] if x.dim() else 1)
        ranks = ranks_in_rows(x, base) if with_ranks else None
        tables = below.to(x.device), factor.to(x.device, compute), ranks, None, None
        return LoweredMask(MASKS["della"], mask.key, tables=tables)
    norm = None if mask.column_norm is None else mask.column_norm.to(compute).contiguous()
    cuts = (part.contiguous() for part in (mask.low, mask.low_index, mask.high, mask.high_index))
    return LoweredMask(MASKS[f"{mask.group}_cuts"], tables=(*cuts, norm))
