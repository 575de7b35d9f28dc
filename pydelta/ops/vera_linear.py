"""``pydelta.vera_linear``: a linear layer with a VeRA adapter, or with one for each row."""

from __future__ import annotations

import math
from typing import Any

import torch

from pydelta import _dispatch
from pydelta.core import check
from pydelta.core.random import Key
from pydelta.ops._library import define, key_of, to_int64
from pydelta.products import vera

MATRICES = ("cached", "regenerated")

Named = tuple[str, torch.Tensor]
_Three = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _empty(keep: bool, x: torch.Tensor, d: torch.Tensor, b: torch.Tensor, *_: object) -> _Three:
    y, inner = (x.new_empty((*x.shape[:-1], vector.shape[-1])) for vector in (b, d))
    return y, inner, x.new_empty(y.shape if keep else (0,))


def _run(
    keep: bool,
    x: torch.Tensor,
    d: torch.Tensor,
    b: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    adapter: torch.Tensor | None,
    seed: int,
    stream: int,
    cached: bool,
    backend: str,
) -> _Three:
    _check_indices(adapter, d)
    out = _empty(keep, x, d, b)
    kernel = _dispatch.kernel("vera_forward", x, backend)
    options: dict[str, Any] = {"bias": bias, "adapter": adapter, "cached": cached, "keep": keep}
    kernel(x, weight, d, b, key_of(seed, stream), **options, out=out)
    return out


def _empty_back(
    n: int, needs: list[bool], grad: torch.Tensor, d: torch.Tensor, b: torch.Tensor, *_: object
) -> _Three:
    x, dd, db = needs
    return (
        grad.new_empty((*grad.shape[:-1], n) if x else (0,)),
        torch.empty(d.shape if dd else (0,), dtype=d.dtype, device=d.device),
        torch.empty(b.shape if db else (0,), dtype=b.dtype, device=b.device),
    )


def _run_back(
    n: int,
    needs: list[bool],
    grad: torch.Tensor,
    d: torch.Tensor,
    b: torch.Tensor,
    inner: torch.Tensor,
    outer: torch.Tensor,
    weight: torch.Tensor | None,
    adapter: torch.Tensor | None,
    seed: int,
    stream: int,
    cached: bool,
    backend: str,
) -> _Three:
    out = _empty_back(n, needs, grad, d, b)
    kernel = _dispatch.kernel("vera_backward", grad, backend)
    options: dict[str, Any] = {"n": n, "adapter": adapter, "cached": cached, "needs": tuple(needs)}
    kernel(grad, (inner, outer), weight, d, b, key_of(seed, stream), **options, out=out)
    return out


def _check_indices(adapter: torch.Tensor | None, d: torch.Tensor) -> None:
    """On a GPU a look at the values would make the host wait; indexing refuses them there."""
    if adapter is None or adapter.is_cuda or adapter.numel() == 0:
        return
    least, most = int(adapter.min()), int(adapter.max())
    if least < 0 or most >= len(d):
        wrong = least if least < 0 else most
        raise ValueError(f"[vera_linear] adapter must lie in [0, {len(d) - 1}], got {wrong}")


def _save(ctx: Any, inputs: tuple[Any, ...], output: _Three) -> None:
    _, x, d, b, weight, _, adapter, ctx.seed, ctx.stream, ctx.cached, ctx.backend = inputs
    ctx.n = x.shape[-1]
    # No zeros are made for a gradient by the products, which there is none of.
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    # The input itself is needed for nothing but the weight's gradient, which adapters do not train.
    ctx.save_for_backward(x if ctx.needs_input_grad[4] else None, *output[1:], weight, d, b, adapter)


def _backward(ctx: Any, grad: torch.Tensor | None, *_: None) -> tuple[Any, ...]:
    if grad is None:
        return (None,) * 11
    x, inner, outer, weight, d, b, adapter = ctx.saved_tensors
    needs = [ctx.needs_input_grad[i] for i in (1, 2, 3)]
    grads: list[torch.Tensor | None] = [None] * 3
    if any(needs):
        settings = ctx.seed, ctx.stream, ctx.cached, ctx.backend
        parts = _operator_back(ctx.n, needs, grad, d, b, inner, outer, weight, adapter, *settings)
        grads = [part if need else None for part, need in zip(parts, needs, strict=True)]
    rows = grad.reshape(-1, grad.shape[-1])
    of_weight = rows.mT @ x.reshape(-1, x.shape[-1]) if ctx.needs_input_grad[4] else None
    of_bias = rows.sum(0) if ctx.needs_input_grad[5] else None
    return None, *grads, of_weight, of_bias, None, None, None, None, None


_operator = define(
    "vera_linear",
    "bool keep, Tensor x, Tensor d, Tensor b, Tensor? weight, Tensor? bias, Tensor? adapter, int seed, "
    "int stream, bool cached, str backend",
    "(Tensor, Tensor, Tensor)",
    _run,
    _empty,
    _backward,
    _save,
)
_operator_back = define(
    "vera_linear_backward",
    "int n, bool[] needs, Tensor grad, Tensor d, Tensor b, Tensor inner, Tensor outer, Tensor? weight, "
    "Tensor? adapter, int seed, int stream, bool cached, str backend",
    "(Tensor, Tensor, Tensor)",
    _run_back,
    _empty_back,
    vera.differentiated_twice,
)


