"""Structural pruning: whole input columns of a delta stay or go."""

from __future__ import annotations

import dataclasses

import torch

from pydelta import ops
from pydelta.core.masks import MagnitudeThreshold
from pydelta.core.random import Key
from pydelta.merging.method import Method, Values

_ROWS = 256  # summed at a time, in this order on any number of threads


@dataclasses.dataclass(frozen=True, eq=False)
class Columns:
    """The columns that stay, as a mask, and what they are multiplied by."""

    mask: MagnitudeThreshold
    factor: float = 1.0


def choose_columns(method: Method, values: Values, key: Key, delta: torch.Tensor) -> Columns:
    """The columns that a method keeps.

    A column's score is the L2 norm of its delta, times that of its inputs where ``column_norm`` has it; the
    method masks the vector of scores as it would mask a tensor.

    Args:
        delta: (rows, n) in fp32 or fp64, inputs along the last axis.
    """
    assert method.mask is not None
    flat = delta.reshape(-1, delta.shape[-1])
    total = torch.zeros(flat.shape[1], dtype=torch.float64, device=delta.device)
    for part in flat.split(_ROWS):
        total += part.double().square().sum(0)
    scores = total.sqrt()
    if values["column_norm"] is not None:
        scores *= values["column_norm"].to(scores)
    # A random mask must not look at the scores, not even at zeros.
    alive = torch.ones_like(scores) if method.random else scores
    mask = method.mask({**values, "group": "tensor"}, key)
    kept = alive if mask is None else ops.mask_rescale(alive, mask)
    factor = float(kept.max()) if method.random and bool((kept != 0).any()) else 1.0
    return Columns(_whole_columns(kept != 0, flat), factor)


def _whole_columns(chosen: torch.Tensor, rows: torch.Tensor) -> MagnitudeThreshold:
    """Every entry of a chosen column but zeros, which add nothing."""
    index = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    low = torch.zeros(len(rows), dtype=rows.dtype, device=rows.device)
    high = torch.full_like(low, torch.inf)
    return MagnitudeThreshold(low, index, high, index, "row", chosen.to(rows.dtype))
