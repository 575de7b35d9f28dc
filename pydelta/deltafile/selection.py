"""Which elements of a tensor are stored."""

from __future__ import annotations

import dataclasses

import torch

from pydelta.checkpoint.elements.bits import bits
from pydelta.core.check import compute_dtype
from pydelta.core.masks import Mask, RandomMask
from pydelta.ops import mask_rescale


def changed(tuned: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """Where the bits of two contiguous tensors of one dtype and shape differ: (N,) bool."""
    return bits(tuned) != bits(base)


def kept_deltas(tuned: torch.Tensor, base: torch.Tensor, mask: Mask) -> torch.Tensor:
    """Where a mask keeps an element of tuned - base that is not zero: (N,) bool.

    No delta of two numbers of a dtype is so small that it rounds to zero there.
    """
    return mask_rescale(tuned, mask, base=base).view(-1) != 0


def random_mask(mask: RandomMask, count: int, device: torch.device) -> torch.Tensor:
    """Which of ``count`` elements a random mask keeps: (count,) bool."""
    ones = torch.ones(count, dtype=torch.bfloat16, device=device)
    return mask_rescale(ones, dataclasses.replace(mask, rescale=False), out=ones) != 0


def rescaled(values: torch.Tensor, base: torch.Tensor, factor: float) -> torch.Tensor:
    """base + factor (values - base), each step rounded in fp32 (fp64), the result to the dtype of ``base``.

    With ``factor`` 1 it is ``values``, bit for bit where they have the dtype of ``base``.
    """
    if factor == 1:
        return values.to(base.dtype)
    compute = compute_dtype(base.dtype)
    wide = base.to(compute)
    return (wide + (values.to(compute) - wide) * factor).to(base.dtype)
