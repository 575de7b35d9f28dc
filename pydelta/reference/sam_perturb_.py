"""The ascent step of sharpness-aware minimisation."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pydelta.core.check import compute_dtype


def sam_perturb_(
    params: Sequence[torch.Tensor],
    grads: Sequence[torch.Tensor],
    scale: torch.Tensor,
    *,
    adaptive: bool,
    eta: float,
    masters: Sequence[torch.Tensor],
    backups: Sequence[torch.Tensor],
) -> None:
    """w + e with e = scale g (SAM, arXiv 2010.01412, eq. 2) or scale T^2 g, T = |w| + eta (ASAM, arXiv
    2102.11600, eq. 4), where scale = rho / ||g|| or rho / ||T g||; 0 leaves the weights as they are."""
    for i, (p, g) in enumerate(zip(params, grads, strict=True)):
        compute = compute_dtype(p.dtype)
        if backups:
            backups[i].copy_(p)
        w, e = (masters[i] if masters else p).to(compute), g.to(compute)
        if adaptive:
            t = w.abs() + eta
            e = t * (t * e)
        p.copy_(torch.where(scale != 0, w + e * scale.to(compute), w))
