"""Lists of tensors: what optimizers do."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch

from pydelta.core.check import compute_dtype
from pydelta.native.call import DTYPES, on, pointer


def _list(xs: Sequence[torch.Tensor | None] | None) -> list[int]:
    """The addresses of a list's tensors; none if the list is absent or holds none."""
    return [x.data_ptr() for x in xs or () if x is not None]


def _dtype(xs: Sequence[torch.Tensor | None] | None, default: torch.dtype) -> int:
    """What a list holds: its tensors agree in it."""
    found = xs[0] if xs else None
    return DTYPES[default if found is None else found.dtype]


def square_sums(
    ext: ModuleType,
    xs: Sequence[torch.Tensor],
    *,
    weights: Sequence[torch.Tensor] | None,
    eta: float,
    out: torch.Tensor,
) -> None:
    dtypes = _dtype(xs, xs[0].dtype), _dtype(weights, xs[0].dtype)
    lists = [x.numel() for x in xs], _list(xs), _list(weights)
    on(out, ext.square_sums, *lists, out.data_ptr(), *dtypes, eta)


def sam_perturb_(
    ext: ModuleType,
    params: Sequence[torch.Tensor],
    grads: Sequence[torch.Tensor],
    scale: torch.Tensor,
    *,
    adaptive: bool,
    eta: float,
    masters: Sequence[torch.Tensor],
    backups: Sequence[torch.Tensor],
) -> None:
    lists = _list(params), _list(grads), _list(masters), _list(backups)
    options = scale.data_ptr(), DTYPES[params[0].dtype], adaptive, eta
    on(scale, ext.sam_perturb_, [x.numel() for x in params], *lists, *options)


def sam_restore_(ext: ModuleType, params: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> None:
    dtypes = DTYPES[params[0].dtype], DTYPES[sources[0].dtype]
    on(params[0], ext.sam_restore_, [x.numel() for x in params], _list(params), _list(sources), *dtypes)


def adamr_step_(
    ext: ModuleType,
    params: Sequence[torch.Tensor],
    grads: Sequence[torch.Tensor],
    exp_avgs: Sequence[torch.Tensor],
    exp_avg_sqs: Sequence[torch.Tensor],
    bases: Sequence[torch.Tensor | None],
    masters: Sequence[torch.Tensor],
    pull: torch.Tensor | None,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    l1: bool,
    sums: torch.Tensor | None,
) -> None:
    dtype = params[0].dtype
    if sums is None and params[0].is_cuda:  # counted there in any case
        sums = params[0].new_empty(len(params), dtype=torch.float64)
    on(
        params[0],
        ext.adamr_step_,
        [x.numel() for x in params],
        *(_list(xs) for xs in (params, grads, exp_avgs, exp_avg_sqs, bases, masters)),
        pointer(pull),
        pointer(sums),
        DTYPES[dtype],
        _dtype(bases, compute_dtype(dtype)),
        step,
        lr,
        *betas,
        eps,
        l1,
    )
