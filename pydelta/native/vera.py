"""VeRA's matrices, and torch's products with them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType

import torch

from pydelta import _vera
from pydelta.native.call import DTYPES, on
from pydelta.random import Key, matrix_draw


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
    on(out, ext.vera_matrix, out.data_ptr(), DTYPES[dtype], *shape, first, key.seed, key.stream)


def _of_tiles(function: Callable[..., None]) -> Callable[..., None]:
    """Torch's products over tiles that the extension's kernel makes."""

    def run(ext: ModuleType, *args: object, **options: object) -> None:
        function(functools.partial(vera_matrix, ext), *args, **options)

    return run


vera_forward = _of_tiles(_vera.forward)
vera_backward = _of_tiles(_vera.backward)
vera_merge = _of_tiles(_vera.merge)
