"""``pydelta.hadamard``: the block-diagonal Walsh-Hadamard transform."""

from __future__ import annotations

import math
from typing import Any

import torch

from pydelta import _dispatch
from pydelta.core import check
from pydelta.ops._library import no_grad_into_out, register


def _empty(x: torch.Tensor, block: int, scale: float, backend: str) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _run(out: torch.Tensor, x: torch.Tensor, block: int, scale: float, backend: str) -> None:
    _dispatch.kernel("hadamard", x, backend)(x.contiguous(), out=out, block=block, scale=scale)


def _save(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    _, *ctx.options = inputs


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    return _new(grad, *ctx.options), None, None, None  # H is symmetric


_new, _into = register(
    "hadamard", "Tensor x, int block, float scale, str backend", _run, _empty, _backward, _save
)


def hadamard(
    x: torch.Tensor,
    *,
    block: int | None = None,
    scale: float | None = None,
    out: torch.Tensor | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """Walsh-Hadamard transform of consecutive blocks of the last dimension.

    Equivalent to ``scale * x.unflatten(-1, (-1, block)) @ H`` flattened again, with H the Sylvester
    matrix ``scipy.linalg.hadamard(block)``, in one pass over memory. The bits are the same on every
    backend: butterflies run in fp32 (fp64 for fp64) with ascending distance, then comes the scale,
    then one rounding. Differentiable.

    Args:
        x: (..., n) float32, bfloat16, float16 or float64; any strides.
        block: a power of two that divides n, at most 2**24 (32768 on a GPU). Default: the largest
            one, at most 32768; 1 is the identity.
        scale: multiplies the plain +-1 transform. Default: 1 / sqrt(block), which makes it orthonormal.
        out: written instead of a new tensor; may be ``x`` itself.
        backend: "reference", "cpu", "cuda" or "triton" instead of the dispatcher's choice.

    Returns:
        (..., n), dtype and device of ``x``; contiguous.

    Raises:
        TypeError: ``x`` is no real floating tensor.
        ValueError: a 0-D ``x``, a block that does not fit, a scale that is not finite, an ``out`` of another
            shape, dtype or device, or one that overlaps ``x`` partly.
        RuntimeError: ``backend`` is not there.
    """
    check.floating("hadamard", "x", x)
    check.has_dimension("hadamard", "x", x)
    block = check.block("hadamard", block, int(x.shape[-1]))
    scale = 1.0 / math.sqrt(block) if scale is None else check.number("hadamard", "scale", scale)
    backend = check.backend("hadamard", backend)
    if out is None:
        return _new(x, block, scale, backend)
    no_grad_into_out("hadamard", [x])
    _into(x, block, scale, backend, check.out("hadamard", out, x, x.dtype))
    return out
