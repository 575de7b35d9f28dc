"""``pydelta.ops.square_sums``: one pass over a list of tensors, for norms that never change."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pydelta import _dispatch
from pydelta.core import check
from pydelta.ops import _lists
from pydelta.ops._library import register


def _empty(xs: list[torch.Tensor], *rest: object) -> torch.Tensor:
    return torch.empty(len(xs), dtype=torch.float64, device=_lists.device_of(xs))


def _run(
    out: torch.Tensor, xs: list[torch.Tensor], weights: list[torch.Tensor], eta: float, backend: str
) -> None:
    for places, (some, beside) in _lists.groups(xs, weights):
        sums = out if len(places) == len(xs) else out.new_empty(len(places))
        if places:
            kernel = _dispatch.kernel("square_sums", xs[places[0]], backend)
            kernel(_lists.dense(some), weights=_lists.dense(beside) or None, eta=eta, out=sums)
        _lists.put(out, places, sums)


new_sums, _ = register("square_sums", "Tensor[] xs, Tensor[] weights, float eta, str backend", _run, _empty)


def square_sums(
    xs: Sequence[torch.Tensor],
    *,
    weights: Sequence[torch.Tensor] | None = None,
    eta: float = 0.0,
    backend: str | None = None,
) -> torch.Tensor:
    """The sum of squares of each tensor, or of (|w| + eta) x with ``weights``: SAM's and ASAM's norms.

    Equivalent to ``torch.stack([x.double().square().sum() for x in xs])``; products in fp64, sums in an order
    that depends on nothing but the shape, so the bits are the same on every backend and thread count. No host
    synchronisation. Not differentiable.

    Args:
        xs: float32, bfloat16, float16 or float64 tensors on one device, of any shapes and strides.
        weights: one for each of ``xs``, of its shape; of its dtype or float32.
        eta: added to the magnitude of each weight.
        backend: "reference", "cpu", "cuda" or "triton" instead of the dispatcher's choice.

    Returns:
        (n,) float64 on the device of ``xs``.

    Raises:
        TypeError: something is no real floating tensor.
        ValueError: shapes or devices differ, or a negative ``eta``.
        RuntimeError: ``backend`` is not there.
    """
    op = "square_sums"
    tensors = _lists.tensors(op, "xs", xs)
    beside = [] if weights is None else _lists.sources_of(op, "weights", weights, "xs", tensors)
    with torch.no_grad():
        return new_sums(tensors, beside, _lists.at_least_zero(op, "eta", eta), check.backend(op, backend))
