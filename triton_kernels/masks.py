"""Masks in Triton: what they leave of deltas, and the table that tells a kernel of its models."""
# ruff: noqa: N803 - compile-time constants are capitals, as in Triton's own kernels.

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from pydelta.core.codes import MASKS
from pydelta.core.kernel_masks import LoweredMask, lower
from pydelta.core.masks import KernelMask
from pydelta.core.random import Key
from pydelta.triton_kernels.philox import pack, philox4x32, unpack

_NONE, RANDOM, DELLA, CUTS, ROW_CUTS = (tl.constexpr(code) for code in MASKS.values())

FILL = 16
"""Models per launch of ``fill_models``: their arguments stay below the 4 KiB that a launch may carry."""

COLUMNS = tl.constexpr(12)
"""A row of the table: address, kind, seed, stream, bound, five tables, bits of the factor and the weight."""


class Described(NamedTuple):
    """A model's row, and the mask whose tables it points to."""

    mask: LoweredMask
    integers: tuple[int, ...]
    numbers: tuple[float, float]


def describe(x: torch.Tensor, base: torch.Tensor | None, mask: KernelMask | None, weight: float) -> Described:
    lowered = lower(mask, x, base, with_ranks=True)
    kind, key, below, factor, _ = lowered
    integers = (x.data_ptr(), kind, key.seed, key.stream, below, *lowered.addresses())
    return Described(lowered, integers, (factor, weight))


@triton.jit
def fill_models(table, integers, numbers):
    """Rows as ``describe`` makes them; integers come two by two, packed as keys are."""
    for k in tl.static_range(len(integers)):
        row = table + COLUMNS * k
        for j in tl.static_range(len(integers[k])):
            pair = integers[k][j]
            tl.store(row + 2 * j, unpack(pair[0], pair[1]))
            tl.store(row + 2 * j + 1, unpack(pair[2], pair[3]))
        for j in tl.static_range(2):
            bits = tl.cast(numbers[k][j], tl.float32).to(tl.int32, bitcast=True)
            tl.store(row + COLUMNS - 2 + j, bits.to(tl.int64))


def table_of(models: Sequence[Described], device: torch.device) -> torch.Tensor:
    """The rows on the device, written by a kernel: a copy would make the host wait."""
    table = torch.empty((len(models), COLUMNS.value), dtype=torch.int64, device=device)
    with torch.cuda.device_of(table):
        for i in range(0, len(models), FILL):
            some = models[i : i + FILL]
            integers = tuple(
                tuple(
                    pack(Key(*pair)) for pair in zip(model.integers[::2], model.integers[1::2], strict=True)
                )
                for model in some
            )
            numbers = tuple(model.numbers for model in some)
            fill_models[(1,)](table[i : i + FILL], integers, numbers, num_warps=1, enable_fp_fusion=False)
    return table


@triton.jit
def draw(seed, stream, first, ALIGNED: tl.constexpr, COUNT: tl.constexpr):
    """(COUNT,) uint32: draws first .. first + COUNT - 1. ALIGNED: ``first`` is a multiple of 4."""
    if ALIGNED:
        w0, w1, w2, w3 = philox4x32(seed, stream, first // 4 + tl.arange(0, COUNT // 4))
        return tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), (COUNT,))
    else:
        index = first + tl.arange(0, COUNT)
        w0, w1, w2, w3 = philox4x32(seed, stream, index >> 2)
        low, high = tl.where((index & 1) == 0, w0, w1), tl.where((index & 1) == 0, w2, w3)
        return tl.where((index & 2) == 0, low, high)


@triton.jit
def number(row, column: tl.constexpr):
    """A float that the table holds as bits."""
    return tl.load(row + column).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def before(magnitude, index, row, which: tl.constexpr, group, inside):
    """Which elements lie before a cut: of larger magnitude, or of the same and with a lower index."""
    magnitudes = tl.load(row + which).to(tl.pointer_type(tl.float32))
    indices = tl.load(row + which + 1).to(tl.pointer_type(tl.int64))
    cut = tl.load(magnitudes + group, mask=inside)
    return (magnitude > cut) | ((magnitude == cut) & (index < tl.load(indices + group, mask=inside)))


@triton.jit
def between(delta, index, row, group, inside, norm):
    """What lies before the low cut and not before the high one; ``norm``: factors of magnitudes, or None."""
    magnitude = tl.abs(delta)
    if norm is not None:
        magnitude = magnitude * norm
    kept = before(magnitude, index, row, 5, group, inside)
    kept = kept & (before(magnitude, index, row, 7, group, inside) == 0)
    return delta * tl.where(kept, 1.0, 0.0)


@triton.jit
def drawn(delta, row, start, ALIGNED: tl.constexpr):
    if tl.load(row + 1) == RANDOM:
        draws = draw(tl.load(row + 2), tl.load(row + 3), start, ALIGNED, delta.numel)
        delta = delta * tl.where(draws.to(tl.int64) < tl.load(row + 4), number(row, 10), 0.0)
    return delta


@triton.jit
def by_rank(delta, row, at, start, inside, ALIGNED: tl.constexpr):
    if tl.load(row + 1) == DELLA:
        draws = draw(tl.load(row + 2), tl.load(row + 3), start, ALIGNED, delta.numel)
        bounds = tl.load(row + 5).to(tl.pointer_type(tl.int64))
        factors = tl.load(row + 6).to(tl.pointer_type(tl.float32))
        rank = tl.load(tl.load(row + 7).to(tl.pointer_type(tl.int32)) + at, mask=inside)
        kept = draws.to(tl.int64) < tl.load(bounds + rank, mask=inside)
        delta = delta * tl.where(kept, tl.load(factors + rank, mask=inside), 0.0)
    return delta


@triton.jit
def cut(delta, row, index, inside):
    if tl.load(row + 1) == CUTS:
        delta = between(delta, index, row, tl.zeros_like(index), inside, None)
    return delta


@triton.jit
def cut_rows(delta, row, at, n, inside):
    if tl.load(row + 1) == ROW_CUTS:
        group = at // n
        column = at - group * n
        norms = tl.load(row + 9)
        norm = tl.full(delta.shape, 1.0, tl.float32)
        if norms != 0:
            norm = tl.load(norms.to(tl.pointer_type(tl.float32)) + column, mask=inside)
        delta = between(delta, column, row, group, inside, norm)
    return delta


@triton.jit
def masked(
    delta, row, first, n, start, inside,
    HAS_RANDOM: tl.constexpr, HAS_DELLA: tl.constexpr, HAS_CUTS: tl.constexpr, HAS_ROW_CUTS: tl.constexpr,
    ALIGNED: tl.constexpr,
):  # fmt: skip
    """Deltas times their factors, dropped ones times 0, so that no mask hides NaN and infinities.

    ``HAS_``: whether any model's mask is of that kind.
    """
    at = first + tl.arange(0, delta.numel)
    if HAS_RANDOM:
        delta = drawn(delta, row, start + first, ALIGNED)
    if HAS_DELLA:
        delta = by_rank(delta, row, at, start + first, inside, ALIGNED)
    if HAS_CUTS:
        delta = cut(delta, row, start + at, inside)
    if HAS_ROW_CUTS:
        delta = cut_rows(delta, row, at, n, inside)
    return delta
