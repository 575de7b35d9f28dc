"""Deltas in low-bit codes: how they are made, stored and added to their base."""

from __future__ import annotations

import torch

from pydelta.core.quantized import Quantized
from pydelta.deltafile.manifest import Coding
from pydelta.deltafile.shapes import matrix
from pydelta.ops import retrieve, superpose

SCALES = torch.bfloat16
"""What scales are stored as. Rounding moves one by at most 0.2 %, far below what the codes leave out."""


def quantize_delta(tuned: torch.Tensor, base: torch.Tensor, coding: Coding) -> Quantized:
    """Codes of tuned - base as :func:`pydelta.superpose` gives them; scales are rounded for storage.

    Args:
        tuned, base: contiguous floating tensors of two and more axes, one dtype and shape.

    Raises:
        ValueError: the group does not divide a row.
    """
    rows = matrix(base.shape)
    q = superpose(
        base.view(rows),
        [tuned.view(rows)],
        [coding.key],
        transform=coding.transform,
        bits=coding.bits,
        group=coding.group,
    )
    q.scales.copy_(q.scales.to(SCALES))
    return q


def read_codes(
    codes: torch.Tensor, scales: torch.Tensor, shape: tuple[int, ...], coding: Coding
) -> Quantized:
    """Codes and scales as they are stored, of a tensor of ``shape``.

    Raises:
        ValueError: a scale is negative or not finite.
    """
    wide = scales.to(torch.float32)
    if not (wide.isfinite() & (wide >= 0)).all():
        raise ValueError("its scales must be finite and not negative")
    return Quantized(codes, wide, coding.bits, coding.group, matrix(shape), torch.float32)


def add_codes(base: torch.Tensor, q: Quantized, coding: Coding) -> torch.Tensor:
    """base + the values of the codes, in the base's shape and dtype; one pass, one rounding."""
    rows, q = base.reshape(q.shape), q.to(base.device)
    moved = retrieve(rows, q, coding.key, transform=coding.transform)
    return moved.view(base.shape)
