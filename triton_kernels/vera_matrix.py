"""Parts of VeRA's random matrices in Triton."""
# ruff: noqa: N803 - compile-time constants are capitals, as in Triton's own kernels.

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pydelta.core.interpreter import interpreted
from pydelta.core.random import Key, matrix_draw
from pydelta.triton_kernels.philox import pack, philox4x32, unpack
from pydelta.triton_kernels.walk import narrow

ROWS, COLUMNS, WARPS = 4, 512, 4


@triton.jit
def centred(draw):
    """2 u - 1 in [-1, 1), exact in fp32: the upper 24 bits as a signed integer, times a power of two."""
    return ((draw >> 8).to(tl.int32) - 8388608).to(tl.float32) * (1.0 / 8388608)


@triton.jit
def entries(seed, stream, first, row, ALIGNED: tl.constexpr, COLUMNS: tl.constexpr):
    """(rows, COLUMNS) fp32: in the rows ``row`` the entries from draw first + 2**32 row on.

    ALIGNED: ``first`` is a multiple of 4, so that a block of the generator gives four entries.
    """
    start = first + (row.to(tl.int64) << 32)
    if ALIGNED:
        block = (start >> 2)[:, None] + tl.arange(0, COLUMNS // 4)[None, :]
        w0, w1, w2, w3 = philox4x32(seed, stream, block & 0x3FFFFFFFFFFFFFFF)
        joined = tl.join(tl.join(w0, w2), tl.join(w1, w3))
        return centred(tl.reshape(joined, (row.shape[0], COLUMNS)))
    else:
        index = start[:, None] + tl.arange(0, COLUMNS)[None, :]
        w0, w1, w2, w3 = philox4x32(seed, stream, (index >> 2) & 0x3FFFFFFFFFFFFFFF)
        low, high = tl.where((index & 1) == 0, w0, w1), tl.where((index & 1) == 0, w2, w3)
        return centred(tl.where((index & 2) == 0, low, high))


@triton.jit
def fill_matrix(
    out, key, first, rows, columns, across,
    ALIGNED: tl.constexpr, INTERPRETED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    seed, stream = unpack(key[0], key[1]), unpack(key[2], key[3])
    row = (tl.program_id(0) // across).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    left = (tl.program_id(0) % across).to(tl.int64) * COLUMNS
    value = entries(seed, stream, unpack(first[0], first[1]) + left, row, ALIGNED, COLUMNS)
    column = left + tl.arange(0, COLUMNS)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    place = out + row[:, None] * columns + column[None, :]
    tl.store(place, narrow(value, out, INTERPRETED), mask=inside)


def packed(first: int) -> tuple[int, int]:
    """A draw's number as two words, as keys are packed."""
    low, high, _, _ = pack(Key(first))
    return low, high


def vera_matrix(
    key: Key,
    which: str,
    shape: tuple[int, int],
    *,
    start: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
    out: torch.Tensor,
) -> None:
    if out.numel() == 0:
        return
    first, across = matrix_draw(which, *start), triton.cdiv(shape[1], COLUMNS)
    with torch.cuda.device_of(out):
        fill_matrix[(triton.cdiv(shape[0], ROWS) * across,)](
            out, pack(key), packed(first), *shape, across,
            ALIGNED=first % 4 == 0, INTERPRETED=interpreted(), ROWS=ROWS, COLUMNS=COLUMNS,
            num_warps=WARPS, enable_fp_fusion=False,
        )  # fmt: skip
