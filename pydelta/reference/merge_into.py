"""Several fine-tunes into one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from pydelta.core.check import compute_dtype
from pydelta.core.masks import KernelMask
from pydelta.reference.mask_rescale import masked

LEAST_DIVISOR = 1e-8
"""A sum of agreeing weights below this in size divides nothing."""


def merge_into(
    base: torch.Tensor | None,
    tuned: Sequence[torch.Tensor],
    *,
    weights: Sequence[float] | None = None,
    masks: Sequence[KernelMask | None] | None = None,
    elect: str = "sum",
    lam: float = 1.0,
    normalize: bool = False,
    start: int = 0,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """base + lam * sum_k w_k mask_k(tuned_k - base); without a base, lam * sum_k w_k mask_k(tuned_k).

    Delta, mask, rescale, weight, sum, lambda, base: each is rounded to fp32 (fp64), the sums run in the
    models' order. TIES's election (arXiv 2306.01708): per element the sign of the sum is elected (plus for
    0), terms of the other sign are left out, and ``normalize`` divides by the weights of those that stay. A
    sum that is NaN elects no sign: the result is NaN.
    """
    compute = compute_dtype(tuned[0].dtype)
    weights = [1.0] * len(tuned) if weights is None else weights
    masks = [None] * len(tuned) if masks is None else masks
    origin = torch.zeros_like(tuned[0], dtype=compute) if base is None else base.to(compute)
    kept = [masked(theta.to(compute) - origin, mask, start) for theta, mask in zip(tuned, masks, strict=True)]
    terms = [delta * weight for delta, weight in zip(kept, weights, strict=True)]
    total = sum(terms, torch.zeros_like(origin))
    if elect == "sum":
        factor = lam / math.fsum(weights) if normalize else lam
        return (origin + total * factor).to(out_dtype or tuned[0].dtype)
    voted = total if elect == "ties" else sum(kept, torch.zeros_like(origin))
    minus = voted < 0
    agreeing = torch.where(voted.isnan(), voted, 0)
    divisor = torch.zeros_like(origin)
    for delta, term, weight in zip(kept, terms, weights, strict=True):
        sign = term if elect == "ties" else delta
        agrees = torch.where(minus, sign < 0, sign > 0)
        agreeing = agreeing + torch.where(agrees, term, 0)
        divisor = divisor + agrees * torch.tensor(weight, dtype=compute, device=origin.device)
    if normalize:
        agreeing = agreeing / torch.where(divisor.abs() < LEAST_DIVISOR, 1, divisor)
    return (origin + agreeing * lam).to(out_dtype or tuned[0].dtype)
