"""Signs, Hadamard transforms, superpositions."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch

from pydelta.core.codes import TRANSFORMS
from pydelta.core.random import Key
from pydelta.native.call import DTYPES, by_position, split


def hadamard(ext: ModuleType, x: torch.Tensor, *, out: torch.Tensor, block: int, scale: float) -> None:
    by_position(x, ext.hadamard, x.data_ptr(), out.data_ptr(), DTYPES[x.dtype], x.numel(), block, scale)


def sign_flip(ext: ModuleType, x: torch.Tensor, key: Key, *, out: torch.Tensor, dim: int) -> None:
    pointers = x.data_ptr(), out.data_ptr(), DTYPES[x.dtype]
    by_position(x, ext.sign_flip, *pointers, *split(x, dim), key.seed, key.stream)


def rotate(
    ext: ModuleType, x: torch.Tensor, key: Key, *, out: torch.Tensor, block: int, inverse: bool
) -> None:
    n = x.shape[-1]
    pointers = x.data_ptr(), out.data_ptr(), DTYPES[x.dtype]
    by_position(x, ext.rotate, *pointers, x.numel() // max(n, 1), n, block, inverse, key.seed, key.stream)


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
    by_position(
        base,
        ext.superpose,
        base.data_ptr(),
        [x.data_ptr() for x in tuned],
        out.data_ptr(),
        DTYPES[base.dtype],
        DTYPES[out_dtype],
        *split(base, dim),
        [key.seed for key in keys],
        [key.stream for key in keys],
        list(weights),
        TRANSFORMS[transform],
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
    by_position(
        base,
        ext.retrieve,
        base.data_ptr(),
        superposed.data_ptr(),
        out.data_ptr(),
        DTYPES[base.dtype],
        DTYPES[superposed.dtype],
        DTYPES[out_dtype],
        *split(base, dim),
        key.seed,
        key.stream,
        lam,
        TRANSFORMS[transform],
    )
