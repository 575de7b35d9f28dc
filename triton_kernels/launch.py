"""From tensors to launches of the walk: shapes, tiles, grids."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy
import torch
import triton

from pydelta.core.check import default_block
from pydelta.core.interpreter import interpreted
from pydelta.core.quantized import Quantized, tables
from pydelta.core.random import Key
from pydelta.triton_kernels.philox import pack
from pydelta.triton_kernels.walk import walk

MAX_BLOCK = 32768
"""In fp32 half of a multiprocessor's registers: the largest tile that one program can hold."""


class Shape(NamedTuple):
    """A tensor seen from its input axis."""

    outer: int
    n: int
    inner: int


def split(x: torch.Tensor, dim: int) -> Shape:
    """The sizes before, at and after ``dim``."""
    return Shape(x.shape[:dim].numel(), x.shape[dim], x.shape[dim + 1 :].numel())


def flat(x: torch.Tensor) -> Shape:
    return Shape(1, x.numel(), 1)


def view(x: torch.Tensor, dim: int, transform: str) -> tuple[Shape, int, float]:
    """What ``transform`` makes of ``x``: the shape, the Hadamard block (0: none) and its scale."""
    if transform == "none":
        return flat(x), 0, 1.0
    if transform == "sign":
        return split(x, dim), 0, 1.0
    block = default_block(x.shape[dim])
    return split(x, dim), block, 1.0 / math.sqrt(block)


def check_block(op: str, block: int) -> None:
    if block > MAX_BLOCK:
        raise ValueError(f"[{op}] block must be at most {MAX_BLOCK} on triton, got {block}")


def tile_of(shape: Shape, block: int) -> tuple[Shape, int]:
    """The tile, a power of two each way with whole blocks in the middle, and its number of warps.

    Tiles along n start at multiples of 128, where a block of random signs starts. A thread holds 32 elements,
    or 64 under a Hadamard transform, whose exchanges between threads are the cost. A block of 32768 takes
    half of the registers; with a second such tile, superpose's sum or retrieve's fp32 base, some spill.
    """
    outer, n, inner = shape
    power = triton.next_power_of_2
    size, per_warp = (max(block, 2048), 2048) if block else (4096, 1024)
    if inner > 1:
        size = max(size, 4096)
    # Columns that divide n need no mask, but a few rows have to fill the tile too.
    fill = max(1, size // power(outer))
    cols = min(n & -n, size)
    if cols < max(fill, 128):
        cols = min(power(n), max(fill, 1024))
    width = min(power(inner), 32)
    cols = max(block, min(cols, size // width))
    width = min(width, max(1, 16384 // cols))
    rows = min(max(1, size // (cols * width)), power(outer))
    return Shape(rows, cols, width), max(1, rows * cols * width // per_warp)


def launch(
    shape: Shape,
    out: torch.Tensor,
    source: torch.Tensor | None = None,
    *,
    base: torch.Tensor | None = None,
    key: Key | None = None,
    table: torch.Tensor | None = None,
    coded: Quantized | None = None,
    aligned: bool = False,
    signed: bool = False,
    block: int = 0,
    scale: float = 1.0,
    lam: float = 1.0,
    inverse: bool = False,
) -> None:
    """One pass over ``shape``; ``block`` 0 means no Hadamard transform, ``coded`` stands for the source."""
    if out.numel() == 0:
        return
    tile, warps = tile_of(shape, block)
    tiles = [triton.cdiv(size, step) for size, step in zip(shape, tile, strict=True)]
    even = all(size % step == 0 for size, step in zip(shape, tile, strict=True))
    models = 0 if table is None else table.shape[0]
    scales = levels = row_bytes = group = None
    if coded is not None:
        source, scales = coded.codes, coded.scales
        levels, _ = tables(coded.bits, coded.device)
        row_bytes = coded.codes.shape[-1]
        group = None if coded.group in ("row", shape.n) else coded.group
    # Triton's interpreter computes with numpy, which would warn of inf - inf.
    with torch.cuda.device_of(out), numpy.errstate(all="ignore"):
        walk[(tiles[0] * tiles[1] * tiles[2],)](
            out, base, source, scales, levels, pack(key) if key else None, table, models, *shape,
            row_bytes, group, scale, lam, BITS=coded.bits if coded else 0, SIGNED=signed or key is not None,
            STAGES=block.bit_length() - 1, INVERSE=inverse, ALIGNED=aligned, EVEN=even,
            INTERPRETED=interpreted(), ROWS=tile.outer, COLS=tile.n, INNER=tile.inner, num_warps=warps,
            enable_fp_fusion=False,
        )  # fmt: skip
