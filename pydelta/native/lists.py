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


def _numels(xs: Sequence[torch.Tensor]) -> list[int]:
    return [x.numel() for x in xs]


def _dtype(xs: Sequence[torch.Tensor | None] | None, default: torch.dtype) -> int:
    """What a list holds: its tensors agree in it."""
    first = xs[0] if xs else None
    return DTYPES[default if first is None else first.dtype]


def square_sums(
    ext: ModuleType,
    xs: Sequence[torch.Tensor],
    *,
    weights: Sequence[torch.Tensor] | None,
    eta: float,
    out: torch.Tensor,
) -> None:
    on(
        out,
        ext.square_sums,
        numels=_numels(xs),
        xs=_list(xs),
        weights=_list(weights),
        sums=out.data_ptr(),
        dtype=DTYPES[xs[0].dtype],
        weight_dtype=_dtype(weights, xs[0].dtype),
        eta=eta,
    )


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
    on(
        scale,
        ext.sam_perturb_,
        numels=_numels(params),
        params=_list(params),
        grads=_list(grads),
        masters=_list(masters),
        backups=_list(backups),
        scale=scale.data_ptr(),
        dtype=DTYPES[params[0].dtype],
        adaptive=adaptive,
        eta=eta,
    )


def sam_restore_(ext: ModuleType, params: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> None:
    on(
        params[0],
        ext.sam_restore_,
        numels=_numels(params),
        params=_list(params),
        sources=_list(sources),
        dtype=DTYPES[params[0].dtype],
        source_dtype=DTYPES[sources[0].dtype],
    )


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
        numels=_numels(params),
        params=_list(params),
        grads=_list(grads),
        exp_avgs=_list(exp_avgs),
        exp_avg_sqs=_list(exp_avg_sqs),
        bases=_list(bases),
        masters=_list(masters),
        pull=pointer(pull),
        sums=pointer(sums),
        dtype=DTYPES[dtype],
        base_dtype=_dtype(bases, compute_dtype(dtype)),
        step=step,
        lr=lr,
        one=betas[0],
        two=betas[1],
        eps=eps,
        l1=l1,
    )
