"""``pydelta.superposed_linear``: a linear layer whose rows belong to different models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pydelta import _dispatch
from pydelta.core import check
from pydelta.core.quantized import Quantized
from pydelta.core.random import Key
from pydelta.ops._library import key_of, register, to_int64, without_grad
from pydelta.ops.quantize import dequantize
from pydelta.ops.rotate import rotate
from pydelta.ops.sign_flip import sign_flip


def _empty(
    x: torch.Tensor, weight: torch.Tensor | None, superposed: torch.Tensor, *rest: object
) -> torch.Tensor:
    return x.new_empty(x.shape[0], superposed.shape[0])


def _run(
    out: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor | None,
    superposed: torch.Tensor,
    scales: torch.Tensor | None,
    bias: torch.Tensor | None,
    seeds: list[int],
    streams: list[int],
    model: torch.Tensor,
    lams: list[float],
    transform: str,
    bits: int,
    group: int,
    backend: str,
) -> None:
    indices = model.tolist()
    if indices and not (min(indices) >= 0 and max(indices) < len(seeds)):
        got = f"{min(indices)} to {max(indices)}"
        raise ValueError(f"[superposed_linear] model must lie in [0, {len(seeds) - 1}], got {got}")
    _dispatch.kernel("superposed_linear", x, backend)(
        x.contiguous(),
        weight,
        _whole(x, superposed, scales, bits, group),
        [key_of(a, b) for a, b in zip(seeds, streams, strict=True)],
        model.contiguous(),
        lams=lams,
        transform=transform,
        bias=bias,
        out=out,
    )


def _whole(
    x: torch.Tensor, superposed: torch.Tensor, scales: torch.Tensor | None, bits: int, group: int
) -> torch.Tensor | Quantized:
    if scales is None:
        return superposed
    parts = superposed.contiguous(), scales.contiguous()
    return Quantized(*parts, bits, group or "row", (len(superposed), x.shape[1]), x.dtype)


def _save(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, weight, superposed, scales, _, seeds, streams, model, lams, *ctx.options = inputs
    ctx.save_for_backward(weight, superposed, scales, model)
    ctx.like = x.detach()[:0]
    ctx.models, ctx.lams = list(zip(seeds, streams, strict=True)), list(lams)


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    """g W_0 + lam_k T_k^-1 (g S), row by row; the transforms are orthogonal."""
    weight, superposed, scales, model = ctx.saved_tensors
    transform, bits, group, backend = ctx.options
    s = _whole(ctx.like, superposed, scales, bits, group)
    values = dequantize(s, dtype=torch.float32, backend=backend or None) if isinstance(s, Quantized) else s
    wide = torch.promote_types(grad.dtype, values.dtype)
    delta = grad.to(wide) @ values.to(wide)
    model = model.to(grad.device)
    back = torch.zeros_like(delta)
    for k, ((seed, stream), lam) in enumerate(zip(ctx.models, ctx.lams, strict=True)):
        key = key_of(seed, stream)
        if transform == "none":
            turned = delta
        elif transform == "sign":
            turned = sign_flip(delta, key, backend=backend or None)
        else:
            turned = rotate(delta, key, inverse=True, backend=backend or None)
        back = torch.where((model == k)[:, None], turned * lam, back)
    whole = back if weight is None else (grad @ weight).to(wide) + back
    return whole.to(grad.dtype), *[None] * 12


_new, _ = register(
    "superposed_linear",
    "Tensor x, Tensor? weight, Tensor superposed, Tensor? scales, Tensor? bias, int[] seeds, int[] streams, "
    "Tensor model, float[] lams, str transform, int bits, int group, str backend",
    _run,
    _empty,
    _backward,
    _save,
)


def superposed_linear(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    superposed: torch.Tensor | Quantized,
    keys: Sequence[Key],
    model: torch.Tensor | Sequence[int],
    *,
    lam: float | Sequence[float] = 1.0,
    transform: str = "sign",
    bias: torch.Tensor | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """y = W_0 x + lam_k S (T_k x) + b: every row through its own model, and no model's weights made.

    RanDeS's superposition (arXiv 2505.11204) from the side of the activations: (S diag(s)) x = S (s * x).
    Arithmetic as torch.nn.functional.linear's: sums in fp32 (fp64 for float64), held to a tolerance; in 16
    bits the base's part, the superposition's and the sum are rounded. The product with codes expands them
    in registers and in the first-level cache and reads 1/16 of the bytes of a bf16 matrix at one bit.
    Differentiable in x alone; the backward pass expands codes in memory.

    Args:
        x: (\\*rows, n) float32, bfloat16, float16 or float64; any strides.
        weight: (m, n), the base's, of x's dtype; None: the superposition's part alone.
        superposed: (m, n), what :func:`pydelta.superpose` gave with its ``dim`` at n: any of these dtypes
            (float64 with a float64 x, and only there), or codes.
        keys: one for each model.
        model: an index into ``keys`` for each of x's first dimensions: of shape (B,) for an x of (B, n), or
            of (B, T, n) whose T rows belong together. Integers, in a list or an int64 tensor on the CPU.
        lam: the merge coefficient, one or one per model.
        transform: "sign", "hadamard" or "none", as given to :func:`pydelta.superpose`.
        bias: (m,), of x's dtype.
        backend: "reference", "cpu", "cuda" or "triton" instead of the dispatcher's choice.

    Returns:
        (\\*rows, m) of x's dtype; contiguous.

    Raises:
        TypeError: something is no real floating tensor, ``model`` holds no integers, a key is no Key.
        ValueError: shapes, dtypes or devices that do not fit, an index out of range, a ``lam`` that is not
            finite, an unknown transform.
        RuntimeError: ``backend`` is not there.
    """
    op = "superposed_linear"
    check.floating(op, "x", x)
    check.has_dimension(op, "x", x)
    _check_layer(op, x, weight, superposed, bias)
    keys = [check.key(op, f"keys[{i}]", k) for i, k in enumerate(check.sequence(op, "keys", keys))]
    rows = _rows(op, model, x)
    lams = _lams(op, lam, len(keys))
    check.choice(op, "transform", transform, check.TRANSFORMS)
    parts: tuple[torch.Tensor, torch.Tensor | None]
    if isinstance(superposed, Quantized):
        parts, bits, group = (superposed.codes, superposed.scales), superposed.bits, superposed.group
    else:
        parts, bits, group = (without_grad(superposed), None), 0, "row"
    seeds, streams = [to_int64(k.seed) for k in keys], [to_int64(k.stream) for k in keys]
    weight, bias = (t if t is None else without_grad(t) for t in (weight, bias))
    tensors = (weight, *parts, bias)
    options = (transform, bits, 0 if group == "row" else int(group), check.backend(op, backend))
    flat = x.reshape(-1, x.shape[-1]) if x.shape[-1] else x.reshape(x.shape[:-1].numel(), 0)
    y = _new(flat, *tensors, seeds, streams, rows, lams, *options)
    return y.view(*x.shape[:-1], superposed.shape[0])


def _check_layer(op: str, x: torch.Tensor, weight: object, superposed: object, bias: object) -> None:
    if not isinstance(superposed, Quantized):
        check.floating(op, "superposed", superposed)
        assert isinstance(superposed, torch.Tensor)
        check.same_precision(op, "superposed", superposed.dtype, x.dtype)
    n, shape = x.shape[-1], tuple(superposed.shape)
    if len(shape) != 2 or shape[1] != n or superposed.device != x.device:
        got = f"{shape} on {superposed.device}"
        raise ValueError(f"[{op}] superposed must have shape (m, {n}) on {x.device}, got {got}")
    for name, tensor, wanted in (("weight", weight, shape), ("bias", bias, shape[:1])):
        if tensor is not None:
            check.floating(op, name, tensor)
            assert isinstance(tensor, torch.Tensor)
            check.like(op, name, tensor, wanted, x.dtype, x)


def _rows(op: str, model: object, x: torch.Tensor) -> torch.Tensor:
    """The model of each row of ``x``, (rows,) int64 on the CPU."""
    if not isinstance(model, torch.Tensor):
        indices = check.sequence(op, "model", model)
        if not all(isinstance(k, int) and not isinstance(k, bool) for k in indices):
            raise TypeError(f"[{op}] model must hold integers, got {indices!r}")
        model = torch.tensor(indices, dtype=torch.int64)
    if model.dtype != torch.int64 or model.device.type != "cpu":
        got = f"{check.name_of(model.dtype)} on {model.device}"
        raise TypeError(f"[{op}] model must hold int64 on cpu, got {got}")
    if not 1 <= model.dim() < x.dim() or x.shape[: model.dim()] != model.shape:
        got = f"{tuple(model.shape)} for x of shape {tuple(x.shape)}"
        raise ValueError(f"[{op}] model must have the shape of x's first dimensions, got {got}")
    each = x.shape[model.dim() : -1].numel()
    return model.reshape(-1) if each == 1 else model.reshape(-1).repeat_interleave(each)


def _lams(op: str, lam: object, count: int) -> list[float]:
    if not isinstance(lam, (list, tuple)):
        return [check.number(op, "lam", lam)] * count
    check.count(op, "lam", lam, count)
    return [check.number(op, f"lam[{i}]", value) for i, value in enumerate(lam)]
