"""One model out of the codes of a superposition in Triton: base and codes in, weights out, in one pass."""

from __future__ import annotations

import torch

from pydelta.core.quantized import Quantized
from pydelta.core.random import Key
from pydelta.triton_kernels.launch import launch, split, view


def retrieve_codes(
    base: torch.Tensor,
    superposed: Quantized,
    key: Key,
    *,
    out: torch.Tensor,
    lam: float,
    transform: str,
    out_dtype: torch.dtype,
) -> None:
    shape, (_, block, scale) = split(base, base.dim() - 1), view(base, base.dim() - 1, transform)
    signs = None if transform == "none" else key
    launch(
        shape, out, base=base, coded=superposed, key=signs, block=block, scale=scale, lam=lam, inverse=True
    )
