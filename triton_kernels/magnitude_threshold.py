"""Exact order statistics of magnitudes in Triton, without a host sync.

Groups that registers hold are selected from bit by bit; longer ones by radix, eight bits a pass.
"""
# ruff: noqa: N803 - compile-time constants are capitals, as in Triton's own kernels.

from __future__ import annotations

from typing import Any

import numpy
import torch
import triton
import triton.language as tl

from pydelta.core.interpreter import interpreted
from pydelta.core.masks import MagnitudeThreshold, ranks
from pydelta.triton_kernels.walk import widen

_Operands = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]

LONGEST = 8192
"""The longest group that one program holds in registers."""
TILE = 4096

BINS = tl.constexpr(256)
BLOCK = 1024
PART = 16 * BLOCK
"""Elements that one program counts."""
WARPS = 4

_NONE = -1
"""In place of a code: the cut at rank 0 has no element before it."""


@triton.jit
def codes(x, base, norm, origin, column, inside, INTERPRETED: tl.constexpr):
    """Magnitudes as integers in the same order. All NaN are one, the largest: as a stable sort has them."""
    magnitude = widen(tl.load(x + origin + column, mask=inside), INTERPRETED)
    if base is not None:
        magnitude -= widen(tl.load(base + origin + column, mask=inside), INTERPRETED)
    magnitude = tl.abs(magnitude)
    if norm is not None:
        magnitude *= tl.load(norm + column, mask=inside)
    bits = magnitude.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    return tl.where(bits > 0x7F800000, 0x7FC00000, bits)


@triton.jit
def cut_rows(values, indices, code, rank, row, groups):
    """The cuts behind the elements of a rank, counted from 1, in the rows of a tile of codes."""
    found = tl.zeros((code.shape[0],), tl.int32)
    for i in range(31):
        candidate = found | (1 << (30 - i))
        reached = tl.sum((code >= candidate[:, None]).to(tl.int32), 1)
        found = tl.where(reached >= rank, candidate, found)
    above = tl.sum((code > found[:, None]).to(tl.int32), 1)
    equal = (code == found[:, None]).to(tl.int32)
    last = (equal == 1) & (tl.cumsum(equal, 1) == (rank - above)[:, None])
    behind = tl.sum(tl.where(last, tl.arange(0, code.shape[1])[None, :] + 1, 0), 1)
    value = tl.where(rank > 0, found, 0x7F800000).to(tl.float32, bitcast=True)
    tl.store(values + row, value, mask=row < groups)
    tl.store(indices + row, tl.where(rank > 0, behind, 0).to(tl.int64), mask=row < groups)


