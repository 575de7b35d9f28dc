"""From tensors to the pointers that the compiled extensions take, for cpu and cuda alike.

Both extensions have the same functions. The last argument says where to run: a thread count on the
CPU, a stream on a GPU.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Sequence
from types import ModuleType

import torch

from pydelta._check import compute_dtype, default_block
from pydelta._rows import add_expanded, add_product, base_product, turned
from pydelta.masks import DellaMask, MagnitudeThreshold, RandomMask, Ready, della_tables, ranks, ranks_in_rows
from pydelta.quantized import Quantized, group_size, tables
from pydelta.random import Key

# csrc/core/types.h holds the same codes.
_DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}
# csrc/core/transform.h holds the same codes.
_TRANSFORMS = {"none": 0, "sign": 1, "hadamard": 2}
# csrc/core/mask.h holds the same codes.
_NONE, _RANDOM, _DELLA, _TENSOR, _ROW = range(5)
_ELECTIONS = {"sum": 0, "ties": 1, "ties_unweighted": 2}


def extension(backend: str) -> ModuleType:
    return importlib.import_module(f"pydelta._{backend}")


def _on(x: torch.Tensor, run: Callable[..., None], *args: object) -> None:
    """Calls ``run`` with ``x``'s device current."""
    if x.is_cuda:
        with torch.cuda.device(x.device):
            run(*args, torch.cuda.current_stream(x.device).cuda_stream)
    else:
        run(*args, torch.get_num_threads())


def _split(x: torch.Tensor, dim: int) -> tuple[int, int, int]:
    """The sizes before, at and after ``dim``."""
    outer = inner = 1
    for size in x.shape[:dim]:
        outer *= size
    for size in x.shape[dim + 1 :]:
        inner *= size
    return outer, x.shape[dim], inner


def hadamard(ext: ModuleType, x: torch.Tensor, *, out: torch.Tensor, block: int, scale: float) -> None:
    _on(x, ext.hadamard, x.data_ptr(), out.data_ptr(), _DTYPES[x.dtype], x.numel(), block, scale)


def sign_flip(ext: ModuleType, x: torch.Tensor, key: Key, *, out: torch.Tensor, dim: int) -> None:
    pointers = x.data_ptr(), out.data_ptr(), _DTYPES[x.dtype]
    _on(x, ext.sign_flip, *pointers, *_split(x, dim), key.seed, key.stream)


