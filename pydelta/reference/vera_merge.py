"""A VeRA adapter merged into the weight that it adapts."""

from __future__ import annotations

import torch

from pydelta.core.check import compute_dtype
from pydelta.core.random import Key
from pydelta.reference.vera_linear import scaled_matrices


def vera_merge(weight: torch.Tensor, d: torch.Tensor, b: torch.Tensor, key: Key) -> torch.Tensor:
    """W + diag(b) B diag(d) A: arXiv 2310.11454, section 3.2."""
    compute, (m, n) = compute_dtype(weight.dtype), weight.shape
    a_matrix, b_matrix = scaled_matrices(key, len(d), n, m, weight.dtype, weight.device)
    delta = (b.to(compute)[:, None] * b_matrix) @ (d.to(compute)[:, None] * a_matrix)
    return (weight.to(compute) + delta).to(weight.dtype)
