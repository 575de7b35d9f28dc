"""The way back from SAM's ascent step in Triton."""
# ruff: noqa: N803 - compile-time constants are capitals, as in Triton's own kernels.

from __future__ import annotations

import triton
import triton.language as tl

from pydelta.triton_kernels.lists import CHUNK, LANES, Tensors, launching, place, pointer, table_of
from pydelta.triton_kernels.walk import narrow, widen


@triton.jit(do_not_specialize=["tensors"])
def restore(
    chunks, addresses, numels, tensors, like, source_like,
    ALIGNED: tl.constexpr, EVEN: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    tensor, start, left = place(chunks, numels, EVEN)
    p = pointer(addresses, 0, tensors, tensor, start, like, ALIGNED)
    source = pointer(addresses, 1, tensors, tensor, start, source_like, ALIGNED)
    for i in range(0, tl.minimum(left, CHUNK), LANES):
        at = i + tl.arange(0, LANES)
        w = widen(tl.load(source + at, mask=at < left), INTERPRETED)
        tl.store(p + at, narrow(w, p, INTERPRETED), mask=at < left)


def sam_restore_(params: Tensors, sources: Tensors) -> None:
    table = table_of(params, sources)
    if table.count:
        with launching(params[0]):
            restore[(table.count,)](*table[:3], len(params), params[0], sources[0], **table.options)
