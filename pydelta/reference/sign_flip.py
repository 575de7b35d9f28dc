"""Random signs along one dimension."""

from __future__ import annotations

import torch

from pydelta.core.random import Key, sign_bits


def flip(x: torch.Tensor, key: Key, dim: int, start: int = 0) -> torch.Tensor:
    """``x`` with the signs ``start``, ``start + 1``, ... of ``key`` along ``dim``."""
    shape = [1] * x.dim()
    shape[dim] = x.shape[dim]
    minus = sign_bits(key, start, x.shape[dim], x.device).reshape(shape)
    return torch.where(minus, -x, x)


def sign_flip(x: torch.Tensor, key: Key, *, dim: int = -1) -> torch.Tensor:
    """y = x diag(s) for ``dim`` = -1: RanDeS's column signs (arXiv 2505.11204). An involution."""
    return flip(x, key, dim)
