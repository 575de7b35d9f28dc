"""Several fine-tunes into one in Triton: one pass over any number of models."""
# ruff: noqa: N803 - compile-time constants are capitals, as in Triton's own kernels.

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy
import torch
import triton
import triton.language as tl

from pydelta.core.codes import ELECTIONS
from pydelta.core.interpreter import interpreted
from pydelta.core.masks import KernelMask
from pydelta.triton_kernels.masks import (
    COLUMNS,
    CUTS,
    DELLA,
    RANDOM,
    ROW_CUTS,
    describe,
    masked,
    number,
    table_of,
)
from pydelta.triton_kernels.walk import narrow, widen

BLOCK = 1024
WARPS = 4

_SUM, _UNWEIGHTED = tl.constexpr(ELECTIONS["sum"]), tl.constexpr(ELECTIONS["ties_unweighted"])


@triton.jit
def delta_of(
    k, origin, like, table, first, n, start, inside,
    HAS_RANDOM: tl.constexpr, HAS_DELLA: tl.constexpr, HAS_CUTS: tl.constexpr, HAS_ROW_CUTS: tl.constexpr,
    ALIGNED: tl.constexpr, ALIGNED_DRAWS: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Model k's masked delta, and its weight."""
    row = table + COLUMNS * k
    tuned = tl.load(row).to(like.dtype)
    if ALIGNED:
        tuned = tl.multiple_of(tuned, 16)
    at = first + tl.arange(0, origin.numel)
    delta = widen(tl.load(tuned + at, mask=inside), INTERPRETED) - origin
    delta = masked(
        delta, row, first, n, start, inside, HAS_RANDOM, HAS_DELLA, HAS_CUTS, HAS_ROW_CUTS, ALIGNED_DRAWS
    )
    return delta, number(row, 11)


@triton.jit(do_not_specialize=["models", "n", "start"])
def merge(
    out, base, like, table, models, numel, n, start, lam,
    HAS_RANDOM: tl.constexpr, HAS_DELLA: tl.constexpr, HAS_CUTS: tl.constexpr, HAS_ROW_CUTS: tl.constexpr,
    ALIGNED: tl.constexpr, ALIGNED_DRAWS: tl.constexpr, INTERPRETED: tl.constexpr,
    ELECT: tl.constexpr, NORMALIZE: tl.constexpr, ONTO_BASE: tl.constexpr,
    EVEN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """base + lam * sum_k w_k mask_k(tuned_k - base); an election goes over the models a second time.

    EVEN: the blocks cover the tensor exactly. ALIGNED: all addresses of models are multiples of 16.
    """
    first = tl.program_id(0).to(tl.int64) * BLOCK
    at = first + tl.arange(0, BLOCK)
    inside = None if EVEN else at < numel
    origin = tl.zeros((BLOCK,), tl.float32)
    if base is not None:
        origin = widen(tl.load(base + at, mask=inside), INTERPRETED)
    total = tl.zeros((BLOCK,), tl.float32)
    for k in range(models):
        delta, weight = delta_of(
            k, origin, like, table, first, n, start, inside,
            HAS_RANDOM, HAS_DELLA, HAS_CUTS, HAS_ROW_CUTS, ALIGNED, ALIGNED_DRAWS, INTERPRETED,
        )  # fmt: skip
        total += delta if ELECT == _UNWEIGHTED else delta * weight
    if ELECT != _SUM:
        minus = total < 0
        total, divisor = tl.where(total != total, total, 0.0), tl.zeros((BLOCK,), tl.float32)
        for k in range(models):
            delta, weight = delta_of(
                k, origin, like, table, first, n, start, inside,
                HAS_RANDOM, HAS_DELLA, HAS_CUTS, HAS_ROW_CUTS, ALIGNED, ALIGNED_DRAWS, INTERPRETED,
            )  # fmt: skip
            term = delta * weight
            sign = delta if ELECT == _UNWEIGHTED else term
            agrees = tl.where(minus, sign < 0, sign > 0)
            total += tl.where(agrees, term, 0.0)
            divisor += agrees.to(tl.float32) * weight
        if NORMALIZE:
            total = tl.div_rn(total, tl.where(tl.abs(divisor) < 1e-8, 1.0, divisor))
    total = total * lam
    total = origin + total if ONTO_BASE else total + 0.0
    tl.store(out + at, narrow(total, out, INTERPRETED), mask=inside)


def launch_merge(
    out: torch.Tensor,
    base: torch.Tensor | None,
    tuned: Sequence[torch.Tensor],
    masks: Sequence[KernelMask | None],
    weights: Sequence[float],
    *,
    start: int = 0,
    lam: float = 1.0,
    onto_base: bool = True,
    **options: Any,
) -> None:
    """One launch of ``merge``; ``options`` are its ELECT and NORMALIZE."""
    if out.numel() == 0:
        return
    models = [describe(*model) for model in zip(tuned, [base] * len(tuned), masks, weights, strict=True)]
    table = table_of(models, out.device)
    kinds = {model.mask.kind for model in models}
    numel, n = out.numel(), out.shape[-1] if out.dim() else 1
    # Triton's interpreter computes with numpy, which would warn of inf - inf.
    with torch.cuda.device_of(out), numpy.errstate(all="ignore"):
        merge[(triton.cdiv(numel, BLOCK),)](
            out, base, tuned[0], table, len(models), numel, n, start, lam,
            HAS_RANDOM=RANDOM.value in kinds, HAS_DELLA=DELLA.value in kinds,
            HAS_CUTS=CUTS.value in kinds, HAS_ROW_CUTS=ROW_CUTS.value in kinds,
            ALIGNED=all(x.data_ptr() % 16 == 0 for x in tuned), ALIGNED_DRAWS=start % 4 == 0,
            INTERPRETED=interpreted(), ONTO_BASE=onto_base, EVEN=numel % BLOCK == 0, BLOCK=BLOCK,
            num_warps=WARPS, enable_fp_fusion=False, **options,
        )  # fmt: skip


def merge_into(
    base: torch.Tensor | None,
    tuned: Sequence[torch.Tensor],
    *,
    out: torch.Tensor,
    weights: Sequence[float],
    masks: Sequence[KernelMask | None],
    elect: str,
    lam: float,
    normalize: bool,
    start: int,
    out_dtype: torch.dtype,
) -> None:
    options = {"ELECT": ELECTIONS[elect], "NORMALIZE": normalize}
    launch_merge(out, base, tuned, masks, weights, start=start, lam=lam, **options)
