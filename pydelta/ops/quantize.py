"""``pydelta.quantize`` and ``pydelta.dequantize``: unbiased low-bit codes and back."""

from __future__ import annotations

import torch

from pydelta import _dispatch
from pydelta.core import check
from pydelta.core.levels import code_shapes
from pydelta.core.quantized import Quantized, check_bits, group_size
from pydelta.ops._library import register, register_tuple, without_grad

Parts = tuple[torch.Tensor, torch.Tensor]


def _empty(x: torch.Tensor, bits: int, group: int, backend: str) -> Parts:
    codes, scales = code_shapes(x.shape, bits, group)
    return x.new_empty(codes, dtype=torch.uint8), x.new_empty(scales, dtype=torch.float32)


def _run(out: Parts, x: torch.Tensor, bits: int, group: int, backend: str) -> None:
    size = group or "row"
    _dispatch.kernel("quantize", x, backend)(
        x.contiguous(), bits=bits, group=size, out=Quantized(*out, bits, size, tuple(x.shape), x.dtype)
    )


_quantize = register_tuple(
    "quantize", "Tensor x, int bits, int group, str backend", "(Tensor, Tensor)", _run, _empty
)


def quantize(
    x: torch.Tensor,
    *,
    bits: int,
    group: str | int = "row",
    out: Quantized | None = None,
    backend: str | None = None,
) -> Quantized:
    """Codes of 1, 2, 4 or 8 bits an element, whose reconstruction is unbiased: <x, q> = ||x||^2.

    Each group is divided by its root mean square and coded by the Lloyd-Max quantiser of N(0, 1); its scale
    is a = ||x||^2 / <|x|, levels>, at one bit ||x||_2^2 / ||x||_1. (The usual mean of |x| minimises the
    distance and shrinks a Gaussian x by 2 / pi.) The relative squared error of a Gaussian x is D / (1 - D),
    with D the distortion of the quantiser: .571, .133, .0096 and .00004. The same bits on every backend; an
    element at a threshold takes the smaller level. Not differentiable.

    Args:
        x: float32, bfloat16, float16 or float64, at least one dimension; any strides. Computed in float32
            (sums in float64). A group that holds NaN or Inf gets a scale that is not finite.
        bits: 1, 2, 4 or 8.
        group: "row" (the last dimension), or a number of elements that divides it.
        out: written instead of a new one; of the same bits, group, shape and dtype.
        backend: "reference", "cpu", "cuda" or "triton" instead of the dispatcher's choice.

    Returns:
        Codes and scales on x's device.

    Raises:
        TypeError: ``x`` is no real floating tensor, or ``out`` no Quantized.
        ValueError: bits that do not exist, a group that does not divide the row, or an ``out`` for something
            else.
        RuntimeError: ``backend`` is not there.
    """
    op = "quantize"
    check.floating(op, "x", x)
    check.has_dimension(op, "x", x)
    check_bits(op, bits)
    size = group_size(op, group, x.shape[-1])
    x = without_grad(x)
    codes, scales = _quantize(x, bits, 0 if group == "row" else size, check.backend(op, backend))
    made = Quantized(codes, scales, bits, group, tuple(x.shape), x.dtype)
    if out is None:
        return made
    if not isinstance(out, Quantized):
        raise TypeError(f"[{op}] out must be a pydelta.Quantized, got {type(out).__name__}")
    wanted, has = ((q.bits, q.group, q.shape, q.dtype, q.device) for q in (made, out))
    if wanted != has:
        raise ValueError(f"[{op}] out must have bits, group, shape, dtype and device {wanted}, got {has}")
    out.codes.copy_(codes)
    out.scales.copy_(scales)
    return out


def _empty_values(
    codes: torch.Tensor,
    scales: torch.Tensor,
    bits: int,
    group: int,
    n: int,
    dtype: torch.dtype,
    backend: str,
) -> torch.Tensor:
    return torch.empty((*codes.shape[:-1], n), dtype=dtype, device=codes.device)


def _run_values(
    out: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    bits: int,
    group: int,
    n: int,
    dtype: torch.dtype,
    backend: str,
) -> None:
    shape = (*codes.shape[:-1], n)
    q = Quantized(codes.contiguous(), scales.contiguous(), bits, group or "row", shape, dtype)
    _dispatch.kernel("dequantize", scales, backend)(q, out=out, dtype=dtype)


_values, _values_into = register(
    "dequantize",
    "Tensor codes, Tensor scales, int bits, int group, int n, ScalarType dtype, str backend",
    _run_values,
    _empty_values,
)


def dequantize(
    q: Quantized,
    *,
    out: torch.Tensor | None = None,
    dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """The values that codes stand for: scale * level with the code's sign, in float32, rounded once.

    Args:
        q: what :func:`pydelta.quantize` gave.
        out: written instead of a new tensor.
        dtype: of the result; default the quantised tensor's, or ``out``'s.
        backend: "reference", "cpu", "cuda" or "triton" instead of the dispatcher's choice.

    Returns:
        A tensor of q's shape on q's device; contiguous.

    Raises:
        TypeError: ``q`` is no Quantized, or ``dtype`` no floating dtype.
        ValueError: a bad ``out``.
        RuntimeError: ``backend`` is not there.
    """
    op = "dequantize"
    if not isinstance(q, Quantized):
        raise TypeError(f"[{op}] q must be a pydelta.Quantized, got {type(q).__name__}")
    if dtype is None:
        dtype = out.dtype if isinstance(out, torch.Tensor) else q.dtype
    if dtype not in check.FLOATS:
        raise TypeError(f"[{op}] dtype must be a floating dtype of torch, got {dtype!r}")
    group = 0 if q.group == "row" else int(q.group)
    args = (q.codes, q.scales, q.bits, group, q.shape[-1], dtype, check.backend(op, backend))
    if out is None:
        return _values(*args)
    _values_into(*args, check.out(op, out, _like(q), dtype))
    return out


def _like(q: Quantized) -> torch.Tensor:
    """A tensor of q's shape and device that takes no memory."""
    return q.scales.new_empty(()).expand(q.shape)
