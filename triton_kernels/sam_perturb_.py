"""SAM's ascent step in Triton."""
# ruff: noqa: N803 - compile-time constants are capitals, as in Triton's own kernels.

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pydelta.triton_kernels.lists import CHUNK, LANES, Tensors, launching, place, pointer, table_of
from pydelta.triton_kernels.walk import narrow, widen


@triton.jit(do_not_specialize=["tensors", "eta"])
def perturb(
    chunks, addresses, numels, tensors, like, source_like, scale, eta,
    ADAPTIVE: tl.constexpr, KEEPS: tl.constexpr,
    ALIGNED: tl.constexpr, EVEN: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Lists: parameters, gradients, sources, backups."""
    tensor, start, left = place(chunks, numels, EVEN)
    p = pointer(addresses, 0, tensors, tensor, start, like, ALIGNED)
    g = pointer(addresses, 1, tensors, tensor, start, like, ALIGNED)
    source = pointer(addresses, 2, tensors, tensor, start, source_like, ALIGNED)
    if KEEPS:
        backup = pointer(addresses, 3, tensors, tensor, start, like, ALIGNED)
    by = tl.load(scale).to(tl.float32)
    for i in range(0, tl.minimum(left, CHUNK), LANES):
        at = i + tl.arange(0, LANES)
        inside = at < left
        w = widen(tl.load(source + at, mask=inside), INTERPRETED)
        e = widen(tl.load(g + at, mask=inside), INTERPRETED)
        if KEEPS:
            tl.store(backup + at, tl.load(p + at, mask=inside), mask=inside)
        if ADAPTIVE:
            t = tl.abs(w) + eta
            e = t * (t * e)
        w = tl.where(by != 0, w + e * by, w)
        tl.store(p + at, narrow(w, p, INTERPRETED), mask=inside)


def sam_perturb_(
    params: Tensors,
    grads: Tensors,
    scale: torch.Tensor,
    *,
    adaptive: bool,
    eta: float,
    masters: Tensors,
    backups: Tensors,
) -> None:
    sources = masters or params
    table = table_of(params, grads, sources, *([backups] if backups else []))
    if table.count:
        with launching(scale):
            perturb[(table.count,)](
                *table[:3], len(params), params[0], sources[0], scale, eta,
                ADAPTIVE=adaptive, KEEPS=bool(backups), **table.options,
            )  # fmt: skip
