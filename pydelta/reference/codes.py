"""Superpositions kept as low-bit codes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pydelta.core.check import compute_dtype
from pydelta.core.quantized import Quantized
from pydelta.core.random import Key
from pydelta.reference.quantize import dequantize, quantize
from pydelta.reference.retrieve import retrieve
from pydelta.reference.superpose import superpose


def superpose_codes(
    base: torch.Tensor,
    tuned: Sequence[torch.Tensor],
    keys: Sequence[Key],
    *,
    weights: Sequence[float],
    transform: str,
    bits: int,
    group: str | int,
) -> Quantized:
    """The codes of S = sum_k w_k T_k(theta_k - theta_0), along the last dimension."""
    whole = superpose(base, tuned, keys, weights=weights, transform=transform)
    return quantize(whole, bits=bits, group=group)


def retrieve_codes(
    base: torch.Tensor,
    superposed: Quantized,
    key: Key,
    *,
    lam: float,
    transform: str,
    out_dtype: torch.dtype,
) -> torch.Tensor:
    """theta_0 + lam T^-1(what the codes stand for)."""
    values = dequantize(superposed, dtype=torch.float32).to(compute_dtype(base.dtype))
    return retrieve(base, values, key, lam=lam, transform=transform, out_dtype=out_dtype)
