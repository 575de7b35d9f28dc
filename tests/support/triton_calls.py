"""A call of each Triton op for triton_ahead.py to record what it would launch."""

from __future__ import annotations

from typing import Any

import torch

from pydelta.core.levels import code_shapes
from pydelta.core.masks import DellaMask, MagnitudeThreshold, RandomMask
from pydelta.core.quantized import Quantized
from pydelta.core.random import Key


def masks_of(shape: tuple[int, ...]) -> dict[str, Any]:
    key, rows, n = Key(7, 1 << 63), shape[0], shape[1]
    cuts = [torch.ones(rows), torch.ones(rows, dtype=torch.int64)] * 2
    return {
        "none": None,
        "random": RandomMask(0.5, key),
        "della": DellaMask(0.5, 0.5, key),
        "tensor": MagnitudeThreshold(*(cut[:1] for cut in cuts)),
        "row": MagnitudeThreshold(*cuts, "row", torch.ones(n)),
    }


def call_masked(kernels: Any, op: str, what: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x, masks = torch.empty(shape, dtype=dtype), masks_of(shape)
    if op == "mask_rescale":
        kernels.mask_rescale(x, masks[what], base=x, out=x)
    elif op == "merge_into":
        some = [*masks.values()] if what == "all" else [masks[what]] * 2
        elect = "ties" if what in ("tensor", "all") else "sum"
        models = {"tuned": [x] * len(some), "masks": some, "weights": [0.5] * len(some)}
        options = {"elect": elect, "normalize": elect != "sum", "lam": 0.5, "start": 0}
        kernels.merge_into(x, **models, **options, out=x, out_dtype=dtype)
    else:
        base, norm = (x, torch.ones(shape[1])) if what == "row" else (None, None)
        options = {"keep": 0.5, "drop_large": 0.1, "group": what, "base": base, "column_norm": norm}
        kernels.magnitude_threshold(x, **options, out=masks[what])


def call_coded(
    kernels: Any, op: str, what: str, dtype: torch.dtype, shape: tuple[int, ...], size: int
) -> None:
    bits, _, transform = what.partition("-")
    x, key, group = torch.empty(shape, dtype=dtype), Key(7, 1 << 63), "row" if size < 0 else size
    codes, scales = code_shapes(shape, int(bits), max(size, 0))
    parts = torch.empty(codes, dtype=torch.uint8), torch.empty(scales)
    q = Quantized(*parts, int(bits), group, shape, dtype)
    if op == "quantize":
        kernels.quantize(x, bits=q.bits, group=group, out=q)
    elif op == "dequantize":
        kernels.dequantize(q, out=x, dtype=dtype)
    elif op == "retrieve_codes":
        kernels.retrieve_codes(x, q, key, out=x, lam=0.5, transform=transform, out_dtype=dtype)
    else:
        models = {"tuned": [x, x], "keys": [key, key], "weights": [1.0, 0.5]}
        kernels.superpose_codes(x, **models, out=q, transform=transform, bits=q.bits, group=group)


def call_vera(
    kernels: Any, op: str, rank: int, dtype: torch.dtype, shape: tuple[int, ...], start: int
) -> None:
    key = Key(7, 1 << 63)
    if op == "vera_matrix":
        x = torch.empty(shape, dtype=dtype)
        kernels.vera_matrix(key, "A", shape, start=(0, start), dtype=dtype, device=x.device, out=x)
        return
    rows, n, m = shape
    x, weight, y = (torch.empty(size, dtype=dtype) for size in ((rows, n), (m, n), (rows, m)))
    vectors = torch.ones(rank), torch.ones(m)
    out = y, torch.empty((rows, rank), dtype=dtype), torch.empty(0, dtype=dtype)
    options: dict[str, Any] = {"bias": None, "adapter": None, "cached": False, "keep": False}
    kernels.vera_forward(x, weight, *vectors, key, **options, out=out)


def call_product(kernels: Any, bits: int, dtype: torch.dtype, shape: tuple[int, ...], size: int) -> None:
    rows, n, m = shape
    codes, scales = code_shapes((m, n), bits, max(size, 0))
    parts = torch.empty(codes, dtype=torch.uint8), torch.empty(scales)
    q = Quantized(*parts, bits, "row" if size < 0 else size, (m, n), dtype)
    x, model = torch.empty((rows, n), dtype=dtype), torch.zeros(rows, dtype=torch.int64)
    options: dict[str, Any] = {"lams": [1.0], "transform": "none", "bias": None}
    out = torch.empty((rows, m), dtype=dtype)
    kernels.superposed_linear(x, None, q, [Key(7)], model, out=out, **options)


def call(kernels: Any, op: str, transform: str, dtype: torch.dtype, shape: tuple[int, ...], dim: int) -> None:
    x, y, key, n = torch.empty(shape, dtype=dtype), torch.empty(shape), Key(7, 1 << 63), shape[dim]
    options: dict[str, Any] = {"transform": transform, "dim": dim % len(shape)}
    if op == "hadamard":
        kernels.hadamard(x, out=x, block=n, scale=0.5)
    elif op == "rotate":
        kernels.rotate(x, key, out=x, block=n, inverse=False)
    elif op == "sign_flip":
        kernels.sign_flip(x, key, out=x, dim=options["dim"])
    elif op == "retrieve":
        kernels.retrieve(x, y, key, out=x, lam=0.5, out_dtype=dtype, **options)
    else:
        models = {"tuned": [x, x], "keys": [key, key], "weights": [1.0, 0.5]}
        kernels.superpose(x, **models, out=y, out_dtype=torch.float32, **options)


def call_list(kernels: Any, op: str, weighted: bool, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Weighted: the general form, with masters, and for a step with bases."""
    xs, wide = [torch.ones(shape, dtype=dtype)], [torch.ones(shape)]
    scalar, sums = torch.ones((), dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    if op == "square_sums":
        kernels.square_sums(xs, weights=xs if weighted else None, eta=0.1, out=sums)
    elif op == "sam_perturb_":
        lists = {"masters": wide if weighted else [], "backups": [] if weighted else xs}
        kernels.sam_perturb_(xs, xs, scalar, adaptive=weighted, eta=0.1, **lists)
    elif op == "sam_restore_":
        kernels.sam_restore_(xs, wide if weighted else xs)
    else:
        bases, masters = (xs, wide) if weighted else ([], [])
        numbers = {"step": 3, "lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8, "l1": False}
        kernels.adamr_step_(xs, xs, wide, wide, bases, masters, scalar, **numbers, sums=sums)
