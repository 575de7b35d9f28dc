"""VeRA in Triton: for few rows the matrices are made inside the kernels, else by torch's products.

x A^T is summed over pieces of the columns, whose sums are then added in their order; the product with B goes
onto the base layer's result, which is torch's.
"""
# ruff: noqa: N803 - compile-time constants are capitals, as in Triton's own kernels.

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
import triton.language as tl

from pydelta.core.check import compute_dtype
from pydelta.core.interpreter import interpreted
from pydelta.core.random import Key, matrix_draw
from pydelta.products import vera
from pydelta.triton_kernels.philox import pack, unpack
from pydelta.triton_kernels.vera_matrix import entries, packed, vera_matrix
from pydelta.triton_kernels.walk import narrow, widen

FEW_ROWS = 16
"""The rows that one tile holds, and the least that a product on tensor cores takes."""
ENTRIES, DEPTH, PIECE = 32, 64, 1024
"""A tile of a matrix is ENTRIES rows of DEPTH columns; a program sums over PIECE columns of A."""
WARPS = 4

_BACKEND = vera.Backend(vera_matrix)


@triton.jit
def product_with(tile, matrix, source, INTERPRETED: tl.constexpr):
    """tile matrix^T in fp32, the entries rounded to the dtype of ``source`` first."""
    rounded = narrow(matrix, source, INTERPRETED)
    # The interpreter's product of bf16 is wrong; in fp32 it has the same terms.
    if INTERPRETED:
        wide = widen(tile, INTERPRETED), widen(rounded, INTERPRETED)
        return tl.dot(wide[0], tl.trans(wide[1]), input_precision="ieee")
    elif source.dtype.element_ty == tl.float32:
        return tl.dot(tile, tl.trans(rounded), input_precision="tf32x3")
    else:
        return tl.dot(tile, tl.trans(rounded))


@triton.jit
def into_rank(
    partial, x, key, first, rows, n, rank, across,
    INTERPRETED: tl.constexpr, ROWS: tl.constexpr, ENTRIES: tl.constexpr, DEPTH: tl.constexpr,
    PIECE: tl.constexpr,
):  # fmt: skip
    """partial (pieces, rows, rank): x A^T over one piece of the columns."""
    seed, stream = unpack(key[0], key[1]), unpack(key[2], key[3])
    piece = (tl.program_id(0) // across).to(tl.int64)
    entry = (tl.program_id(0) % across) * ENTRIES + tl.arange(0, ENTRIES)
    row = tl.arange(0, ROWS)
    total = tl.zeros((ROWS, ENTRIES), tl.float32)
    for left in range(piece * PIECE, tl.minimum(piece * PIECE + PIECE, n), DEPTH):
        column = left + tl.arange(0, DEPTH)
        inside = (row < rows)[:, None] & (column < n)[None, :]
        tile = tl.load(x + row[:, None] * n + column[None, :], mask=inside, other=0.0)
        matrix = entries(seed, stream, unpack(first[0], first[1]) + left, entry, True, DEPTH)
        total += product_with(tile, matrix, x, INTERPRETED)
    place = partial + (piece * rows + row[:, None]) * rank + entry[None, :]
    tl.store(place, total, mask=(row < rows)[:, None] & (entry < rank)[None, :])


@triton.jit
def onto_outputs(
    y, inner, outer, key, first, rows, m, rank, step,
    INTERPRETED: tl.constexpr, ROWS: tl.constexpr, ENTRIES: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """y += outer * (inner B^T); ``step``: from one row's vector to the next, 0 where all rows share one."""
    seed, stream = unpack(key[0], key[1]), unpack(key[2], key[3])
    entry = tl.program_id(0).to(tl.int64) * ENTRIES + tl.arange(0, ENTRIES)
    row = tl.arange(0, ROWS)
    total = tl.zeros((ROWS, ENTRIES), tl.float32)
    for left in range(0, rank, DEPTH):
        column = left + tl.arange(0, DEPTH)
        inside = (row < rows)[:, None] & (column < rank)[None, :]
        tile = tl.load(inner + row[:, None] * rank + column[None, :], mask=inside, other=0.0)
        matrix = entries(seed, stream, unpack(first[0], first[1]) + left, entry, True, DEPTH)
        total += product_with(tile, matrix, inner, INTERPRETED)
    inside = (row < rows)[:, None] & (entry < m)[None, :]
    scale = tl.load(outer + row[:, None] * step + entry[None, :], mask=inside, other=0.0)
    place = y + row[:, None] * m + entry[None, :]
    value = tl.load(place, mask=inside, other=0.0)
    value = widen(value, INTERPRETED) + scale * total
    tl.store(place, narrow(value, y, INTERPRETED), mask=inside)


def vera_forward(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    d: torch.Tensor,
    b: torch.Tensor,
    key: Key,
    *,
    bias: torch.Tensor | None,
    adapter: torch.Tensor | None,
    cached: bool,
    keep: bool,
    out: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    few = 0 < out[0].numel() <= FEW_ROWS * b.shape[-1]
    if few and not cached and not keep:
        _few_rows(x, weight, d, b, key, bias, adapter, out)
    else:
        options: dict[str, Any] = {"bias": bias, "adapter": adapter, "cached": cached, "keep": keep}
        vera.forward(_BACKEND, x, weight, d, b, key, **options, out=out)


def _few_rows(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    d: torch.Tensor,
    b: torch.Tensor,
    key: Key,
    bias: torch.Tensor | None,
    adapter: torch.Tensor | None,
    out: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    m, n, rank, compute = b.shape[-1], x.shape[-1], d.shape[-1], compute_dtype(x.dtype)
    y, t = (part.view(-1, part.shape[-1]) for part in out[:2])
    tile = x.reshape(-1, n).contiguous()
    rows, index = len(tile), None if adapter is None else adapter.flatten()
    pieces, across = triton.cdiv(n, PIECE), triton.cdiv(rank, ENTRIES)
    partial = torch.empty((pieces, rows, rank), dtype=compute, device=x.device)
    sizes: dict[str, Any] = {"ROWS": FEW_ROWS, "ENTRIES": ENTRIES, "DEPTH": DEPTH}
    options: dict[str, Any] = {"INTERPRETED": interpreted(), **sizes, "num_warps": WARPS}
    with torch.cuda.device_of(x):
        into_rank[(pieces * across,)](
            partial, tile, pack(key), packed(matrix_draw("A", 0, 0)), rows, n, rank, across,
            PIECE=PIECE, **options,
        )  # fmt: skip
        t.copy_(partial.sum(0))
        inward, outward = d.to(compute) * vera.bound(n), b.to(compute) * vera.bound(rank)
        if index is not None:
            inward, outward = inward[index], outward[index]
        inner = (t * inward).to(x.dtype)
        vera.base_layer(vera.blas, tile, weight, bias, y)
        onto_outputs[(triton.cdiv(m, ENTRIES),)](
            y, inner, outward.contiguous(), pack(key), packed(matrix_draw("B", 0, 0)), rows, m, rank,
            0 if index is None else m, **options,
        )  # fmt: skip


vera_backward = functools.partial(vera.backward, _BACKEND)
vera_merge = functools.partial(vera.merge, _BACKEND)
