"""``pydelta.sign_flip``: seeded random signs along one dimension."""

from __future__ import annotations

from typing import Any

import torch

from pydelta import _dispatch
from pydelta.core import check
from pydelta.core.random import Key
from pydelta.ops._library import key_of, no_grad_into_out, register, to_int64


def _empty(x: torch.Tensor, seed: int, stream: int, dim: int, backend: str) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _run(out: torch.Tensor, x: torch.Tensor, seed: int, stream: int, dim: int, backend: str) -> None:
    key = key_of(seed, stream)
    _dispatch.kernel("sign_flip", x, backend)(x.contiguous(), key, out=out, dim=dim)


def _save(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    _, *ctx.options = inputs


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    return _new(grad, *ctx.options), None, None, None, None  # an involution, and diagonal


_new, _into = register(
    "sign_flip", "Tensor x, int seed, int stream, int dim, str backend", _run, _empty, _backward, _save
)


def sign_flip(
    x: torch.Tensor,
    key: Key,
    *,
    dim: int = -1,
    out: torch.Tensor | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """Multiplies by random signs along ``dim``: RanDeS's column signs (arXiv 2505.11204).

    Equivalent to ``x * s`` with s in {-1, +1}, s broadcast along ``dim``; exact in every dtype, and an
    involution: applied twice it returns ``x``. Sign i is a pure function of the key and i.
    Differentiable.

    Args:
        x: float32, bfloat16, float16 or float64, at least one dimension; any strides.
        key: the random stream, see :func:`pydelta.key`.
        dim: the input axis.
        out: written instead of a new tensor; may be ``x`` itself.
        backend: "reference", "cpu", "cuda" or "triton" instead of the dispatcher's choice.

    Returns:
        Shape, dtype and device of ``x``; contiguous.

    Raises:
        TypeError: ``x`` is no real floating tensor, or ``key`` no Key.
        ValueError: a 0-D ``x``, a ``dim`` out of range, an ``out`` of another shape, dtype or device, or
            one that overlaps ``x`` partly.
        RuntimeError: ``backend`` is not there.
    """
    check.floating("sign_flip", "x", x)
    check.has_dimension("sign_flip", "x", x)
    dim = check.dim("sign_flip", dim, x)
    key = check.key("sign_flip", "key", key)
    args = (x, to_int64(key.seed), to_int64(key.stream), dim, check.backend("sign_flip", backend))
    if out is None:
        return _new(*args)
    no_grad_into_out("sign_flip", [x])
    _into(*args, check.out("sign_flip", out, x, x.dtype))
    return out
