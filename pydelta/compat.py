"""Drop-in functions under the names that other packages gave them."""

from __future__ import annotations

import torch

from pydelta.core import check
from pydelta.ops import hadamard

__all__ = ["hadamard_transform"]


def hadamard_transform(x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """What ``fast_hadamard_transform.hadamard_transform`` computes, on the CPU too and in every dtype.

    Equivalent to ``F.linear(x, torch.tensor(scipy.linalg.hadamard(n))) * scale`` where the last
    dimension n is a power of two. Otherwise x is padded with zeros to the next power of two, transformed,
    and cut to its size again, as that package does; note that this is not orthogonal, so prefer
    :func:`pydelta.hadamard`, which takes any size without padding. Differentiable.

    Args:
        x: (..., n) float32, bfloat16, float16 or float64, n up to 2**24 (32768 on a GPU).
        scale: multiplies the plain +-1 transform.

    Returns:
        (..., n), dtype and device of ``x``.

    Raises:
        TypeError, ValueError: as :func:`pydelta.hadamard`.
    """
    check.floating("hadamard_transform", "x", x)
    check.has_dimension("hadamard_transform", "x", x)
    n = x.shape[-1]
    block = 1 << max(n - 1, 0).bit_length()
    if block == n:
        return hadamard(x, block=block, scale=scale)
    padded = torch.nn.functional.pad(x, (0, block - n))
    return hadamard(padded, block=block, scale=scale)[..., :n]
