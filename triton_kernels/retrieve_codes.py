"""One model out of the codes of a superposition in Triton: base and codes in, weights out, in one pass."""

from __future__ import annotations

import torch

from pydelta.quantized import Quantized
from pydelta.random import Key
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
    dim = base.dim() - 1
    _, block, scale = view(base, dim, transform)
    options = {"key": None if transform == "none" else key, "block": block, "scale": scale, "lam": lam}
    launch(split(base, dim), out, base=base, coded=superposed, inverse=True, **options)
