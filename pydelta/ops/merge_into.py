"""``pydelta.merge_into``: K fine-tunes into one model, in one pass."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from pydelta import _dispatch
from pydelta.core import check, codes
from pydelta.core.masks import Mask
from pydelta.ops import _masks
from pydelta.ops._library import register, without_grad

ELECTIONS = tuple(codes.ELECTIONS)


def _empty(base: torch.Tensor | None, tuned: list[torch.Tensor], *rest: object) -> torch.Tensor:
    *_, out_dtype, _ = rest
    assert isinstance(out_dtype, torch.dtype)
    return torch.empty_like(tuned[0], dtype=out_dtype, memory_format=torch.contiguous_format)


def _run(
    out: torch.Tensor,
    base: torch.Tensor | None,
    tuned: list[torch.Tensor],
    kinds: list[int],
    seeds: list[int],
    streams: list[int],
    numbers: list[float],
    cuts: list[torch.Tensor],
    weights: list[float],
    elect: str,
    lam: float,
    normalize: bool,
    start: int,
    out_dtype: torch.dtype,
    backend: str,
) -> None:
    _dispatch.kernel("merge_into", tuned[0], backend)(
        None if base is None else base.contiguous(),
        [x.contiguous() for x in tuned],
        weights=weights,
        masks=_masks.unpack(kinds, seeds, streams, numbers, cuts),
        elect=elect,
        lam=lam,
        normalize=normalize,
        start=start,
        out=out,
        out_dtype=out_dtype,
    )


_new, _into = register(
    "merge_into",
    f"Tensor? base, Tensor[] tuned, {_masks.SCHEMA}, float[] weights, str elect, float lam, bool normalize, "
    "int start, ScalarType out_dtype, str backend",
    _run,
    _empty,
)


def merge_into(
    base: torch.Tensor | None,
    tuned: Sequence[torch.Tensor],
    *,
    weights: Sequence[float] | None = None,
    masks: Sequence[Mask | None] | None = None,
    elect: str = "sum",
    lam: float = 1.0,
    normalize: bool = False,
    start: int = 0,
    out: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """Merges K models: base + lam * sum_k w_k mask_k(tuned_k - base).

    Task arithmetic, DARE, DELLA, Model Breadcrumbs and TIES by their masks and elections; masks of different
    kinds may be mixed. Base and tuned tensors are read once and the result is written once; deltas, masks and
    sums live in registers or in a tile (masks by magnitude that come without their cuts are counted first,
    see :func:`pydelta.magnitude_threshold`). Each step is rounded to fp32 (fp64 for fp64), sums run in the
    models' order, and the bits are the same on every backend. Not differentiable.

    NaN and infinities are never replaced by the base's value. A NaN in a delta makes the result NaN, whatever
    masks and elections say; an infinity passes where its mask keeps it and is NaN where it is dropped. An
    election whose sum is NaN (infinities of both signs) gives NaN.

    Args:
        base: float32, bfloat16, float16 or float64, any shape and strides; None is a base of zeros, so that
            tuned models themselves are averaged.
        tuned: K tensors of the base's shape, dtype and device; K >= 1.
        weights: K numbers; default all 1.
        masks: K masks of ``pydelta.masks``, :func:`pydelta.magnitude_threshold` results, or None; default
            none.
        elect: "sum"; "ties" (arXiv 2306.01708), which elects the sign of the sum per element, plus for zero,
            and leaves out the terms of the other sign; or "ties_unweighted", which elects the sign of the sum
            without weights.
        lam: factor of the sum.
        normalize: divide by the weights: their sum, or after an election the sum of those that agreed (the
            disjoint mean; sums under 1e-8 in size divide nothing).
        start: for tensors that are part of a larger one, the index of their first element there, which random
            masks and cuts count from.
        out: written instead of a new tensor; may be ``base`` or one of ``tuned`` if the dtypes agree.
        out_dtype: dtype of the result; default the tuned models', or ``out``'s.
        backend: "reference", "cpu", "cuda" or "triton" instead of the dispatcher's choice.

    Returns:
        The merged tensor, of the tuned models' shape and device; contiguous.

    Raises:
        TypeError: something is no real floating tensor, or a mask no mask.
        ValueError: no model, numbers of models, weights and masks that differ, shapes, dtypes or devices that
            differ, a mask that does not fit the shape, weights that add up to 0 where they divide, an
            unknown election, a bad ``start``, or a bad ``out``.
        RuntimeError: ``backend`` is not there.
    """
    op = "merge_into"
    models = check.models(op, tuned, base)
    base = None if base is None else without_grad(base)
    first = models[0] if base is None else base
    factors = check.weights(op, weights, len(models))
    lam = check.number(op, "lam", lam)
    check.choice(op, "elect", elect, ELECTIONS)
    normalize = check.flag(op, "normalize", normalize)
    start = check.index(op, "start", start)
    if normalize and elect == "sum":
        whole = math.fsum(factors)
        if whole == 0:
            raise ValueError(f"[{op}] weights must not add up to 0 where normalize is true, got {factors}")
        lam, normalize = lam / whole, False
    chosen = check.backend(op, backend)
    dtype = check.out_dtype(op, out_dtype, out, first.dtype)
    if out is not None:
        check.out(op, out, first, dtype)
    lowered = _masks.kernel_masks(op, masks, models, base, start, chosen)
    args = (base, models, *_masks.pack(lowered), factors, elect, lam, normalize, start, dtype, chosen)
    if out is None:
        return _new(*args)
    _into(*args, out)
    return out
