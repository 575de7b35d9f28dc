"""Block-diagonal Walsh-Hadamard transform, stage by stage."""

from __future__ import annotations

import math

import torch

from pydelta.core.check import compute_dtype, default_block


def hadamard(x: torch.Tensor, *, block: int | None = None, scale: float | None = None) -> torch.Tensor:
    """y = scale * (I kron H_block) x along the last dimension, natural (Sylvester) order.

    The butterfly stages run with ascending distance h = 1, 2, 4, ... and the scale comes last:
    this order is the contract that makes every backend's bits the same.
    """
    n = x.shape[-1]
    block = default_block(n) if block is None else block
    scale = 1.0 / math.sqrt(block) if scale is None else scale
    y = x.to(compute_dtype(x.dtype))
    h = 1
    while h < block:
        pairs = y.reshape(-1, 2, h)
        a, b = pairs[:, 0], pairs[:, 1]
        y = torch.stack((a + b, a - b), dim=1)
        h *= 2
    return (y.reshape(x.shape) * scale).to(x.dtype)
