"""Tensors that are spread over processes (FSDP2's DTensor): the part at hand, and sums over all parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pydelta.ops import square_sums
from pydelta.ops._lists import total


def local(x: torch.Tensor) -> torch.Tensor:
    """What this process holds of ``x``; the tensor itself where it is not spread."""
    if not hasattr(x, "to_local"):
        return x.detach()
    with torch.no_grad():
        part: torch.Tensor = x.to_local()
    return part


def gradient(p: Any) -> torch.Tensor | None:
    """This process's part of the gradient, dense."""
    grad = p.grad
    if grad is None:
        return None
    if hasattr(p, "to_local") and grad.placements != p.placements:
        grad = grad.redistribute(p.device_mesh, p.placements)
    grad = local(grad)
    return grad.to_dense() if grad.layout is not torch.strided else grad


def spread(p: Any) -> tuple[Any, tuple[int, ...]]:
    """The mesh of a spread tensor and the dimensions of it along which the parts differ."""
    if not hasattr(p, "to_local"):
        return None, ()
    return p.device_mesh, tuple(i for i, placement in enumerate(p.placements) if placement.is_shard())


def over_shards(sum_: torch.Tensor, mesh: Any, dims: tuple[int, ...]) -> torch.Tensor:
    """A sum over the parts of all processes."""
    for dim in dims:
        torch.distributed.all_reduce(sum_, group=mesh.get_group(dim))
    return sum_


def norm(
    params: Sequence[torch.Tensor],
    grads: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor | None] | None = None,
    etas: Sequence[float] | None = None,
) -> torch.Tensor:
    """The norm of ``grads`` over all parameters and processes: 0-D float64 on the first device.

    Args:
        params: what the gradients belong to; they say how parts are spread.
        grads: this process's parts.
        weights: None, or this process's part, for each: then (|w| + eta) g stands for g.
        etas: one for each.
    """
    members: dict[Any, list[int]] = {}
    for i, (p, g) in enumerate(zip(params, grads, strict=True)):
        weight = None if weights is None else weights[i]
        eta = 0.0 if etas is None or weight is None else etas[i]
        members.setdefault((g.device, *spread(p), weight is not None, eta), []).append(i)
    squares = torch.zeros((), dtype=torch.float64, device=grads[0].device)
    for (_, mesh, dims, scaled, eta), indices in members.items():
        beside = [w for i in indices if (w := weights[i]) is not None] if scaled and weights else None
        sums = square_sums([grads[i] for i in indices], weights=beside, eta=eta)
        squares = squares + over_shards(total(sums), mesh, dims).to(squares.device)
    return squares.sqrt()
