"""From tensors to the pointers that the compiled extensions take, for cpu and cuda alike.

Both extensions have the same functions. The last argument says where to run: a thread count on the
CPU, a stream on a GPU.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from types import ModuleType

import torch

from pydelta.random import Key

# csrc/core/types.h holds the same codes.
_DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}
# csrc/core/transform.h holds the same codes.
_TRANSFORMS = {"none": 0, "sign": 1, "hadamard": 2}


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
