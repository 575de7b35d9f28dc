"""Low-bit codes in Triton: one kernel for the scales of groups, one for the bytes of codes."""
# ruff: noqa: N803, N806 - compile-time constants are capitals, as in Triton's own kernels.

from __future__ import annotations

import math
from typing import Any

import numpy
import torch
import triton
import triton.language as tl

from pydelta.core import quantized
from pydelta.core.interpreter import interpreted
from pydelta.core.levels import row_bytes
from pydelta.core.quantized import Quantized, group_size, tables
from pydelta.triton_kernels.walk import group_of, widen

LANES = tl.constexpr(quantized.LANES)
GROUPS = 16
"""Groups that one program goes through, 64 elements of each at a time."""
TILE = 4096
"""Elements that one program packs."""


@triton.jit
def fold(lanes):
    """Lane l takes lane l + 32, then l + 16, and so on."""
    for _ in tl.static_range(6):
        lanes = tl.sum(tl.reshape(lanes, (lanes.shape[0], 2, lanes.shape[1] // 2)), 1)
    return tl.reshape(lanes, (lanes.shape[0],))


@triton.jit
def indices(magnitude, rms, thresholds, BITS: tl.constexpr):
    """How many of the thresholds times rms each magnitude exceeds."""
    index = tl.zeros_like(magnitude).to(tl.int32)
    for depth in tl.static_range(BITS - 1):
        half = 1 << (BITS - 2 - depth)
        index += tl.where(magnitude > tl.load(thresholds + index + (half - 1)) * rms, half, 0)
    return index


@triton.jit
def scale_groups(
    scales, roots, x, levels, thresholds, groups, size,
    BITS: tl.constexpr, GROUPS: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """The root mean square of each group, and its scale."""
    group = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    lane, x = tl.arange(0, LANES)[None, :], x + (group * size)[:, None]
    there = (group < groups)[:, None]
    squares = tl.zeros((GROUPS, LANES), tl.float64)
    others = tl.zeros((GROUPS, LANES), tl.float64)
    for first in range(0, size, LANES):
        column = first + lane
        wide = widen(tl.load(x + column, mask=there & (column < size), other=0), INTERPRETED).to(tl.float64)
        squares += wide * wide
        if BITS == 1:
            others += tl.abs(wide)
    square = fold(squares)
    if BITS > 1:
        rms = tl.sqrt(square / size).to(tl.float32)
        tl.store(roots + group, rms, mask=group < groups)
        for first in range(0, size, LANES):
            column = first + lane
            value = widen(tl.load(x + column, mask=there & (column < size), other=0), INTERPRETED)
            index = indices(tl.abs(value), rms[:, None], thresholds, BITS)
            others += tl.abs(value).to(tl.float64) * tl.load(levels + index).to(tl.float64)
    scale = tl.where(square == 0, 0.0, square / fold(others)).to(tl.float32)
    tl.store(scales + group, scale, mask=group < groups)


@triton.jit(do_not_specialize=["group"])
def pack_codes(
    codes, roots, x, thresholds, rows, n, group, size,
    BITS: tl.constexpr, ROWS: tl.constexpr, BYTES: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """A tile of bytes: rows of ``size`` bytes, each byte of as many elements as fit."""
    EACH: tl.constexpr = 8 // BITS
    tiles = tl.cdiv(size, BYTES)
    first = (tl.program_id(0) % tiles).to(tl.int64) * BYTES
    row = ((tl.program_id(0) // tiles).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None, None]
    byte, place = tl.arange(0, BYTES)[None, :, None], tl.arange(0, EACH)[None, None, :]
    column = byte * EACH + place
    inside = (row < rows) & (column < n - first * EACH)
    value = widen(tl.load(x + row * n + first * EACH + column, mask=inside, other=0), INTERPRETED)
    code = (value.to(tl.uint32, bitcast=True) >> 31 << (BITS - 1)).to(tl.int32)
    if BITS > 1:
        root = tl.load(roots + group_of(row, first * EACH, column, n, group), mask=inside, other=0)
        code |= indices(tl.abs(value), root, thresholds, BITS)
    packed = tl.sum(code << place * BITS, 2)
    row, byte = tl.reshape(row, (ROWS, 1)), tl.reshape(byte, (1, BYTES))
    there = (row < rows) & (byte < size - first)
    tl.store(codes + row * size + first + byte, packed.to(tl.uint8), mask=there)


def quantize(x: torch.Tensor, *, bits: int, group: str | int, out: Quantized) -> None:
    if x.numel() == 0:
        return
    n, size = x.shape[-1], group_size("quantize", group, x.shape[-1])
    rows, groups = math.prod(x.shape[:-1]), out.scales.numel()
    levels, thresholds = tables(bits, x.device)
    roots = x.new_empty(groups if bits > 1 else 0, dtype=torch.float32)
    bytes_ = row_bytes(n, bits)
    columns = min(triton.next_power_of_2(bytes_), TILE * bits // 8)
    tile = min(TILE * bits // 8 // columns, triton.next_power_of_2(rows))
    some = min(GROUPS, triton.next_power_of_2(groups))
    options: dict[str, Any] = {"BITS": bits, "INTERPRETED": interpreted(), "enable_fp_fusion": False}
    # Triton's interpreter computes with numpy, which would warn of 0 / 0.
    with torch.cuda.device_of(x), numpy.errstate(all="ignore"):
        scale_groups[(triton.cdiv(groups, some),)](
            out.scales, roots, x, levels, thresholds, groups, size, GROUPS=some, num_warps=4, **options
        )
        pack_codes[(triton.cdiv(rows, tile) * triton.cdiv(bytes_, columns),)](
            out.codes, roots, x, thresholds, rows, n, None if size == n else size, bytes_,
            ROWS=tile, BYTES=columns, num_warps=4, **options,
        )  # fmt: skip
