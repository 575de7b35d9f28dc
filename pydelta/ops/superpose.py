"""``pydelta.superpose``: many deltas into one, in one pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pydelta import _check, _dispatch
from pydelta.ops._library import key_of, register, to_int64, without_grad
from pydelta.random import Key


def _empty(
    base: torch.Tensor,
    tuned: list[torch.Tensor],
    seeds: list[int],
    streams: list[int],
    weights: list[float],
    transform: str,
    dim: int,
    out_dtype: torch.dtype,
    backend: str,
) -> torch.Tensor:
    return torch.empty_like(base, dtype=out_dtype, memory_format=torch.contiguous_format)


def _run(
    out: torch.Tensor,
    base: torch.Tensor,
    tuned: list[torch.Tensor],
    seeds: list[int],
    streams: list[int],
    weights: list[float],
    transform: str,
    dim: int,
    out_dtype: torch.dtype,
    backend: str,
) -> None:
    _dispatch.kernel("superpose", base, backend)(
        base.contiguous(),
        [x.contiguous() for x in tuned],
        [key_of(a, b) for a, b in zip(seeds, streams, strict=True)],
        out=out,
        weights=weights,
        transform=transform,
        dim=dim,
        out_dtype=out_dtype,
    )


_new, _into = register(
    "superpose",
    "Tensor base, Tensor[] tuned, int[] seeds, int[] streams, float[] weights, str transform, int dim, "
    "ScalarType out_dtype, str backend",
    _run,
    _empty,
)


def superpose(
    base: torch.Tensor,
    tuned: Sequence[torch.Tensor],
    keys: Sequence[Key],
    *,
    weights: Sequence[float] | None = None,
    transform: str = "sign",
    dim: int = -1,
    out: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """Sums the randomly transformed deltas of K models: S = sum_k w_k T_k(tuned_k - base).

    RanDeS (arXiv 2505.11204). Base and tuned tensors are read once and S is written once; deltas,
    signs and sums live in registers or in a tile. Each step is rounded to fp32 (fp64 for fp64), the
    sum runs in the models' order, and the bits are the same on every backend. Not differentiable.

    Args:
        base: float32, bfloat16, float16 or float64, at least one dimension; any strides.
        tuned: K tensors of the base's shape, dtype and device; K >= 1.
        keys: one random stream per model, see :func:`pydelta.key`.
        weights: K numbers; default all 1.
        transform: "sign" (random signs along ``dim``), "hadamard" (:func:`pydelta.rotate` along ``dim``) or
            "none".
        dim: the input axis.
        out: written instead of a new tensor; may be ``base`` itself if the dtypes agree.
        out_dtype: dtype of the result; default float32 (float64 for a float64 base), or ``out``'s.
        backend: "reference", "cpu", "cuda" or "triton" instead of the dispatcher's choice.

    Returns:
        S, with the base's shape and device; contiguous.

    Raises:
        TypeError: something is no real floating tensor, or a key no Key.
        ValueError: no model, numbers of models, keys and weights that differ, shapes, dtypes or devices that
            differ, an unknown transform, a ``dim`` out of range, or a bad ``out``.
        RuntimeError: ``backend`` is not there.
    """
    op = "superpose"
    _check.floating(op, "base", base)
    _check.has_dimension(op, "base", base)
    models = _check.models(op, tuned)
    for i, x in enumerate(models):
        _check.alike(op, f"tuned[{i}]", x, "base", base)
        _check.dtype_of(op, f"tuned[{i}]", x, base.dtype)
    _check.count(op, "keys", _check.sequence(op, "keys", keys), len(models))
    streams = [_check.key(op, f"keys[{i}]", key) for i, key in enumerate(keys)]
    if weights is None:
        weights = [1.0] * len(models)
    _check.count(op, "weights", _check.sequence(op, "weights", weights), len(models))
    args = (
        without_grad(base),
        models,
        [to_int64(key.seed) for key in streams],
        [to_int64(key.stream) for key in streams],
        [_check.number(op, f"weights[{i}]", w) for i, w in enumerate(weights)],
        _check.choice(op, "transform", transform, _check.TRANSFORMS),
        _check.dim(op, dim, base),
        _check.out_dtype(op, out_dtype, out, _check.compute_dtype(base.dtype)),
        _check.backend(op, backend),
    )
    if out is None:
        return _new(*args)
    _into(*args, _check.out(op, out, base, args[7]))
    return out