def vera_linear(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    d: torch.Tensor,
    b: torch.Tensor,
    key: Key,
    *,
    bias: torch.Tensor | None = None,
    adapter: torch.Tensor | None = None,
    matrices: str | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """y = W x + bias + b * (B (d * (A x))) with VeRA's random matrices A and B (arXiv 2310.11454, eq. 2).

    A is sqrt(6 / n) times :func:`pydelta.vera_matrix` "A" of shape (r, n), B is sqrt(6 / r) times "B" of
    shape (m, r), their entries in x's dtype. With ``adapter`` each row of x has an adapter of its own; the
    batch still takes one product with A and one with B. Differentiable once, in x, d, b, bias and weight;
    for it A x is kept and, where A and B are, the product with B. Under ``torch.autocast`` x, weight and bias
    are cast as a linear layer's.

    Args:
        x: (..., n) float32, bfloat16, float16 or float64; any strides.
        weight: (m, n), of x's dtype; any strides, so a Conv1D's weight is given as its transpose. None: the
            adapter's part alone.
        d: (r) or, with ``adapter``, (adapters, r): float32 is meant, whatever x is; float64 goes with
            float64 alone.
        b: (m) or (adapters, m), as ``d``.
        key: of the matrices, e.g. ``pydelta.key(seed, "vera")``.
        bias: (m), of x's dtype.
        adapter: one index for each row of x: int64, of shape ``x.shape[:-1]``.
        matrices: "cached" keeps A and B once for the process, dtype and device, shared by all layers, which
            is the default: it was faster wherever it was measured. "regenerated" makes them tile by tile in
            every call and keeps nothing; b's gradient then takes the product with B a second time.
        backend: "reference", "cpu", "cuda" or "triton" instead of the dispatcher's choice.

    Returns:
        (..., m), of x's dtype.

    Raises:
        TypeError: a tensor or the key is of another kind.
        ValueError: shapes, dtypes or devices that do not fit, a rank of 0, or an index outside the adapters.
        RuntimeError: ``backend`` is not there; in the backward pass of a backward pass.
    """
    op = "vera_linear"
    for name, tensor in (("x", x), ("d", d), ("b", b)):
        check.floating(op, name, tensor)
    for name, option in (("weight", weight), ("bias", bias)):
        if option is not None:
            check.floating(op, name, option)
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        weight, bias = (None if option is None else option.to(dtype) for option in (weight, bias))
        x = x.to(dtype)
    _check_shapes(x, weight, d, b, bias)
    check_vectors(op, d, b, None if weight is None else weight.shape[0], ("x", x), adapter is not None)
    if adapter is not None:
        _check_adapter(adapter, x)
    matrices = check.choice(op, "matrices", MATRICES[0] if matrices is None else matrices, MATRICES)
    key, backend = check.key(op, "key", key), check.backend(op, backend)
    seeds, cached = (to_int64(key.seed), to_int64(key.stream)), matrices == MATRICES[0]
    keep = cached and b.requires_grad and torch.is_grad_enabled()
    y: torch.Tensor = _operator(keep, x, d, b, weight, bias, adapter, *seeds, cached, backend)[0]
    return y


def _check_shapes(
    x: torch.Tensor, weight: torch.Tensor | None, d: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None
) -> None:
    op = "vera_linear"
    check.has_dimension(op, "x", x)
    if weight is not None:
        if weight.dim() != 2 or weight.shape[1] != x.shape[-1]:
            raise ValueError(f"[{op}] weight must be (m, {x.shape[-1]}), got {tuple(weight.shape)}")
        check.dtype_of(op, "weight", weight, x.dtype)
    for name, tensor in (("weight", weight), ("d", d), ("b", b)):
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"[{op}] {name} must be on x's device {x.device}, got {tensor.device}")
    if bias is not None:
        if weight is None:
            raise ValueError(f"[{op}] bias must not be given without a weight, got both")
        check.like(op, "bias", bias, (weight.shape[0],), x.dtype, x)


def check_vectors(op: str, d: torch.Tensor, b: torch.Tensor, m: int | None, of: Named, several: bool) -> None:
    """Of one adapter or several, with ``m`` outputs where they are known, float64 where ``of`` is."""
    if d.dim() != 1 + several or math.prod(d.shape) == 0:
        form = "(adapters, r), neither 0" if several else "(r) with r at least 1"
        raise ValueError(f"[{op}] d must be {form}, got {tuple(d.shape)}")
    shape = (*d.shape[:-1], b.shape[-1] if m is None and b.dim() else m)
    if b.shape != shape:
        raise ValueError(f"[{op}] b must be of shape {shape}, got {tuple(b.shape)}")
    name, like = of
    for which, vector in (("d", d), ("b", b)):
        if check.compute_dtype(vector.dtype) is not check.compute_dtype(like.dtype):
            raise ValueError(
                f"[{op}] {which} must be float64 exactly when {name} is ({check.name_of(like.dtype)}), "
                f"got {check.name_of(vector.dtype)}"
            )


def _check_adapter(adapter: object, x: torch.Tensor) -> None:
    if not isinstance(adapter, torch.Tensor):
        raise TypeError(f"[vera_linear] adapter must be a tensor, got {type(adapter).__name__}")
    check.like("vera_linear", "adapter", adapter, tuple(x.shape[:-1]), torch.int64, x)
