"""Unbiased low-bit codes."""

from __future__ import annotations

import math

import torch

from pydelta.core.levels import row_bytes
from pydelta.core.quantized import LANES, Quantized, group_size, tables


def _sum(values: torch.Tensor) -> torch.Tensor:
    """Sums of fp64 values along the last dimension: element j goes to lane j mod 64, lanes add up in order,
    then lane l takes lane l + 32, then l + 16, and so on."""
    rows, n = values.shape
    steps = -(-n // LANES)
    lanes = values.new_zeros(rows, steps * LANES)
    lanes[:, :n] = values
    total = values.new_zeros(rows, LANES)
    for step in lanes.view(rows, steps, LANES).unbind(1):
        total = total + step
    while total.shape[1] > 1:
        half = total.shape[1] // 2
        total = total[:, :half] + total[:, half:]
    return total[:, 0]


def quantize(x: torch.Tensor, *, bits: int, group: str | int = "row") -> Quantized:
    """Lloyd-Max codes of x over its root mean square, and the scale a = ||x||^2 / <|x|, levels>.

    Sums run in fp64. An element at a threshold takes the smaller level.
    """
    *rows, n = x.shape
    size = group_size("quantize", group, n)
    levels, thresholds = tables(bits, x.device)
    values = x.to(torch.float32).reshape(x.numel() // size if size else 0, size)
    wide = values.double()
    square = _sum(wide * wide)
    rms = (square / max(size, 1)).sqrt().to(torch.float32)
    magnitude = values.abs()
    index = torch.zeros_like(values, dtype=torch.int64)
    for threshold in thresholds:
        index += magnitude > (threshold * rms)[:, None]
    projection = _sum(wide.abs() * levels[index].double())
    scale = torch.where(square == 0, 0.0, square / projection).to(torch.float32)
    code = index | (torch.signbit(values).to(torch.int64) << (bits - 1))
    codes = _pack(code.view(math.prod(rows), n), bits)
    return Quantized(
        codes.view(*rows, row_bytes(n, bits)),
        scale.view(*rows, n // size if size else 0),
        bits,
        group,
        tuple(x.shape),
        x.dtype,
    )


def _pack(code: torch.Tensor, bits: int) -> torch.Tensor:
    """(rows, n) codes as (rows, bytes), the first code in the lowest bits."""
    each = 8 // bits
    size = row_bytes(code.shape[1], bits)
    padded = torch.nn.functional.pad(code, (0, each * size - code.shape[1])).view(len(code), size, each)
    shifts = torch.arange(0, 8, bits, device=code.device)
    return (padded << shifts).sum(-1).to(torch.uint8)


def unpack(q: Quantized) -> torch.Tensor:
    """The codes, (rows, n) int64."""
    *rows, n = q.shape
    shifts = torch.arange(0, 8, q.bits, device=q.device)
    codes = (q.codes.to(torch.int64)[..., None] >> shifts) & ((1 << q.bits) - 1)
    return codes.view(math.prod(rows), codes.shape[-2] * len(shifts))[:, :n]


def dequantize(q: Quantized, *, dtype: torch.dtype | None = None) -> torch.Tensor:
    """scale * level with the code's sign, computed in fp32, rounded once."""
    code = unpack(q)
    levels, _ = tables(q.bits, q.device)
    sign_bit = 1 << (q.bits - 1)
    magnitude = levels[code & (sign_bit - 1)]
    size = group_size("dequantize", q.group, q.shape[-1])
    scale = q.scales.view(len(code), q.scales.shape[-1]).repeat_interleave(size, dim=1)
    value = magnitude * scale
    return torch.where(code >= sign_bit, -value, value).view(q.shape).to(dtype or q.dtype)
