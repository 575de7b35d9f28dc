"""Sums of squares of a list of tensors, in a fixed order."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pydelta.core.check import compute_dtype
from pydelta.core.lists import CHUNK, LANES, halve


def _lane_sum(values: torch.Tensor) -> torch.Tensor:
    """(..., n) -> (...): entry j goes to lane j mod LANES, lanes add up in order, then they are halved."""
    n = values.shape[-1]
    lanes = values.new_zeros(*values.shape[:-1], -(-n // LANES) * LANES)
    lanes[..., :n] = values
    total = values.new_zeros(*values.shape[:-1], LANES)
    for step in lanes.unflatten(-1, (-1, LANES)).unbind(-2) if n else ():
        total = total + step
    return halve(total)


def square_sum(values: torch.Tensor) -> torch.Tensor:
    """The sum of the squares of one tensor: its chunks' sums, summed in lanes as their elements are."""
    wide = values.flatten().double()
    wide = wide * wide
    return _lane_sum(torch.stack([_lane_sum(chunk) for chunk in wide.split(CHUNK)]))


def square_sums(
    xs: Sequence[torch.Tensor], *, weights: Sequence[torch.Tensor] | None = None, eta: float = 0.0
) -> torch.Tensor:
    """sum x^2, or with weights sum ((|w| + eta) x)^2, of each tensor: (n,) fp64."""
    sums = []
    for i, x in enumerate(xs):
        x = x.to(compute_dtype(x.dtype))
        if weights is not None:
            x = (weights[i].to(x.dtype).abs() + eta) * x
        sums.append(square_sum(x))
    return torch.stack(sums)
