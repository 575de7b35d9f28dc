"""Sum of randomly transformed deltas."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pydelta.core.check import compute_dtype
from pydelta.core.random import Key
from pydelta.reference.rotate import rotate
from pydelta.reference.sign_flip import sign_flip


def apply_transform(
    x: torch.Tensor, key: Key, transform: str, dim: int, inverse: bool = False
) -> torch.Tensor:
    """T x or T^-1 x along the input axis ``dim``; the block of "hadamard" is the default one."""
    if transform == "sign":
        return sign_flip(x, key, dim=dim)
    if transform == "hadamard":
        return rotate(x.movedim(dim, -1), key, inverse=inverse).movedim(-1, dim)
    return x


def superpose(
    base: torch.Tensor,
    tuned: Sequence[torch.Tensor],
    keys: Sequence[Key],
    *,
    weights: Sequence[float] | None = None,
    transform: str = "sign",
    dim: int = -1,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """S = sum_k w_k T_k(theta_k - theta_0), the sum in the models' order (RanDeS, arXiv 2505.11204).

    Delta, weight, transform and sum are rounded to fp32 (fp64) one by one.
    """
    compute = compute_dtype(base.dtype)
    weights = [1.0] * len(tuned) if weights is None else weights
    total = torch.zeros_like(base, dtype=compute)
    for theta, key, weight in zip(tuned, keys, weights, strict=True):
        delta = (theta.to(compute) - base.to(compute)) * weight
        total = total + apply_transform(delta, key, transform, dim)
    return total.to(compute if out_dtype is None else out_dtype)
