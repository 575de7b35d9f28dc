"""One model out of a superposition."""

from __future__ import annotations

import torch

from pydelta.core.check import compute_dtype
from pydelta.core.random import Key
from pydelta.reference.superpose import apply_transform


def retrieve(
    base: torch.Tensor,
    superposed: torch.Tensor,
    key: Key,
    *,
    lam: float = 1.0,
    transform: str = "sign",
    dim: int = -1,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """theta_k = theta_0 + lam T_k^-1(S) (RanDeS, arXiv 2505.11204).

    Product and sum are rounded one by one.
    """
    compute = compute_dtype(base.dtype)
    delta = apply_transform(superposed.to(compute), key, transform, dim, inverse=True)
    return (base.to(compute) + delta * lam).to(base.dtype if out_dtype is None else out_dtype)
