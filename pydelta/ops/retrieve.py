"""``pydelta.retrieve``: one model back out of a superposition, in one pass."""

from __future__ import annotations

import torch

from pydelta import _dispatch
from pydelta.core import check
from pydelta.core.quantized import Quantized, check_codes
from pydelta.core.random import Key
from pydelta.ops._codes import retrieve_codes, retrieve_codes_into
from pydelta.ops._library import key_of, register, to_int64, without_grad


def _empty(
    base: torch.Tensor,
    superposed: torch.Tensor,
    seed: int,
    stream: int,
    lam: float,
    transform: str,
    dim: int,
    out_dtype: torch.dtype,
    backend: str,
) -> torch.Tensor:
    return torch.empty_like(base, dtype=out_dtype, memory_format=torch.contiguous_format)


def _run(
    out: torch.Tensor,
    base: torch.Tensor,
    superposed: torch.Tensor,
    seed: int,
    stream: int,
    lam: float,
    transform: str,
    dim: int,
    out_dtype: torch.dtype,
    backend: str,
) -> None:
    _dispatch.kernel("retrieve", base, backend)(
        base.contiguous(),
        superposed.contiguous(),
        key_of(seed, stream),
        out=out,
        lam=lam,
        transform=transform,
        dim=dim,
        out_dtype=out_dtype,
    )


_new, _into = register(
    "retrieve",
    "Tensor base, Tensor superposed, int seed, int stream, float lam, str transform, int dim, "
    "ScalarType out_dtype, str backend",
    _run,
    _empty,
)


def retrieve(
    base: torch.Tensor,
    superposed: torch.Tensor | Quantized,
    key: Key,
    *,
    lam: float = 1.0,
    transform: str = "sign",
    dim: int = -1,
    out: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """Recovers one model: base + lam * T^-1(superposed).

    RanDeS (arXiv 2505.11204). One pass: base and superposition are read once, the weights written
    once, in bf16 6 bytes an element. Product and sum are rounded to fp32 (fp64 for a float64 base) one by
    one, the result to its dtype once; the bits are the same on every backend. With one model, signs
    and lam = 1 it undoes :func:`pydelta.superpose`. Not differentiable.

    Args:
        base: float32, bfloat16, float16 or float64, at least one dimension; any strides.
        superposed: what :func:`pydelta.superpose` gave: the base's shape and device, any of these dtypes
            (float64 with a float64 base, and only there); or the codes that its ``bits`` give.
        key: the model's random stream.
        lam: the merge coefficient lambda; 1 is unbiased.
        transform: "sign", "hadamard" or "none", as given to :func:`pydelta.superpose`.
        dim: the input axis, likewise.
        out: written instead of a new tensor; may be ``base`` itself if the dtypes agree.
        out_dtype: dtype of the result; default the base's, or ``out``'s.
        backend: "reference", "cpu", "cuda" or "triton" instead of the dispatcher's choice.

    Returns:
        The model's weights, with the base's shape and device; contiguous.

    Raises:
        TypeError: something is no real floating tensor, or ``key`` no Key.
        ValueError: shapes or devices that differ, float64 mixed with other dtypes, a ``lam`` that is not
            finite, an unknown transform, a ``dim`` out of range, or a bad ``out``.
        RuntimeError: ``backend`` is not there.
    """
    op = "retrieve"
    check.floating(op, "base", base)
    check.has_dimension(op, "base", base)
    key = check.key(op, "key", key)
    lam = check.number(op, "lam", lam)
    check.choice(op, "transform", transform, check.TRANSFORMS)
    axis, chosen = check.dim(op, dim, base), check.backend(op, backend)
    dtype = check.out_dtype(op, out_dtype, out, base.dtype)
    if out is not None:
        check.out(op, out, base, dtype)
    base, seeds = without_grad(base), (to_int64(key.seed), to_int64(key.stream))
    if isinstance(superposed, Quantized):
        moved = base.movedim(axis, -1)
        check_codes(op, "superposed", superposed, moved)
        size = 0 if superposed.group == "row" else int(superposed.group)
        parts = superposed.codes, superposed.scales
        coded = (moved, *parts, *seeds, lam, transform, superposed.bits, size, dtype, chosen)
        if out is None:
            return retrieve_codes(*coded).movedim(-1, axis).contiguous()
        retrieve_codes_into(*coded, out.movedim(axis, -1))
        return out
    check.floating(op, "superposed", superposed)
    check.alike(op, "superposed", superposed, "base", base)
    check.same_precision(op, "superposed", superposed.dtype, base.dtype)
    args = (base, without_grad(superposed), *seeds, lam, transform, axis, dtype, chosen)
    if out is None:
        return _new(*args)
    _into(*args, out)
    return out
