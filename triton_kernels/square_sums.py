"""Sums of squares of lists of tensors in Triton."""
# ruff: noqa: N803 - compile-time constants are capitals, as in Triton's own kernels.

from __future__ import annotations

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
from pydelta.triton_kernels.walk import widen


@triton.jit(do_not_specialize=["tensors", "eta"])
def sum_squares(
    partial, chunks, addresses, numels, tensors, like, weight_like, eta,
    ALIGNED: tl.constexpr, EVEN: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    tensor, start, left = place(chunks, numels, EVEN)
    x = pointer(addresses, 0, tensors, tensor, start, like, ALIGNED)
    if weight_like is not None:
        weights = pointer(addresses, 1, tensors, tensor, start, weight_like, ALIGNED)
    lanes = tl.zeros((LANES,), tl.float64)
    for i in range(0, tl.minimum(left, CHUNK), LANES):
        at = i + tl.arange(0, LANES)
        v = widen(tl.load(x + at, mask=at < left, other=0.0), INTERPRETED)
        if weight_like is not None:
            w = widen(tl.load(weights + at, mask=at < left, other=0.0), INTERPRETED)
            v = (tl.abs(w) + eta) * v
        wide = v.to(tl.float64)
        lanes += wide * wide
    tl.store(partial + tl.program_id(0), halve(lanes))


def square_sums(xs: Tensors, *, weights: Tensors | None, eta: float, out: torch.Tensor) -> None:
    table = table_of(xs, *([weights] if weights else []))
    partial = out.new_empty(table.count)
    if table.count:
        with launching(out):
            sum_squares[(table.count,)](
                partial, *table[:3], len(xs), xs[0], weights[0] if weights else None, eta, **table.options
            )
    sum_chunks(out, partial, table)
