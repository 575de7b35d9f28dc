"""What the backends share of ``superposed_linear``: the two products that torch's BLAS does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from pydelta.core.quantized import Quantized
from pydelta.core.random import Key

Transform = Callable[[torch.Tensor, torch.Tensor, Key], None]
"""apply(x, out, key) writes the model's transform of some rows."""
Expand = Callable[..., None]
"""expand(q, out=..., dtype=...) writes what codes stand for."""

_BLOCK = 256
"""Rows of codes that are expanded together for many activations: it bounds memory."""


def base_product(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, out: torch.Tensor
) -> None:
    if weight is None:
        out.zero_()
        if bias is not None:
            out += bias
    elif bias is None:
        torch.mm(x, weight.T, out=out)
    else:
        torch.addmm(bias, x, weight.T, out=out)


def turned(
    x: torch.Tensor, keys: Sequence[Key], model: torch.Tensor, transform: str, apply: Transform
) -> torch.Tensor:
    """Every row of ``x`` under its model's transform; neighbours of one model go together."""
    if transform == "none":
        return x
    out = torch.empty_like(x)
    indices = model.tolist()
    first = 0
    for end in range(1, len(indices) + 1):
        if end == len(indices) or indices[end] != indices[first]:
            apply(x[first:end], out[first:end], keys[indices[first]])
            first = end
    return out


def add_product(
    z: torch.Tensor, values: torch.Tensor, model: torch.Tensor, lams: Sequence[float], out: torch.Tensor
) -> None:
    """out_r += lam_k values z_r; in the wider dtype of ``values`` and ``z``."""
    wide = torch.promote_types(z.dtype, values.dtype)
    delta = torch.mm(z.to(wide), values.to(wide).T)
    if len(set(lams)) == 1:
        torch.add(out, delta, alpha=lams[0], out=out)
    else:
        factors = torch.tensor(lams, dtype=wide)[model].to(z.device)
        torch.addcmul(out, delta, factors[:, None], out=out)


def add_expanded(
    z: torch.Tensor,
    q: Quantized,
    model: torch.Tensor,
    lams: Sequence[float],
    expand: Expand,
    out: torch.Tensor,
) -> None:
    """The same from codes, block of rows by block: the whole matrix is nowhere in memory."""
    for first in range(0, q.shape[0], _BLOCK):
        end = min(first + _BLOCK, q.shape[0])
        shape = (end - first, q.shape[1])
        part = Quantized(q.codes[first:end], q.scales[first:end], q.bits, q.group, shape, q.dtype)
        values = torch.empty(shape, dtype=z.dtype, device=z.device)
        expand(part, out=values, dtype=z.dtype)
        add_product(z, values, model, lams, out[:, first:end])
