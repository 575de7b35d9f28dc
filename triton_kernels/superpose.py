"""Sum of randomly transformed deltas in Triton: one pass over any number of models."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from pydelta.core.random import Key
from pydelta.triton_kernels.launch import launch, view
from pydelta.triton_kernels.philox import pack, unpack

FILL = 32
"""Models per launch of ``fill``: their arguments stay well below the 4 KiB that a launch may carry."""


@triton.jit
def fill(table, tuned, keys, weights):
    """Rows of (address, seed, stream, bits of the weight), one per model, as ``walk`` reads them."""
    for k in tl.static_range(len(tuned)):
        seed, stream = unpack(keys[k][0], keys[k][1]), unpack(keys[k][2], keys[k][3])
        weight = tl.cast(weights[k], tl.float32).to(tl.int32, bitcast=True)
        tl.store(table + 4 * k, tuned[k].to(tl.int64))
        tl.store(table + 4 * k + 1, seed)
        tl.store(table + 4 * k + 2, stream)
        tl.store(table + 4 * k + 3, weight.to(tl.int64))


def models_table(
    tuned: Sequence[torch.Tensor], keys: Sequence[Key], weights: Sequence[float]
) -> torch.Tensor:
    """What ``walk`` has to know of each model, on the device.

    With arguments for each model ``walk`` would be compiled for every number of models, its body unrolled as
    often. A table copied from the host would make the host wait, and a CUDA graph could not hold it. A small
    kernel writes this one from arguments passed by value.
    """
    options = {"num_warps": 1, "enable_fp_fusion": False}
    table = torch.empty((len(tuned), 4), dtype=torch.int64, device=tuned[0].device)
    with torch.cuda.device_of(table):
        for i in range(0, len(tuned), FILL):
            some = slice(i, i + FILL)
            packed = tuple(pack(key) for key in keys[some])
            fill[(1,)](table[some], tuple(tuned[some]), packed, tuple(weights[some]), **options)
    return table


def superpose(
    base: torch.Tensor,
    tuned: Sequence[torch.Tensor],
    keys: Sequence[Key],
    *,
    out: torch.Tensor,
    weights: Sequence[float],
    transform: str,
    dim: int,
    out_dtype: torch.dtype,
) -> None:
    if out.numel() == 0:
        return
    shape, block, scale = view(base, dim, transform)
    table = models_table(tuned, keys, weights)
    aligned = all(x.data_ptr() % 16 == 0 for x in tuned)
    signed = transform != "none"
    launch(shape, out, base=base, table=table, aligned=aligned, signed=signed, block=block, scale=scale)
