"""How flat a minimum is, and what a merge will cost, before it is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import nn

from pydelta.ops import merge_into, sam_perturb_, sam_restore_

Weights = Mapping[str, torch.Tensor]


def sharpness(
    model: nn.Module,
    loss: Callable[[], torch.Tensor],
    rho: float,
    *,
    adaptive: bool = False,
    eta: float = 0.0,
) -> float:
    """How much the loss rises on the steepest step of length ``rho``: L(w + e) - L(w), e as in SAM (arXiv
    2010.01412) or ASAM (arXiv 2102.11600).

    Weights come back bit for bit and gradients are left alone; what the loss itself changes (BatchNorm
    statistics in training mode) is not undone.

    Args:
        model: its parameters that require gradients are moved.
        loss: computes the loss of ``model`` on fixed data.
        rho, adaptive, eta: as for :class:`pydelta.optim.SAM`.

    Raises:
        TypeError, ValueError: a bad ``rho``, ``adaptive`` or ``eta``.
    """
    params = [p for p in model.parameters() if p.requires_grad]
    with torch.enable_grad():
        here = loss()
        slopes = torch.autograd.grad(here, params, allow_unused=True)
    used = [(p.detach(), g.to_dense()) for p, g in zip(params, slopes, strict=True) if g is not None]
    weights, grads = [p for p, _ in used], [g for _, g in used]
    backups = [torch.empty_like(p) for p in weights]
    sam_perturb_(weights, grads, rho=rho, adaptive=adaptive, eta=eta, backups=backups)
    try:
        with torch.no_grad():
            there = loss()
    finally:
        sam_restore_(weights, backups)
    return float(there) - float(here.detach())


@dataclasses.dataclass(frozen=True)
class Interference:
    """What merging does to one model's loss.

    Attributes:
        tuned: its own loss.
        first_order, predicted: the loss when merged by the gradient alone, and by gradient and curvature.
        measured: the loss of the merged model.
    """

    tuned: float
    first_order: float
    predicted: float
    measured: float


def interference(
    base: Weights,
    models: Mapping[str, Weights],
    lam: float,
    loss: Callable[[str, Weights], torch.Tensor],
) -> dict[str, Interference]:
    """Predicted against measured loss of each model when all are merged by task arithmetic (arXiv
    2212.04089).

    Merging moves model k by d = (lam - 1) tau_k + lam sum of the other deltas; predicted is
    L + <g, d> + <d, H d> / 2 at the model's own weights. A prediction far below what is measured says that
    the merge leaves the region where the loss is quadratic: smaller ``lam``, or flatter minima.

    Args:
        base, models: weights by name, one set for each task; floating tensors are merged, others are the
            base's.
        lam: the coefficient of every delta.
        loss: (task, weights) -> the task's loss, differentiable twice in the weights
            (``torch.func.functional_call``).

    Returns:
        The figures by task.

    Raises:
        TypeError, ValueError: tensors that do not fit the base, or a bad ``lam``.
    """
    names = [name for name, x in base.items() if x.is_floating_point()]
    merged = dict(base)
    for name in names:
        merged[name] = merge_into(base[name], [model[name] for model in models.values()], lam=lam)
    interferences = {}
    for task, weights in models.items():
        own = {name: x.detach().clone().requires_grad_(name in names) for name, x in weights.items()}
        moved = [merged[name] - weights[name] for name in names]
        inputs = [own[name] for name in names]
        with torch.enable_grad():
            here = loss(task, own)
            slopes = torch.autograd.grad(here, inputs, create_graph=True, materialize_grads=True)
            along = torch.stack([(g * d).sum() for g, d in zip(slopes, moved, strict=True)]).sum()
            curved = torch.autograd.grad(along, inputs, materialize_grads=True)
        curve = sum(float((h * d).sum()) for h, d in zip(curved, moved, strict=True))
        with torch.no_grad():
            measured = float(loss(task, merged))
        first = float(here.detach()) + float(along.detach())
        interferences[task] = Interference(float(here.detach()), first, first + curve / 2, measured)
    return interferences
