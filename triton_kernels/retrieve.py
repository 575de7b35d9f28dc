"""One model out of a superposition in Triton."""

from __future__ import annotations

import torch

from pydelta.core.random import Key
from pydelta.triton_kernels.launch import launch, view


def retrieve(
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
    shape, block, scale = view(base, dim, transform)
    signs = None if transform == "none" else key
    launch(shape, out, superposed, base=base, key=signs, block=block, scale=scale, lam=lam, inverse=True)
