"""``pydelta.rotate``: the randomised Hadamard transform in one pass."""

from __future__ import annotations

from typing import Any

import torch

from pydelta import _dispatch
from pydelta.core import check
from pydelta.core.random import Key
from pydelta.ops._library import key_of, no_grad_into_out, register, to_int64


def _empty(x: torch.Tensor, seed: int, stream: int, block: int, inverse: bool, backend: str) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _run(
    out: torch.Tensor,
    x: torch.Tensor,
    seed: int,
    stream: int,
    block: int,
    inverse: bool,
    backend: str,
) -> None:
    kernel = _dispatch.kernel("rotate", x, backend)
    key = key_of(seed, stream)
    kernel(x.contiguous(), key, out=out, block=block, inverse=inverse)


def _save(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    _, ctx.seed, ctx.stream, ctx.block, ctx.inverse, ctx.backend = inputs


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    # Orthogonal: the transpose is the inverse.
    back = _new(grad, ctx.seed, ctx.stream, ctx.block, not ctx.inverse, ctx.backend)
    return back, None, None, None, None, None


_new, _into = register(
    "rotate",
    "Tensor x, int seed, int stream, int block, bool inverse, str backend",
    _run,
    _empty,
    _backward,
    _save,
)


def rotate(
    x: torch.Tensor,
    key: Key,
    *,
    block: int | None = None,
    inverse: bool = False,
    out: torch.Tensor | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """Random orthogonal transform D H D' of the last dimension, fused into one pass over memory.

    Equivalent to ``sign * hadamard(sign' * x)``: D' takes the signs 0 .. n-1 of the key and acts first,
    H is the orthonormal :func:`pydelta.hadamard`, D takes the signs 2**40 .. 2**40 + n-1. The inverse is
    D' H D. Differentiable.

    Args:
        x: (..., n) float32, bfloat16, float16 or float64; any strides.
        key: the random stream, see :func:`pydelta.key`.
        block: as in :func:`pydelta.hadamard`.
        inverse: apply the inverse, which is the transpose.
        out: written instead of a new tensor; may be ``x`` itself.
        backend: "reference", "cpu", "cuda" or "triton" instead of the dispatcher's choice.

    Returns:
        (..., n), dtype and device of ``x``; contiguous.

    Raises:
        TypeError: ``x`` is no real floating tensor, ``key`` no Key, or ``inverse`` no bool.
        ValueError: a 0-D ``x``, a block that does not fit, an ``out`` of another shape, dtype or device, or
            one that overlaps ``x`` partly.
        RuntimeError: ``backend`` is not there.
    """
    check.floating("rotate", "x", x)
    check.has_dimension("rotate", "x", x)
    block = check.block("rotate", block, int(x.shape[-1]))
    key = check.key("rotate", "key", key)
    check.flag("rotate", "inverse", inverse)
    args = (x, to_int64(key.seed), to_int64(key.stream), block, inverse, check.backend("rotate", backend))
    if out is None:
        return _new(*args)
    no_grad_into_out("rotate", [x])
    _into(*args, check.out("rotate", out, x, x.dtype))
    return out
