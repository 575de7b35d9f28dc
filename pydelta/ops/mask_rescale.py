"""``pydelta.mask_rescale``: a delta, masked and rescaled in one pass."""

from __future__ import annotations

import torch

from pydelta import _dispatch
from pydelta.core import check
from pydelta.core.masks import Mask
from pydelta.ops import _masks
from pydelta.ops._library import register, without_grad


def _empty(delta: torch.Tensor, base: torch.Tensor | None, *rest: object) -> torch.Tensor:
    return torch.empty_like(delta, memory_format=torch.contiguous_format)


def _run(
    out: torch.Tensor,
    delta: torch.Tensor,
    base: torch.Tensor | None,
    kinds: list[int],
    seeds: list[int],
    streams: list[int],
    numbers: list[float],
    cuts: list[torch.Tensor],
    backend: str,
) -> None:
    (mask,) = _masks.unpack(kinds, seeds, streams, numbers, cuts)
    _dispatch.kernel("mask_rescale", delta, backend)(
        delta.contiguous(), mask, base=None if base is None else base.contiguous(), out=out
    )


_new, _into = register(
    "mask_rescale",
    f"Tensor delta, Tensor? base, {_masks.SCHEMA}, str backend",
    _run,
    _empty,
)


def mask_rescale(
    delta: torch.Tensor,
    mask: Mask,
    *,
    base: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """What a mask leaves of a delta, or of delta - base, multiplied by the mask's factor; zero elsewhere.

    A dropped element is multiplied by 0, as by ``delta * mask`` of torch. So NaN stays NaN whatever the mask
    says. An infinity stays if it is kept and becomes NaN if it is dropped.

    DARE (arXiv 2311.03099), DAREx-q (arXiv 2410.09344), Model Breadcrumbs (arXiv 2312.06795), TIES's trim
    (arXiv 2306.01708), WANDA (arXiv 2306.11695) or DELLA (arXiv 2406.11617), by the mask. Computed in fp32
    (fp64 for fp64) and rounded once, with the same bits on every backend; zeros are positive. Not
    differentiable.

    Args:
        delta: float32, bfloat16, float16 or float64, any shape and strides; with ``base``, a tuned tensor.
        mask: one of those of ``pydelta.masks``, or a :func:`pydelta.magnitude_threshold`.
        base: a tensor of delta's shape, dtype and device.
        out: written instead of a new tensor; may be ``delta`` or ``base`` itself.
        backend: "reference", "cpu", "cuda" or "triton" instead of the dispatcher's choice.

    Returns:
        A tensor of delta's shape, dtype and device; contiguous.

    Raises:
        TypeError: something is no real floating tensor, or ``mask`` no mask.
        ValueError: shapes, dtypes or devices differ, a mask that does not fit the shape, or a bad ``out``.
        RuntimeError: ``backend`` is not there.
    """
    op = "mask_rescale"
    check.floating(op, "delta", delta)
    if base is not None:
        check.floating(op, "base", base)
        check.alike(op, "base", base, "delta", delta)
        check.dtype_of(op, "base", base, delta.dtype)
        base = without_grad(base)
    chosen = check.backend(op, backend)
    if mask is None:
        raise TypeError(f"[{op}] mask must be a mask, got NoneType")
    if out is not None:
        check.out(op, out, delta, delta.dtype)
    lowered = _masks.kernel_mask(op, "mask", mask, delta, base, 0, chosen)
    args = (without_grad(delta), base, *_masks.pack([lowered]), chosen)
    if out is None:
        return _new(*args)
    _into(*args, out)
    return out
