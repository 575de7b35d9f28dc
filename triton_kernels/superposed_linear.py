"""Linear layers of mixed batches in Triton: the product with low-bit codes; torch's BLAS does the others."""
# ruff: noqa: N803, N806 - compile-time constants are capitals, as in Triton's own kernels.

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from pydelta.core.check import default_block
from pydelta.core.interpreter import interpreted
from pydelta.core.levels import row_bytes
from pydelta.core.quantized import Quantized, group_size, tables
from pydelta.core.random import Key
from pydelta.products.superposed import add_product, base_product, turned
from pydelta.triton_kernels.rotate import rotate
from pydelta.triton_kernels.sign_flip import sign_flip
from pydelta.triton_kernels.walk import narrow, widen


@triton.jit
def expand(codes, levels, BITS: tl.constexpr, OUT: tl.constexpr, COLS: tl.constexpr):
    """(OUT, COLS) signed levels from (OUT, COLS * BITS / 8) bytes, in registers."""
    EACH: tl.constexpr = 8 // BITS
    spread = codes.to(tl.int32)[:, :, None] >> (tl.arange(0, EACH) * BITS)[None, None, :]
    code = tl.reshape(spread, (OUT, COLS)) & ((1 << BITS) - 1)
    if BITS == 1:
        return (1 - 2 * code).to(tl.float32)
    else:
        level = tl.load(levels + (code & ((1 << (BITS - 1)) - 1)))
        return tl.where(code >> (BITS - 1) != 0, -level, level)


@triton.jit
def code_product(
    out, x, codes, scales, levels, model, lams, rows, m, n, row_size, group,
    BITS: tl.constexpr, GROUPS: tl.constexpr, EXACT: tl.constexpr, INTERPRETED: tl.constexpr,
    ROWS: tl.constexpr, OUT: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """out += lam_k x q^T for a tile of outputs.

    GROUPS: the scales are of groups of columns, else of rows. EXACT: the levels are exact in x's 16-bit
    dtype; else 32-bit factors are split into three of the tensor cores' own.
    """
    o = tl.program_id(0).to(tl.int64) * OUT + tl.arange(0, OUT)
    r = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    SIZE: tl.constexpr = COLS * BITS // 8
    total = tl.zeros((ROWS, OUT), tl.float32)
    for first in range(0, n, COLS):
        j = first + tl.arange(0, COLS)
        at = first * BITS // 8 + tl.arange(0, SIZE)
        inside = (o < m)[:, None] & (at < row_size)[None, :]
        packed = tl.load(codes + o[:, None] * row_size + at[None, :], mask=inside, other=0)
        values = expand(packed, levels, BITS, OUT, COLS)
        if GROUPS:
            inside = (o < m)[:, None] & (j < n)[None, :]
            place = o[:, None] * (n // group) + (j // group)[None, :]
            values *= tl.load(scales + place, mask=inside, other=0.0)
        inside = (r < rows)[:, None] & (j < n)[None, :]
        activations = tl.load(x + r[:, None] * n + j[None, :], mask=inside, other=0.0)
        if EXACT and not INTERPRETED:
            total += tl.dot(activations, tl.trans(values.to(x.dtype.element_ty)))
        else:
            wide = widen(activations, INTERPRETED)
            total += tl.dot(wide, tl.trans(values), input_precision="tf32x3")
    if not GROUPS:
        total *= tl.load(scales + o, mask=o < m, other=0.0)[None, :]
    lam = tl.load(lams + tl.load(model + r, mask=r < rows, other=0))
    inside = (r < rows)[:, None] & (o < m)[None, :]
    place = out + r[:, None] * m + o[None, :]
    base = widen(tl.load(place, mask=inside, other=0.0), INTERPRETED)
    tl.store(place, narrow(base + total * lam[:, None], out, INTERPRETED), mask=inside)


def superposed_linear(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    superposed: torch.Tensor | Quantized,
    keys: Sequence[Key],
    model: torch.Tensor,
    *,
    out: torch.Tensor,
    lams: Sequence[float],
    transform: str,
    bias: torch.Tensor | None,
) -> None:
    base_product(x, weight, bias, out)
    if out.numel() == 0 or x.numel() == 0:
        return

    def turn(rows: torch.Tensor, to: torch.Tensor, key: Key) -> None:
        if transform == "sign":
            sign_flip(rows, key, out=to, dim=1)
        else:
            rotate(rows, key, out=to, block=default_block(x.shape[1]), inverse=False)

    z = turned(x, keys, model, transform, turn)
    if not isinstance(superposed, Quantized):
        return add_product(z, superposed, model, lams, out)
    (rows, n), m, bits = x.shape, out.shape[1], superposed.bits
    size = group_size("superposed_linear", superposed.group, n)
    outputs = 64 if interpreted() else 32
    # Levels take registers beside the codes, and scales of groups more of them.
    columns = 32 if size != n else 128 if bits == 1 else 64
    grid = (triton.cdiv(m, outputs), triton.cdiv(rows, 16))
    with torch.cuda.device_of(x):
        code_product[grid](
            out, z, superposed.codes, superposed.scales, tables(bits, x.device)[0], model.to(x.device),
            torch.tensor(lams, dtype=torch.float32, device=x.device), rows, m, n, row_bytes(n, bits), size,
            BITS=bits, GROUPS=size != n, EXACT=bits == 1 and x.dtype is not torch.float32 and size == n,
            INTERPRETED=interpreted(), ROWS=16, OUT=outputs, COLS=columns, num_warps=4,
        )  # fmt: skip
