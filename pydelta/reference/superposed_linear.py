"""Linear layers of a mixed batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pydelta.core.check import compute_dtype
from pydelta.core.quantized import Quantized
from pydelta.core.random import Key
from pydelta.reference.quantize import dequantize
from pydelta.reference.rotate import rotate
from pydelta.reference.sign_flip import sign_flip


def transformed(x: torch.Tensor, key: Key, transform: str) -> torch.Tensor:
    """T x along the last dimension: (S T) x = S (T x) moves a transform from weights to activations."""
    if transform == "none":
        return x
    return sign_flip(x, key) if transform == "sign" else rotate(x, key)


def superposed_linear(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    superposed: torch.Tensor | Quantized,
    keys: Sequence[Key],
    model: torch.Tensor,
    *,
    lams: Sequence[float],
    transform: str,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """y_r = W_0 x_r + lam_k S (T_k x_r) + b with k = model[r], for each row r; no W_0 is a zero one."""
    wide = compute_dtype(x.dtype)
    if isinstance(superposed, Quantized):
        superposed = dequantize(superposed, dtype=torch.float32)
    rows = []
    for row, k in zip(x.to(wide), model.tolist(), strict=True):
        delta = lams[k] * (superposed.to(wide) @ transformed(row, keys[k], transform))
        rows.append(delta if weight is None else weight.to(wide) @ row + delta)
    y = torch.stack(rows) if rows else x.new_empty(0, superposed.shape[0], dtype=wide)
    return (y if bias is None else y + bias.to(wide)).to(x.dtype)
