"""AdamR's step in Triton."""
# ruff: noqa: N803 - compile-time constants are capitals, as in Triton's own kernels.

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from pydelta.triton_kernels.lists import (
    CHUNK,
    LANES,
    Tensors,
    halve,
    launching,
    place,
    pointer,
    sum_chunks,
    table_of,
)
from pydelta.triton_kernels.walk import narrow, widen


@triton.jit(do_not_specialize=["tensors", "one", "rest_one", "two", "rest_two", "root", "rate", "eps"])
def step_chunks(
    partial, chunks, addresses, numels, tensors, like, weight_like, moment_like, base_like, pull,
    one, rest_one, two, rest_two, root, rate, eps,
    L1: tl.constexpr, COPIES: tl.constexpr,
    ALIGNED: tl.constexpr, EVEN: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Lists: parameters, gradients, m, v, weights (masters, or the parameters again), bases."""
    tensor, start, left = place(chunks, numels, EVEN)
    p = pointer(addresses, 0, tensors, tensor, start, like, ALIGNED)
    g = pointer(addresses, 1, tensors, tensor, start, like, ALIGNED)
    first = pointer(addresses, 2, tensors, tensor, start, moment_like, ALIGNED)
    second = pointer(addresses, 3, tensors, tensor, start, moment_like, ALIGNED)
    weights = pointer(addresses, 4, tensors, tensor, start, weight_like, ALIGNED)
    if base_like is not None:
        base = pointer(addresses, 5, tensors, tensor, start, base_like, ALIGNED)
        strength = tl.load(pull).to(tl.float32)
    lanes = tl.zeros((LANES,), tl.float64)
    for i in range(0, tl.minimum(left, CHUNK), LANES):
        at = i + tl.arange(0, LANES)
        inside = at < left
        slope = widen(tl.load(g + at, mask=inside, other=0.0), INTERPRETED)
        m = tl.load(first + at, mask=inside, other=0.0) * one + slope * rest_one
        v = tl.load(second + at, mask=inside, other=0.0) * two + slope * slope * rest_two
        w = widen(tl.load(weights + at, mask=inside, other=0.0), INTERPRETED)
        if base_like is not None:
            tau = w - widen(tl.load(base + at, mask=inside, other=0.0), INTERPRETED)
            if L1:
                tau = tl.where(tau > 0, 1.0, tl.where(tau < 0, -1.0, 0.0))
            w = w - tau * strength
        w = w - tl.div_rn(m, tl.sqrt_rn(v) * root + eps) * rate
        wide = slope.to(tl.float64)
        lanes += wide * wide
        tl.store(first + at, m, mask=inside)
        tl.store(second + at, v, mask=inside)
        tl.store(weights + at, narrow(w, weights, INTERPRETED), mask=inside)
        if COPIES:
            tl.store(p + at, narrow(w, p, INTERPRETED), mask=inside)
    tl.store(partial + tl.program_id(0), halve(lanes))


def adamr_step_(
    params: Tensors,
    grads: Tensors,
    exp_avgs: Tensors,
    exp_avg_sqs: Tensors,
    bases: Sequence[torch.Tensor | None],
    masters: Tensors,
    pull: torch.Tensor | None,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    l1: bool,
    sums: torch.Tensor | None,
) -> None:
    if sums is None:  # counted here in any case
        sums = params[0].new_empty(len(params), dtype=torch.float64)
    one, two = betas
    root, rate = 1 / math.sqrt(1 - two**step), lr / (1 - one**step)
    origins = [] if pull is None else [base for base in bases if base is not None]
    weights = masters or params
    lists = [params, grads, exp_avgs, exp_avg_sqs, weights]
    table = table_of(*lists, *([origins] if origins else []))
    partial = sums.new_empty(table.count)
    if table.count:
        likes = params[0], weights[0], exp_avgs[0], origins[0] if origins else None
        with launching(sums):
            step_chunks[(table.count,)](
                partial, *table[:3], len(params), *likes, pull if origins else None,
                one, 1 - one, two, 1 - two, root, rate, eps,
                L1=l1, COPIES=bool(masters), **table.options,
            )  # fmt: skip
    sum_chunks(sums, partial, table)
