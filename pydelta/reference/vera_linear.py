"""A linear layer with a VeRA adapter, and its gradients, in plain torch."""

from __future__ import annotations

import math

import torch

from pydelta.core.check import compute_dtype
from pydelta.core.random import Key
from pydelta.reference.vera_matrix import vera_matrix

_Three = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def scaled_matrices(
    key: Key, rank: int, n: int, m: int, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """A (rank, n) and B (m, rank): the entries in ``dtype``, times sqrt(6 / fan_in) in the compute dtype."""
    a = vera_matrix(key, "A", (rank, n), dtype=dtype, device=device).to(compute_dtype(dtype))
    b = vera_matrix(key, "B", (m, rank), dtype=dtype, device=device).to(compute_dtype(dtype))
    return math.sqrt(6 / max(n, 1)) * a, math.sqrt(6 / rank) * b


def vera_linear(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    d: torch.Tensor,
    b: torch.Tensor,
    key: Key,
    *,
    bias: torch.Tensor | None = None,
    adapter: torch.Tensor | None = None,
) -> torch.Tensor:
    """y = W x + bias + b * (B (d * (A x))): arXiv 2310.11454, eq. 2. Torch differentiates it by itself."""
    return vera_forward(x, weight, d, b, key, bias=bias, adapter=adapter)[0]


def vera_forward(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    d: torch.Tensor,
    b: torch.Tensor,
    key: Key,
    *,
    bias: torch.Tensor | None = None,
    adapter: torch.Tensor | None = None,
    cached: bool = True,
    keep: bool = False,
) -> _Three:
    """y, and for its gradients the products with the entries of A and, if ``keep``, B."""
    compute = compute_dtype(x.dtype)
    a_matrix, b_matrix = scaled_matrices(key, d.shape[-1], x.shape[-1], b.shape[-1], x.dtype, x.device)
    d, b = (v.to(compute) if adapter is None else v.to(compute)[adapter] for v in (d, b))
    product = x.to(compute) @ a_matrix.mT
    outer = (d * product) @ b_matrix.mT
    y = b * outer
    if weight is not None:
        y = y + x.to(compute) @ weight.to(compute).mT
    if bias is not None:
        y = y + bias.to(compute)
    of_a, of_b = product / math.sqrt(6 / max(x.shape[-1], 1)), outer / math.sqrt(6 / d.shape[-1])
    return y.to(x.dtype), of_a.to(x.dtype), of_b.to(x.dtype) if keep else x.new_empty(0)


def vera_backward(
    grad: torch.Tensor,
    products: tuple[torch.Tensor, torch.Tensor],
    weight: torch.Tensor | None,
    d: torch.Tensor,
    b: torch.Tensor,
    key: Key,
    *,
    n: int,
    adapter: torch.Tensor | None = None,
    cached: bool = True,
    needs: tuple[bool, bool, bool] = (True, True, True),
) -> _Three:
    """The gradients by x, d and b, from A x alone; one that is not needed is empty."""
    compute, rank, m = compute_dtype(grad.dtype), d.shape[-1], b.shape[-1]
    a_matrix, b_matrix = scaled_matrices(key, rank, n, m, grad.dtype, grad.device)
    g, t = (part.reshape(-1, part.shape[-1]).to(compute) for part in (grad, products[0]))
    t = math.sqrt(6 / max(n, 1)) * t
    index = torch.zeros(len(g), dtype=torch.int64, device=g.device) if adapter is None else adapter.flatten()
    d_rows, b_rows = (v.to(compute).reshape(-1, v.shape[-1])[index] for v in (d, b))
    inner = (b_rows * g) @ b_matrix
    grad_x = (d_rows * inner) @ a_matrix
    if weight is not None:
        grad_x = grad_x + g @ weight.to(compute)
    grad_d = torch.zeros(d.shape, dtype=compute, device=d.device).reshape(-1, rank)
    grad_b = torch.zeros(b.shape, dtype=compute, device=b.device).reshape(-1, m)
    grad_d.index_add_(0, index, inner * t)
    grad_b.index_add_(0, index, g * ((d_rows * t) @ b_matrix.mT))
    grads = (
        grad_x.view(*grad.shape[:-1], n).to(grad.dtype),
        grad_d.view(d.shape).to(d.dtype),
        grad_b.view(b.shape).to(b.dtype),
    )
    x, y, z = (part if need else part.new_empty(0) for part, need in zip(grads, needs, strict=True))
    return x, y, z
