"""Low-bit codes."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch

from pydelta.core.codes import TRANSFORMS
from pydelta.core.quantized import Quantized, group_size, tables
from pydelta.core.random import Key
from pydelta.native.call import DTYPES, by_position, rows_of


def quantize(ext: ModuleType, x: torch.Tensor, *, bits: int, group: str | int, out: Quantized) -> None:
    levels, thresholds = tables(bits, x.device)
    by_position(
        x,
        ext.quantize,
        x.data_ptr(),
        out.codes.data_ptr(),
        out.scales.data_ptr(),
        DTYPES[x.dtype],
        *rows_of(x),
        bits,
        group_size("quantize", group, x.shape[-1]),
        levels.data_ptr(),
        thresholds.data_ptr(),
    )


def dequantize(ext: ModuleType, q: Quantized, *, out: torch.Tensor, dtype: torch.dtype) -> None:
    levels, _ = tables(q.bits, q.device)
    by_position(
        out,
        ext.dequantize,
        q.codes.data_ptr(),
        q.scales.data_ptr(),
        out.data_ptr(),
        DTYPES[dtype],
        *rows_of(out),
        q.bits,
        group_size("dequantize", q.group, q.shape[-1]),
        levels.data_ptr(),
    )


def superpose_codes(
    ext: ModuleType,
    base: torch.Tensor,
    tuned: Sequence[torch.Tensor],
    keys: Sequence[Key],
    *,
    out: Quantized,
    weights: Sequence[float],
    transform: str,
    bits: int,
    group: str | int,
) -> None:
    """The codes of a superposition along the last dimension, which itself is nowhere in memory whole."""
    levels, thresholds = tables(bits, base.device)
    by_position(
        base,
        ext.superpose_codes,
        base.data_ptr(),
        [x.data_ptr() for x in tuned],
        out.codes.data_ptr(),
        out.scales.data_ptr(),
        DTYPES[base.dtype],
        *rows_of(base),
        [key.seed for key in keys],
        [key.stream for key in keys],
        list(weights),
        TRANSFORMS[transform],
        bits,
        group_size("superpose", group, base.shape[-1]),
        levels.data_ptr(),
        thresholds.data_ptr(),
    )


def retrieve_codes(
    ext: ModuleType,
    base: torch.Tensor,
    superposed: Quantized,
    key: Key,
    *,
    out: torch.Tensor,
    lam: float,
    transform: str,
    out_dtype: torch.dtype,
) -> None:
    """A model from the codes of a superposition along the last dimension."""
    levels, _ = tables(superposed.bits, base.device)
    by_position(
        base,
        ext.retrieve_codes,
        base.data_ptr(),
        superposed.codes.data_ptr(),
        superposed.scales.data_ptr(),
        out.data_ptr(),
        DTYPES[base.dtype],
        DTYPES[out_dtype],
        *rows_of(base),
        key.seed,
        key.stream,
        lam,
        TRANSFORMS[transform],
        superposed.bits,
        group_size("retrieve", superposed.group, base.shape[-1]),
        levels.data_ptr(),
    )
