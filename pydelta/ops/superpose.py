"""``pydelta.superpose``: many deltas into one, in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import torch

from pydelta import _dispatch
from pydelta.core import check
from pydelta.core.quantized import Quantized, check_bits, group_size
from pydelta.core.random import Key
from pydelta.ops._codes import superpose_codes
from pydelta.ops._library import key_of, register, to_int64, without_grad


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


@overload
def superpose(
    base: torch.Tensor,
    tuned: Sequence[torch.Tensor],
    keys: Sequence[Key],
    *,
    weights: Sequence[float] | None = ...,
    transform: str = ...,
    dim: int = ...,
    bits: None = ...,
    group: str | int = ...,
    out: torch.Tensor | None = ...,
    out_dtype: torch.dtype | None = ...,
    backend: str | None = ...,
) -> torch.Tensor: ...


@overload
def superpose(
    base: torch.Tensor,
    tuned: Sequence[torch.Tensor],
    keys: Sequence[Key],
    *,
    weights: Sequence[float] | None = ...,
    transform: str = ...,
    dim: int = ...,
    bits: int,
    group: str | int = ...,
    backend: str | None = ...,
) -> Quantized: ...


def superpose(
    base: torch.Tensor,
    tuned: Sequence[torch.Tensor],
    keys: Sequence[Key],
    *,
    weights: Sequence[float] | None = None,
    transform: str = "sign",
    dim: int = -1,
    bits: int | None = None,
    group: str | int = "row",
    out: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> torch.Tensor | Quantized:
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
        bits: 1, 2, 4 or 8 gives the codes of S, see :func:`pydelta.quantize`, made block by block: S itself
            is nowhere in memory. Codes run along the input axis, which comes last in them.
        group: with ``bits``, "row" or the number of elements that share a scale.
        out: written instead of a new tensor; may be ``base`` itself if the dtypes agree.
        out_dtype: dtype of the result; default float32 (float64 for a float64 base), or ``out``'s.
        backend: "reference", "cpu", "cuda" or "triton" instead of the dispatcher's choice.

    Returns:
        S, with the base's shape and device; contiguous. With ``bits`` a :class:`pydelta.Quantized`.

    Raises:
        TypeError: something is no real floating tensor, or a key no Key.
        ValueError: no model, numbers of models, keys and weights that differ, shapes, dtypes or devices that
            differ, an unknown transform, a ``dim`` out of range, bits that do not exist, a group that does
            not divide the row, a bad ``out``, or ``out`` or ``out_dtype`` with ``bits``.
        RuntimeError: ``backend`` is not there.
    """
    op = "superpose"
    check.floating(op, "base", base)
    check.has_dimension(op, "base", base)
    models = check.models(op, tuned, base)
    streams = check.keys(op, keys, len(models))
    factors = check.weights(op, weights, len(models))
    check.choice(op, "transform", transform, check.TRANSFORMS)
    axis, chosen = check.dim(op, dim, base), check.backend(op, backend)
    seeds, counters = [to_int64(key.seed) for key in streams], [to_int64(key.stream) for key in streams]
    base = without_grad(base)
    if bits is not None:
        if out is not None or out_dtype is not None:
            raise ValueError(f"[{op}] out and out_dtype must not be given with bits, got bits={bits!r}")
        check_bits(op, bits)
        base, *models = (x.movedim(axis, -1) for x in (base, *models))
        size = 0 if group == "row" else group_size(op, group, base.shape[-1])
        codes, scales = superpose_codes(base, models, seeds, counters, factors, transform, bits, size, chosen)
        return Quantized(codes, scales, bits, group, tuple(base.shape), check.compute_dtype(base.dtype))
    dtype = check.out_dtype(op, out_dtype, out, check.compute_dtype(base.dtype))
    args = (base, models, seeds, counters, factors, transform, axis, dtype, chosen)
    if out is None:
        return _new(*args)
    _into(*args, check.out(op, out, base, dtype))
    return out
