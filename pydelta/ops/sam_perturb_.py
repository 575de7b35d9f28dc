"""``pydelta.sam_perturb_``: the ascent step of SAM and ASAM on a whole list of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pydelta import _dispatch
from pydelta.core import check
from pydelta.ops import _lists
from pydelta.ops._library import define
from pydelta.ops.square_sums import new_sums


def _run(
    params: list[torch.Tensor],
    grads: list[torch.Tensor],
    masters: list[torch.Tensor],
    backups: list[torch.Tensor],
    norm: torch.Tensor,
    rho: float,
    adaptive: bool,
    eta: float,
    backend: str,
) -> None:
    scale = torch.where(norm.isfinite() & (norm > 0), rho / norm, 0.0)
    with _lists.written(params, backups) as (ps, bs):
        for places, (p, g, w, b) in _lists.groups(ps, grads, masters, bs):
            if places:
                kernel = _dispatch.kernel("sam_perturb_", params[places[0]], backend)
                options = {"adaptive": adaptive, "eta": eta, "masters": _lists.dense(w), "backups": b}
                kernel(p, _lists.dense(g), scale, **options)


_op = define(
    "sam_perturb_",
    "Tensor(a!)[] params, Tensor[] grads, Tensor[] masters, Tensor(b!)[] backups, Tensor norm, float rho, "
    "bool adaptive, float eta, str backend",
    "()",
    _run,
)


def sam_perturb_(
    params: Sequence[torch.Tensor],
    grads: Sequence[torch.Tensor],
    *,
    rho: float,
    adaptive: bool = False,
    eta: float = 0.0,
    masters: Sequence[torch.Tensor] | None = None,
    backups: Sequence[torch.Tensor] | None = None,
    norm: torch.Tensor | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """Moves weights to where the loss is about worst nearby: w + e, ||e|| = rho, in place.

    SAM (arXiv 2010.01412): e = rho g / ||g||. ASAM (arXiv 2102.11600): e = rho T^2 g / ||T g|| with
    T = |w| + eta. The norm runs over all tensors, by :func:`pydelta.ops.square_sums`: the result has the same
    bits on every backend and thread count. A norm of zero, or one that is not finite, perturbs nothing.
    One pass for the norm and one for the step; no host synchronisation; ``data_ptr()`` stays.

    Args:
        params: float32, bfloat16, float16 or float64 tensors on one device; of any shapes and strides.
        grads: one for each, of its shape and dtype.
        rho: the length of the step.
        adaptive, eta: ASAM's.
        masters: the fp32 weights that ``params`` are rounded from; e is added to these, and they stay.
        backups: tensors like ``params`` that take their values, for :func:`sam_restore_`.
        norm: 0-D float64, the norm where it spans more than these tensors.
        backend: "reference", "cpu", "cuda" or "triton" instead of the dispatcher's choice.

    Returns:
        The norm, 0-D float64 on the device.

    Raises:
        TypeError: something is no real floating tensor, or a number no number.
        ValueError: lists, shapes, dtypes or devices differ, a negative ``rho`` or ``eta``.
        RuntimeError: ``backend`` is not there.
    """
    op = "sam_perturb_"
    weights = _lists.tensors(op, "params", params)
    slopes = _lists.beside(op, "grads", grads, "params", weights)
    sources = [] if masters is None else _lists.beside(op, "masters", masters, "params", weights, wide=True)
    kept = [] if backups is None else _lists.beside(op, "backups", backups, "params", weights)
    rho = _lists.at_least_zero(op, "rho", rho)
    eta = _lists.at_least_zero(op, "eta", eta)
    adaptive, chosen = check.flag(op, "adaptive", adaptive), check.backend(op, backend)
    if norm is not None:
        _lists.scalar(op, "norm", norm, _lists.device_of(weights))
    with torch.no_grad():
        if norm is None:
            scales = (sources or weights) if adaptive else []
            norm = _lists.total(new_sums(slopes, scales, eta, chosen)).sqrt()
        _op(weights, slopes, sources, kept, norm, rho, adaptive, eta, chosen)
    return norm