@triton.jit(do_not_specialize=["low_rank", "high_rank"])
def select_rows(
    low, low_index, high, high_index, x, base, norm, groups, size, low_rank, high_rank,
    ROWS: tl.constexpr, COLS: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.broadcast_to(tl.arange(0, COLS)[None, :], (ROWS, COLS))
    inside = (row < groups)[:, None] & (column < size)
    code = codes(x, base, norm, (row * size)[:, None], column, inside, INTERPRETED)
    code = tl.where(inside, code, -1)
    cut_rows(low, low_index, code, low_rank, row, groups)
    cut_rows(high, high_index, code, high_rank, row, groups)


@triton.jit
def digits_of(code, prefix, inside, SHIFT: tl.constexpr):
    """How often each digit follows a prefix. What has another prefix is counted as 0 and taken off again."""
    counted = inside & ((code >> SHIFT >> 8) == prefix)
    found = tl.histogram(tl.where(counted, (code >> SHIFT) & 0xFF, 0), BINS)
    others = tl.sum((counted == 0).to(tl.int32), 0)
    return found - tl.where(tl.arange(0, BINS) == 0, others, 0)


@triton.jit
def count_digits(
    histograms, prefixes, x, base, norm, size, parts,
    SHIFT: tl.constexpr, PART: tl.constexpr, BLOCK: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """For both cuts of a group, the histogram of the digits that follow what is known of the cut's code."""
    group, part = (tl.program_id(0) // parts).to(tl.int64), (tl.program_id(0) % parts).to(tl.int64)
    low, high = tl.load(prefixes + 2 * group), tl.load(prefixes + 2 * group + 1)
    of_low, of_high = tl.zeros((BINS,), tl.int32), tl.zeros((BINS,), tl.int32)
    for first in range(part * PART, tl.minimum(part * PART + PART, size), BLOCK):
        column = first + tl.arange(0, BLOCK)
        inside = column < size
        code = codes(x, base, norm, group * size, column, inside, INTERPRETED)
        of_low += digits_of(code, low, inside, SHIFT)
        of_high += digits_of(code, high, inside, SHIFT)
    bins = histograms + 2 * group * BINS + tl.arange(0, BINS)
    tl.atomic_add(bins, of_low.to(tl.int64), mask=of_low > 0)
    tl.atomic_add(bins + BINS, of_high.to(tl.int64), mask=of_high > 0)


@triton.jit
def count_ties(
    ties, found, x, base, norm, size, parts,
    PART: tl.constexpr, BLOCK: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """How many elements of a part have the code that was found, for both cuts."""
    group, part = (tl.program_id(0) // parts).to(tl.int64), (tl.program_id(0) % parts).to(tl.int64)
    low, high = tl.load(found + 2 * group), tl.load(found + 2 * group + 1)
    of_low, of_high = tl.zeros((BLOCK,), tl.int64), tl.zeros((BLOCK,), tl.int64)
    for first in range(part * PART, tl.minimum(part * PART + PART, size), BLOCK):
        column = first + tl.arange(0, BLOCK)
        inside = column < size
        code = codes(x, base, norm, group * size, column, inside, INTERPRETED)
        of_low += (inside & (code == low)).to(tl.int64)
        of_high += (inside & (code == high)).to(tl.int64)
    tl.store(ties + 2 * group * parts + part, tl.sum(of_low, 0))
    tl.store(ties + (2 * group + 1) * parts + part, tl.sum(of_high, 0))


@triton.jit
def find_tie(
    index, found, chosen, ranks, x, base, norm, size,
    PART: tl.constexpr, BLOCK: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """The place behind the element of a rank, counted from 1, among the equal ones of the chosen part."""
    cut = tl.program_id(0).to(tl.int64)
    wanted, part, rank = tl.load(found + cut), tl.load(chosen + cut), tl.load(ranks + cut)
    behind = tl.zeros((), tl.int64)
    for first in range(part * PART, tl.minimum(part * PART + PART, size), BLOCK):
        column = first + tl.arange(0, BLOCK)
        inside = column < size
        code = codes(x, base, norm, cut // 2 * size, column, inside, INTERPRETED)
        equal = (inside & (code == wanted)).to(tl.int32)
        here = (equal == 1) & (tl.cumsum(equal, 0).to(tl.int64) == rank)
        offset = tl.sum(tl.where(here, tl.arange(0, BLOCK) + 1, 0), 0)
        behind += tl.where(offset > 0, first + offset, 0)
        rank -= tl.sum(equal, 0)
    tl.store(index + cut, behind)


def _reach(counts: torch.Tensor, rank: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the running sum of the last dimension reaches a rank, and what is left of the rank there."""
    reached = counts.cumsum(-1)
    place = (reached < rank[..., None]).sum(-1)
    before = reached.gather(-1, (place - 1).clamp_min(0)[..., None])[..., 0]
    return place, rank - torch.where(place > 0, before, 0)


def _shifts(x: torch.Tensor, exact: bool) -> tuple[int, ...]:
    """The digits that may differ: the fp32 of a 16-bit number ends in zeros."""
    if exact and x.dtype is torch.bfloat16:
        return 24, 16
    return (24, 16, 8) if exact and x.dtype is torch.float16 else (24, 16, 8, 0)


def magnitude_threshold(
    x: torch.Tensor,
    *,
    keep: float,
    drop_large: float,
    group: str,
    base: torch.Tensor | None,
    column_norm: torch.Tensor | None,
    out: MagnitudeThreshold,
) -> None:
    if out.low.numel() == 0:
        return
    size = x.numel() // out.low.numel()
    (_select_rows if size <= LONGEST else _select_long)(
        out, (x, base, column_norm), size, *ranks(keep, drop_large, size)
    )


def _select_rows(out: MagnitudeThreshold, operands: _Operands, size: int, low: int, high: int) -> None:
    groups, columns = out.low.numel(), triton.next_power_of_2(max(size, 1))
    rows = min(max(1, TILE // columns), triton.next_power_of_2(groups))
    cuts = out.low, out.low_index, out.high, out.high_index
    with torch.cuda.device_of(out.low), numpy.errstate(all="ignore"):
        select_rows[(triton.cdiv(groups, rows),)](
            *cuts, *operands, groups, size, low, high, ROWS=rows, COLS=columns, INTERPRETED=interpreted(),
            num_warps=max(1, rows * columns // 512), enable_fp_fusion=False,
        )  # fmt: skip


def _select_long(out: MagnitudeThreshold, operands: _Operands, size: int, low: int, high: int) -> None:
    """A level at a time: kernels count, small tensor operations choose."""
    x, base, column_norm = operands
    groups, parts = out.low.numel(), triton.cdiv(size, PART)
    rank = x.new_empty((groups, 2), dtype=torch.int64)
    rank[:, 0], rank[:, 1] = low, high
    prefix, index = torch.where(rank > 0, 0, _NONE), torch.zeros_like(rank)
    options: dict[str, Any] = {"PART": PART, "BLOCK": BLOCK, "INTERPRETED": interpreted()}
    options |= {"num_warps": WARPS, "enable_fp_fusion": False}
    shifts = _shifts(x, base is None and column_norm is None)
    # Triton's interpreter computes with numpy, which would warn of inf - inf.
    with torch.cuda.device_of(x), numpy.errstate(all="ignore"):
        for shift in shifts:
            counts = torch.zeros((groups, 2, BINS.value), dtype=torch.int64, device=x.device)
            count_digits[(groups * parts,)](counts, prefix, *operands, size, parts, SHIFT=shift, **options)
            place, rank = _reach(counts.flip(-1), rank)
            prefix = torch.where(prefix == _NONE, _NONE, prefix * BINS.value + (BINS.value - 1 - place))
        code = torch.where(prefix == _NONE, _NONE, prefix << shifts[-1])
        ties = torch.empty((groups, 2, parts), dtype=torch.int64, device=x.device)
        count_ties[(groups * parts,)](ties, code, *operands, size, parts, **options)
        part, rank = _reach(ties, rank)
        find_tie[(groups * 2,)](index, code, part, rank, *operands, size, **options)
    value = torch.where(code == _NONE, torch.inf, code.to(torch.int32).view(torch.float32))
    for i, (magnitude, place) in enumerate(((out.low, out.low_index), (out.high, out.high_index))):
        magnitude.copy_(value[:, i])
        place.copy_(index[:, i])
