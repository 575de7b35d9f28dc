"""``pydelta.adamr_step_``: Adam with a pull towards the base, on a whole list of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pydelta import _dispatch
from pydelta.core import check
from pydelta.ops import _lists
from pydelta.ops._library import define


def _run(
    params: list[torch.Tensor],
    grads: list[torch.Tensor],
    exp_avgs: list[torch.Tensor],
    exp_avg_sqs: list[torch.Tensor],
    bases: list[torch.Tensor | None],
    masters: list[torch.Tensor],
    pull: torch.Tensor | None,
    step: int,
    lr: float,
    betas: list[float],
    eps: float,
    l1: bool,
    counts: bool,
    backend: str,
) -> torch.Tensor:
    sums = _empty(params, counts)
    options = {"step": step, "lr": lr, "betas": tuple(betas), "eps": eps, "l1": l1}
    with _lists.written(params, exp_avgs, exp_avg_sqs, masters) as (ps, ms, vs, ws):
        for places, (p, g, m, v, base, w) in _lists.groups(ps, grads, ms, vs, bases, ws):
            if places:
                kernel = _dispatch.kernel("adamr_step_", params[places[0]], backend)
                group_sums = sums if len(places) == len(params) or not counts else sums.new_empty(len(places))
                lists = p, _lists.dense(g), m, v, _lists.dense(base), w
                kernel(*lists, pull, **options, sums=group_sums if counts else None)
                _lists.put(sums, places, group_sums)
    return sums


def _empty(params: list[torch.Tensor], counts: bool) -> torch.Tensor:
    count = len(params) if counts else 0
    return torch.empty(count, dtype=torch.float64, device=_lists.device_of(params))


def _fake(params: list[torch.Tensor], *rest: object) -> torch.Tensor:
    *_, counts, _ = rest
    return _empty(params, bool(counts))


_op = define(
    "adamr_step_",
    "Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, Tensor?[] bases, "
    "Tensor(d!)[] masters, Tensor? pull, int step, float lr, float[] betas, float eps, bool l1, bool counts, "
    "str backend",
    "Tensor",
    _run,
    _fake,
)


def adamr_step_(
    params: Sequence[torch.Tensor],
    grads: Sequence[torch.Tensor],
    exp_avgs: Sequence[torch.Tensor],
    exp_avg_sqs: Sequence[torch.Tensor],
    *,
    step: int,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    bases: Sequence[torch.Tensor | None] | None = None,
    pull: torch.Tensor | None = None,
    l1: bool = False,
    masters: Sequence[torch.Tensor] | None = None,
    sums: bool = True,
    backend: str | None = None,
) -> torch.Tensor:
    """One step of AdamR (DAREx, arXiv 2410.09344), in place and in one pass: Adam (arXiv 1412.6980) whose
    weights are first pulled towards the base.

    w <- w - pull (w - base), with ``l1`` w - pull sign(w - base); m and v as in Adam; then
    w <- w - lr / (1 - b1^t) m / (sqrt(v / (1 - b2^t)) + eps). In AdamR pull is lr wd / vbar, vbar the square
    root of the mean of v / (1 - b2^t) over all tensors: :class:`pydelta.optim.AdamR` makes it. fp32 inside
    (fp64 for fp64), each operation rounded by itself, with the same bits on every backend and thread count;
    no host synchronisation; ``data_ptr()`` stays.

    Args:
        params: float32, bfloat16, float16 or float64 tensors on one device; of any shapes and strides.
        grads: one for each, of its shape and dtype.
        exp_avgs, exp_avg_sqs: Adam's moments m and v, float32 (float64 for float64).
        step: t, from 1 on.
        lr, betas, eps: Adam's.
        bases: what each weight is pulled towards, in any floating dtype; None: nothing.
        pull: 0-D float64 on the device; without it this is Adam.
        masters: fp32 weights that are updated instead; ``params`` become their rounded copies.
        sums: whether the gradients' squares are summed.
        backend: "reference", "cpu", "cuda" or "triton" instead of the dispatcher's choice.

    Returns:
        The sum of the squares of each gradient, (n,) float64: the increment of the sum of v. Without
        ``sums``, (0,).

    Raises:
        TypeError: something is no real floating tensor, or a number no number.
        ValueError: lists, shapes, dtypes or devices differ, or a number is out of range.
        RuntimeError: ``backend`` is not there.
    """
    op = "adamr_step_"
    weights = _lists.tensors(op, "params", params)
    slopes = _lists.beside(op, "grads", grads, "params", weights)
    first = _lists.beside(op, "exp_avgs", exp_avgs, "params", weights, wide=True)
    second = _lists.beside(op, "exp_avg_sqs", exp_avg_sqs, "params", weights, wide=True)
    origins = [] if bases is None else _lists.maybe_beside(op, "bases", bases, "params", weights)
    wide = [] if masters is None else _lists.beside(op, "masters", masters, "params", weights, wide=True)
    if pull is not None:
        _lists.scalar(op, "pull", pull, _lists.device_of(weights))
    numbers = adam_numbers(op, lr, betas, eps)
    if check.index(op, "step", step) < 1:
        raise ValueError(f"[{op}] step must be at least 1, got {step}")
    flags = check.flag(op, "l1", l1), check.flag(op, "sums", sums)
    chosen = check.backend(op, backend)
    with torch.no_grad():
        squares: torch.Tensor = _op(
            weights, slopes, first, second, origins, wide, pull, step, *numbers, *flags, chosen
        )
    return squares


def adam_numbers(op: str, lr: object, betas: object, eps: object) -> tuple[float, list[float], float]:
    """Adam's lr, betas and eps, checked."""
    pair = [check.number(op, f"betas[{i}]", x) for i, x in enumerate(check.sequence(op, "betas", betas))]
    if len(pair) != 2 or not all(0 <= x < 1 for x in pair):
        raise ValueError(f"[{op}] betas must be two numbers in [0, 1), got {betas}")
    return _lists.at_least_zero(op, "lr", lr), pair, _lists.at_least_zero(op, "eps", eps)
