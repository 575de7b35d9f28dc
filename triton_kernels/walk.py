"""The one walk under every op: load -> delta -> weight -> flip -> H -> flip -> sum -> lambda, base -> emit.

A tensor is (outer, n, inner) with the input axis in the middle. One program holds a tile of ROWS x COLS x
INNER elements in registers, with whole Hadamard blocks along COLS; it reads each input once and writes once.
"""
# ruff: noqa: N803, N806 - compile-time constants are capitals, as in Triton's own kernels.

from __future__ import annotations

import triton
import triton.language as tl

from pydelta.core.random import OUTER_SIGNS
from pydelta.triton_kernels.philox import sign_mask, unpack

OUTER_BLOCK = tl.constexpr(OUTER_SIGNS // 128)


@triton.jit
def widen(x, INTERPRETED: tl.constexpr):
    """To fp32. Triton's interpreter gets a subnormal bf16 wrong; it is the upper half of the fp32."""
    if INTERPRETED and x.dtype == tl.bfloat16:
        return (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        return x.to(tl.float32)


@triton.jit
def narrow(y, out, INTERPRETED: tl.constexpr):
    """To the dtype of ``out``, to nearest even. Triton's interpreter would truncate to bf16."""
    if INTERPRETED and out.dtype.element_ty == tl.bfloat16:
        bits = y.to(tl.uint32, bitcast=True)
        bits = tl.where(y == y, bits + 0x7FFF + (bits >> 16 & 1), 0x7FC00000)
        return (bits >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        return y.to(out.dtype.element_ty)


@triton.jit
def butterfly(x, H: tl.constexpr):
    """One stage of the Hadamard transform: a + b and a - b of the elements at distance H."""
    PAIRS: tl.constexpr = x.numel // (2 * H)
    a, b = tl.split(tl.permute(tl.reshape(x, (PAIRS, 2, H)), (0, 2, 1)))
    return tl.reshape(tl.permute(tl.join(a + b, a - b), (0, 2, 1)), x.shape)


@triton.jit
def flip(x, seed, stream, block, ROWS: tl.constexpr, COLS: tl.constexpr, INNER: tl.constexpr):
    """The tile with the signs from 128 ``block`` on along COLS, through the sign bit: exact."""
    mask = sign_mask(seed, stream, block, COLS)[None, :, None]
    mask = tl.reshape(tl.broadcast_to(mask, (ROWS, COLS, INNER)), x.shape)
    return (x.to(tl.uint32, bitcast=True) ^ mask).to(tl.float32, bitcast=True)


@triton.jit
def transform(
    x, seed, stream, block, scale,
    SIGNED: tl.constexpr, STAGES: tl.constexpr, INVERSE: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """Signs, a Hadamard transform of 2**STAGES elements (none: STAGES = -1), or D H D' with both."""
    if SIGNED:
        x = flip(x, seed, stream, block + (OUTER_BLOCK if INVERSE and STAGES >= 0 else 0), ROWS, COLS, INNER)
    if STAGES >= 0:
        for stage in tl.static_range(STAGES):
            x = butterfly(x, INNER << stage)
        x = x * scale
        if SIGNED:
            x = flip(x, seed, stream, block + (0 if INVERSE else OUTER_BLOCK), ROWS, COLS, INNER)
    return x


@triton.jit
def group_of(row, first, column, n, group):
    """The groups of the columns first + column of rows of n; no ``group``: a row is one."""
    if group is None:
        return row + tl.zeros_like(column)
    else:  # per element a division of 32 bits, if the group's size has as many
        before = first // group
        rest = (first - before * group).to(group.dtype)
        return row * (n // group) + before + (rest + column) // group


@triton.jit
def expand(
    codes, scales, levels, first_row, first_column, row, column, n, row_bytes, group, inside,
    BITS: tl.constexpr,
):  # fmt: skip
    """What codes stand for: scale times level, the sign through the sign bit. Tiles start at whole bytes."""
    row = first_row + row
    byte = first_column * BITS // 8 + column * BITS // 8
    code = tl.load(codes + row * row_bytes + byte, mask=inside).to(tl.uint32)
    code = code >> (column * BITS % 8).to(tl.uint32)
    value = tl.load(scales + group_of(row, first_column, column, n, group), mask=inside)
    if BITS > 1:
        value = tl.load(levels + (code & ((1 << (BITS - 1)) - 1))) * value
    minus = code >> (BITS - 1) << 31
    return (value.to(tl.uint32, bitcast=True) ^ minus).to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["models", "group"])
def walk(
    out, base, source, scales, levels, key, table, models, outer, n, inner, row_bytes, group, scale, lam,
    BITS: tl.constexpr, SIGNED: tl.constexpr, STAGES: tl.constexpr, INVERSE: tl.constexpr,
    ALIGNED: tl.constexpr, EVEN: tl.constexpr, INTERPRETED: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """sum_k w_k T_k(t_k - base) with a ``table``, base + lam T(source) with a ``base``, else T(source).

    With ``scales`` the source is packed codes of BITS bits, with a scale for each row or ``group``.

    EVEN: the tiles cover the tensor exactly. ALIGNED: all addresses in the table are multiples of 16.
    """
    tile = tl.program_id(0)
    inner_tiles, column_tiles = tl.cdiv(inner, INNER), tl.cdiv(n, COLS)
    first_inner = (tile % inner_tiles).to(tl.int64) * INNER
    first_column = (tile // inner_tiles % column_tiles).to(tl.int64) * COLS
    first_row = (tile // inner_tiles // column_tiles).to(tl.int64) * ROWS
    start = (first_row * n + first_column) * inner + first_inner
    block = first_column // 128

    at = tl.arange(0, ROWS * COLS * INNER)
    row, column, i = at // (COLS * INNER), at // INNER % COLS, at % INNER
    if ROWS > 1 or INNER > 1:
        at = (row.to(tl.int64) * n + column) * inner + i
    if EVEN:
        inside = None
    else:
        # What masked lanes hold does not matter: n ends with a block, so they never meet the others.
        inside = (row < outer - first_row) & (column < n - first_column) & (i < inner - first_inner)

    if table is not None:
        origin = widen(tl.load(base + start + at, mask=inside), INTERPRETED)
        y = tl.zeros_like(origin)
        for k in range(models):
            tuned = tl.load(table + 4 * k).to(base.dtype)
            if ALIGNED:
                tuned = tl.multiple_of(tuned, 16)
            seed, stream = tl.load(table + 4 * k + 1), tl.load(table + 4 * k + 2)
            weight = tl.load(table + 4 * k + 3).to(tl.int32).to(tl.float32, bitcast=True)
            delta = (widen(tl.load(tuned + start + at, mask=inside), INTERPRETED) - origin) * weight
            y += transform(delta, seed, stream, block, scale, SIGNED, STAGES, INVERSE, ROWS, COLS, INNER)
    else:
        if SIGNED:
            seed, stream = unpack(key[0], key[1]), unpack(key[2], key[3])
        else:
            seed, stream = 0, 0
        if scales is not None:
            x = expand(
                source, scales, levels, first_row, first_column, row, column, n, row_bytes, group, inside,
                BITS,
            )  # fmt: skip
        else:
            x = widen(tl.load(source + start + at, mask=inside), INTERPRETED)
        y = transform(x, seed, stream, block, scale, SIGNED, STAGES, INVERSE, ROWS, COLS, INNER)
        if base is not None:
            y = widen(tl.load(base + start + at, mask=inside), INTERPRETED) + y * lam
    tl.store(out + start + at, narrow(y, out, INTERPRETED), mask=inside)
