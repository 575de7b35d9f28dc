"""``pydelta.vera_merge``: a VeRA adapter merged into the weight that it adapts."""

from __future__ import annotations

import torch

from pydelta import _dispatch
from pydelta.core import check
from pydelta.core.random import Key
from pydelta.ops._library import define, key_of, no_grad_into_out, to_int64, without_grad
from pydelta.ops.vera_linear import check_vectors


def _empty(
    weight: torch.Tensor, d: torch.Tensor, b: torch.Tensor, seed: int, stream: int, backend: str
) -> torch.Tensor:
    return torch.empty_like(weight, memory_format=torch.contiguous_format)


def _new(
    weight: torch.Tensor, d: torch.Tensor, b: torch.Tensor, seed: int, stream: int, backend: str
) -> torch.Tensor:
    out = _empty(weight, d, b, seed, stream, backend)
    _into(weight, d, b, seed, stream, backend, out)
    return out


def _into(
    weight: torch.Tensor,
    d: torch.Tensor,
    b: torch.Tensor,
    seed: int,
    stream: int,
    backend: str,
    out: torch.Tensor,
) -> None:
    check.no_partial_overlap("vera_merge", out, [weight, d, b])
    kernel = _dispatch.kernel("vera_merge", weight, backend)
    kernel(weight, d, b, key_of(seed, stream), out=out)


_ARGUMENTS = "Tensor weight, Tensor d, Tensor b, int seed, int stream, str backend"
_operator = define("vera_merge", _ARGUMENTS, "Tensor", _new, _empty)
_operator_out = define("vera_merge_out", f"{_ARGUMENTS}, Tensor(a!) out", "()", _into)


def vera_merge(
    weight: torch.Tensor,
    d: torch.Tensor,
    b: torch.Tensor,
    key: Key,
    *,
    out: torch.Tensor | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """W + diag(b) B diag(d) A, with :func:`pydelta.vera_linear`'s matrices (arXiv 2310.11454, section 3.2).

    Strips of A and blocks of B are made one after the other: beside the result no memory of the weight's
    size is needed. fp32 inside (fp64 for fp64), one rounding. Not differentiable.

    Args:
        weight: (m, n) float32, bfloat16, float16 or float64; any strides.
        d, b: (r) and (m), as in :func:`pydelta.vera_linear`.
        key: of the matrices.
        out: written instead of a new tensor; any strides; may be ``weight`` itself.
        backend: "reference", "cpu", "cuda" or "triton" instead of the dispatcher's choice.

    Returns:
        (m, n), dtype and device of ``weight``.

    Raises:
        TypeError: a tensor or the key is of another kind.
        ValueError: shapes, dtypes or devices that do not fit, a rank of 0, an ``out`` that overlaps an input
            partly.
        RuntimeError: ``backend`` is not there.
    """
    op = "vera_merge"
    for name, tensor in (("weight", weight), ("d", d), ("b", b)):
        check.floating(op, name, tensor)
        if tensor.device != weight.device:
            raise ValueError(f"[{op}] {name} must be on weight's device {weight.device}, got {tensor.device}")
    if weight.dim() != 2:
        raise ValueError(f"[{op}] weight must be (m, n), got {tuple(weight.shape)}")
    check_vectors(op, d, b, weight.shape[0], ("weight", weight), False)
    key, backend = check.key(op, "key", key), check.backend(op, backend)
    if out is not None:
        no_grad_into_out(op, [weight, d, b])
        check.out(op, out, weight, weight.dtype)
    inputs = (*(without_grad(x) for x in (weight, d, b)), to_int64(key.seed), to_int64(key.stream), backend)
    if out is None:
        new: torch.Tensor = _operator(*inputs)
        return new
    _operator_out(*inputs, out)
    return out