def rotate(
    ext: ModuleType, x: torch.Tensor, key: Key, *, out: torch.Tensor, block: int, inverse: bool
) -> None:
    n = x.shape[-1]
    pointers = x.data_ptr(), out.data_ptr(), _DTYPES[x.dtype]
    _on(x, ext.rotate, *pointers, x.numel() // max(n, 1), n, block, inverse, key.seed, key.stream)


def superpose(
    ext: ModuleType,
    base: torch.Tensor,
    tuned: Sequence[torch.Tensor],
    keys: Sequence[Key],
    *,
    out: torch.Tensor,
    weights: Sequence[float],
    transform: str,
    dim: int,
    out_dtype: torch.dtype,
) -> None:
    _on(
        base,
        ext.superpose,
        base.data_ptr(),
        [x.data_ptr() for x in tuned],
        out.data_ptr(),
        _DTYPES[base.dtype],
        _DTYPES[out_dtype],
        *_split(base, dim),
        [key.seed for key in keys],
        [key.stream for key in keys],
        list(weights),
        _TRANSFORMS[transform],
    )


def retrieve(
    ext: ModuleType,
    base: torch.Tensor,
    superposed: torch.Tensor,
    key: Key,
    *,
    out: torch.Tensor,
    lam: float,
    transform: str,
    dim: int,
    out_dtype: torch.dtype,
) -> None:
    _on(
        base,
        ext.retrieve,
        base.data_ptr(),
        superposed.data_ptr(),
        out.data_ptr(),
        _DTYPES[base.dtype],
        _DTYPES[superposed.dtype],
        _DTYPES[out_dtype],
        *_split(base, dim),
        key.seed,
        key.stream,
        lam,
        _TRANSFORMS[transform],
    )


_Packed = tuple[int, int, int, int, float, list[int]]


def _pointer(x: torch.Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def _packed(
    ext: ModuleType,
    mask: Ready | None,
    x: torch.Tensor,
    base: torch.Tensor | None,
    alive: list[torch.Tensor],
) -> _Packed:
    """A mask's kind, seed, stream, bound, factor and five tables; tensors made for it go to ``alive``.

    The CPU's kernels rank a row's elements themselves, CUDA's are given the ranks.
    """
    if mask is None:
        return _NONE, 0, 0, 0, 1.0, [0] * 5
    if isinstance(mask, RandomMask):
        return _RANDOM, mask.key.seed, mask.key.stream, mask.below, mask.factor, [0] * 5
    tables: tuple[torch.Tensor | None, ...]
    if isinstance(mask, DellaMask):
        kind, key = _DELLA, mask.key
        below, factor = della_tables(mask.keep, mask.epsilon, x.shape[-1] if x.dim() else 1)
        below, factor = below.to(x.device), factor.to(x.device, compute_dtype(x.dtype))
        given = ranks_in_rows(x, base) if ext.__name__.endswith("_cuda") else None
        tables = below, factor, given, None, None
    else:
        kind, key = _TENSOR if mask.group == "tensor" else _ROW, Key(0)
        norm = mask.column_norm
        if norm is not None:
            norm = norm.to(compute_dtype(x.dtype)).contiguous()
        cuts = (mask.low, mask.low_index, mask.high, mask.high_index)
        tables = *(part.contiguous() for part in cuts), norm
    alive += [table for table in tables if table is not None]
    return kind, key.seed, key.stream, 0, 1.0, [_pointer(table) for table in tables]


def magnitude_threshold(
    ext: ModuleType,
    x: torch.Tensor,
    *,
    keep: float,
    drop_large: float,
    group: str,
    base: torch.Tensor | None,
    column_norm: torch.Tensor | None,
    out: MagnitudeThreshold,
) -> None:
    groups = out.low.numel()
    size = x.numel() // max(groups, 1)
    cuts = (out.low, out.low_index, out.high, out.high_index)
    _on(
        x,
        ext.magnitude_threshold,
        x.data_ptr(),
        _pointer(base),
        _pointer(column_norm),
        _DTYPES[x.dtype],
        groups,
        size,
        *ranks(keep, drop_large, size),
        *(part.data_ptr() for part in cuts),
    )


def mask_rescale(
    ext: ModuleType, delta: torch.Tensor, mask: Ready, *, base: torch.Tensor | None, out: torch.Tensor
) -> None:
    alive: list[torch.Tensor] = []
    n = delta.shape[-1] if delta.dim() else 1
    pointers = delta.data_ptr(), _pointer(base), out.data_ptr(), _DTYPES[delta.dtype]
    _on(delta, ext.mask_rescale, *pointers, delta.numel(), n, *_packed(ext, mask, delta, base, alive))


def merge_into(
    ext: ModuleType,
    base: torch.Tensor | None,
    tuned: Sequence[torch.Tensor],
    *,
    out: torch.Tensor,
    weights: Sequence[float],
    masks: Sequence[Ready | None],
    elect: str,
    lam: float,
    normalize: bool,
    start: int,
    out_dtype: torch.dtype,
) -> None:
    first = tuned[0]
    alive: list[torch.Tensor] = []
    packed = [_packed(ext, mask, x, base, alive) for mask, x in zip(masks, tuned, strict=True)]
    kinds, seeds, streams, below, factors, tables = zip(*packed, strict=True)
    _on(
        first,
        ext.merge_into,
        _pointer(base),
        [x.data_ptr() for x in tuned],
        out.data_ptr(),
        _DTYPES[first.dtype],
        _DTYPES[out_dtype],
        first.numel(),
        first.shape[-1] if first.dim() else 1,
        start,
        kinds,
        seeds,
        streams,
        below,
        factors,
        [pointer for five in tables for pointer in five],
        list(weights),
        _ELECTIONS[elect],
        lam,
        normalize,
    )


def _rows(x: torch.Tensor) -> tuple[int, int]:
    """How many rows, and how long they are."""
    n = x.shape[-1]
    return math.prod(x.shape[:-1]), n


def quantize(ext: ModuleType, x: torch.Tensor, *, bits: int, group: str | int, out: Quantized) -> None:
    levels, thresholds = tables(bits, x.device)
    _on(
        x,
        ext.quantize,
        x.data_ptr(),
        out.codes.data_ptr(),
        out.scales.data_ptr(),
        _DTYPES[x.dtype],
        *_rows(x),
        bits,
        group_size("quantize", group, x.shape[-1]),
        levels.data_ptr(),
        thresholds.data_ptr(),
    )


def dequantize(ext: ModuleType, q: Quantized, *, out: torch.Tensor, dtype: torch.dtype) -> None:
    levels, _ = tables(q.bits, q.device)
    _on(
        out,
        ext.dequantize,
        q.codes.data_ptr(),
        q.scales.data_ptr(),
        out.data_ptr(),
        _DTYPES[dtype],
        *_rows(out),
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
    _on(
        base,
        ext.superpose_codes,
        base.data_ptr(),
        [x.data_ptr() for x in tuned],
        out.codes.data_ptr(),
        out.scales.data_ptr(),
        _DTYPES[base.dtype],
        *_rows(base),
        [key.seed for key in keys],
        [key.stream for key in keys],
        list(weights),
        _TRANSFORMS[transform],
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
    _on(
        base,
        ext.retrieve_codes,
        base.data_ptr(),
        superposed.codes.data_ptr(),
        superposed.scales.data_ptr(),
        out.data_ptr(),
        _DTYPES[base.dtype],
        _DTYPES[out_dtype],
        *_rows(base),
        key.seed,
        key.stream,
        lam,
        _TRANSFORMS[transform],
        superposed.bits,
        group_size("retrieve", superposed.group, base.shape[-1]),
        levels.data_ptr(),
    )


_FEW = 64
"""Up to so many activations are multiplied with the codes themselves; beyond, blocks of values with BLAS."""


def superposed_linear(
    ext: ModuleType,
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
            sign_flip(ext, rows, key, out=to, dim=1)
        else:
            rotate(ext, rows, key, out=to, block=default_block(x.shape[1]), inverse=False)

    if not isinstance(superposed, Quantized):
        add_product(turned(x, keys, model, transform, turn), superposed, model, lams, out)
    elif len(x) > _FEW or x.dtype is torch.float64:
        z = turned(x, keys, model, transform, turn)
        add_expanded(z, superposed, model, lams, functools.partial(dequantize, ext), out)
    elif transform == "sign":
        _code_product(ext, x, superposed, keys, model, lams, out)
    else:
        _code_product(ext, turned(x, keys, model, transform, turn), superposed, [], model, lams, out)


def _code_product(
    ext: ModuleType,
    x: torch.Tensor,
    q: Quantized,
    keys: Sequence[Key],
    model: torch.Tensor,
    lams: Sequence[float],
    out: torch.Tensor,
) -> None:
    """out_r += lam_k q (s_k * x_r), without signs where there are no keys."""
    levels, _ = tables(q.bits, x.device)
    model = model.to(x.device)
    _on(
        x,
        ext.superposed_linear,
        x.data_ptr(),
        model.data_ptr(),
        out.data_ptr(),
        _DTYPES[x.dtype],
        len(x),
        [key.seed for key in keys],
        [key.stream for key in keys],
        list(lams),
        q.codes.data_ptr(),
        q.scales.data_ptr(),
        *q.shape,
        q.bits,
        group_size("superposed_linear", q.group, q.shape[-1]),
        levels.data_ptr(),
    )
