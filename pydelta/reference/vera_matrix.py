"""The random matrices of VeRA, before their bounds."""

from __future__ import annotations

import torch

from pydelta.core.random import Key, matrix_draw, u32


def vera_matrix(
    key: Key,
    which: str,
    shape: tuple[int, int],
    *,
    start: tuple[int, int] = (0, 0),
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> torch.Tensor:
    """Element (i, j) is 2 u - 1, u uniform in [0, 1): exact in fp32, rounded once to a narrower dtype.

    Kaiming's uniform initialisation (He et al. 2015, eq. 10, arXiv 1502.01852) is this times
    sqrt(6 / fan_in), a factor of the layer and not of the matrix.
    """
    rows = [u32(key, matrix_draw(which, start[0] + i, start[1]), shape[1], device) for i in range(shape[0])]
    draws = torch.stack(rows) if rows else torch.empty(shape, dtype=torch.int64, device=device)
    return (((draws >> 8) - (1 << 23)).double() * 2.0**-23).to(dtype)
