"""Low-bit codes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType

import torch

from pydelta.core.codes import TRANSFORMS
from pydelta.core.quantized import Quantized, group_size, tables
from pydelta.core.random import Key
from pydelta.native.call import DTYPES, on


def _codes(op: str, q: Quantized, levels: torch.Tensor) -> dict[str, int]:
    """The arguments that say what codes are; those of a result do too, before it is written."""
    n = q.shape[-1]
    return {
        "codes": q.codes.data_ptr(),
        "scales": q.scales.data_ptr(),
        "rows": math.prod(q.shape[:-1]),
        "n": n,
        "bits": q.bits,
        "group": group_size(op, q.group, n),
        "levels": levels.data_ptr(),
    }


def quantize(ext: ModuleType, x: torch.Tensor, *, bits: int, group: str | int, out: Quantized) -> None:
    levels, thresholds = tables(bits, x.device)
    on(
        x,
        ext.quantize,
        x=x.data_ptr(),
        dtype=DTYPES[x.dtype],
        thresholds=thresholds.data_ptr(),
        **_codes("quantize", out, levels),
    )


def dequantize(ext: ModuleType, q: Quantized, *, out: torch.Tensor, dtype: torch.dtype) -> None:
    levels, _ = tables(q.bits, q.device)
    on(
        out,
        ext.dequantize,
        out=out.data_ptr(),
        out_dtype=DTYPES[dtype],
        **_codes("dequantize", q, levels),
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
    on(
        base,
        ext.superpose_codes,
        base=base.data_ptr(),
        tuned=[x.data_ptr() for x in tuned],
        dtype=DTYPES[base.dtype],
        seeds=[key.seed for key in keys],
        streams=[key.stream for key in keys],
        weights=list(weights),
        transform=TRANSFORMS[transform],
        thresholds=thresholds.data_ptr(),
        **_codes("superpose", out, levels),
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
    on(
        base,
        ext.retrieve_codes,
        base=base.data_ptr(),
        out=out.data_ptr(),
        dtype=DTYPES[base.dtype],
        out_dtype=DTYPES[out_dtype],
        seed=key.seed,
        key_stream=key.stream,
        lam=lam,
        transform=TRANSFORMS[transform],
        **_codes("retrieve", superposed, levels),
    )
