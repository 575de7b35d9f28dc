"""VeRA's matrices, and the products with them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType

import torch

from pydelta.core.random import Key, matrix_draw
from pydelta.native.call import DTYPES, by_position
from pydelta.products import vera


def vera_matrix(
    ext: ModuleType,
    key: Key,
    which: str,
    shape: tuple[int, int],
    *,
    start: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
    out: torch.Tensor,
) -> None:
    first = matrix_draw(which, *start)
    by_position(out, ext.vera_matrix, out.data_ptr(), DTYPES[dtype], *shape, first, key.seed, key.stream)


_FEW = {torch.float32: (64, 32), torch.bfloat16: (4, 16), torch.float16: (4, 16)}
"""Up to so many rows our kernel was faster than BLAS: for a matrix stored by rows, and for one by columns."""


def times(ext: ModuleType, x: torch.Tensor, w: torch.Tensor, out: torch.Tensor, add: bool) -> None:
    """x w^T: few rows by a kernel that reads the matrix once, which BLAS does not; many by BLAS."""
    by_rows, by_columns = _FEW.get(x.dtype, (0, 0))
    across = w.stride(1) != 1
    stored = w.mT if across else w
    if len(x) > (by_columns if across else by_rows) or stored.stride(1) != 1 or out.stride(1) != 1:
        vera.blas(x, w, out, add)
        return
    x = x.contiguous()
    strides, pointers = (stored.stride(0), out.stride(0)), (stored.data_ptr(), out.data_ptr())
    by_position(
        x, ext.few_rows, x.data_ptr(), *pointers, DTYPES[x.dtype], *x.shape, len(w), *strides, across, add
    )


@functools.cache
def _backend(ext: ModuleType) -> vera.Backend:
    make = functools.partial(vera_matrix, ext)
    if hasattr(ext, "few_rows"):
        return vera.Backend(make, functools.partial(times, ext))
    return vera.Backend(make)


def _of_backend(function: Callable[..., None]) -> Callable[..., None]:
    """Products over tiles that the extension's kernel makes."""

    def run(ext: ModuleType, *args: object, **options: object) -> None:
        function(_backend(ext), *args, **options)

    return run


vera_forward = _of_backend(vera.forward)
vera_backward = _of_backend(vera.backward)
vera_merge = _of_backend(vera.merge)
