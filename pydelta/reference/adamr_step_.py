"""Adam with a pull towards the base."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy
import torch

from pydelta.core.check import compute_dtype
from pydelta.reference.square_sums import square_sum


def _root(v: torch.Tensor) -> torch.Tensor:
    """Rounded to nearest: on a CPU torch's own square root may come from a library that is an ulp off."""
    if v.device.type != "cpu":
        return v.sqrt()
    with numpy.errstate(invalid="ignore"):
        return torch.as_tensor(numpy.sqrt(v.numpy()))


def adamr_step_(
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
    """AdamR (arXiv 2410.09344): w <- w - pull (w - base), or pull sign(w - base); then Adam's step
    (arXiv 1412.6980, algorithm 1). ``sums``: where the sum of the squares of each gradient goes, or None."""
    one, two = betas
    root = 1 / math.sqrt(1 - two**step)
    rate = lr / (1 - one**step)
    for i, (p, m, v) in enumerate(zip(params, exp_avgs, exp_avg_sqs, strict=True)):
        compute = compute_dtype(p.dtype)
        g = grads[i].to(compute)
        m.copy_(m * one + g * (1 - one))
        v.copy_(v * two + g * g * (1 - two))
        w = (masters[i] if masters else p).to(compute)
        base = bases[i] if bases else None
        if base is not None and pull is not None:
            tau = w - base.to(compute)
            w = w - (tau.sign() if l1 else tau) * pull.to(compute)
        w = w - m / (_root(v) * root + eps) * rate
        p.copy_(w)
        if masters:
            masters[i].copy_(w)
        if sums is not None:
            sums[i] = square_sum(g)
