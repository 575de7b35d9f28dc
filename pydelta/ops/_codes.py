"""``superpose`` and ``retrieve`` with low-bit codes in the place of the superposition."""

from __future__ import annotations

import torch

from pydelta import _dispatch
from pydelta.core.levels import code_shapes
from pydelta.core.quantized import Quantized
from pydelta.ops._library import key_of, register, register_tuple

Parts = tuple[torch.Tensor, torch.Tensor]


def _empty_codes(
    base: torch.Tensor,
    tuned: list[torch.Tensor],
    seeds: list[int],
    streams: list[int],
    weights: list[float],
    transform: str,
    bits: int,
    group: int,
    backend: str,
) -> Parts:
    codes, scales = code_shapes(base.shape, bits, group)
    return base.new_empty(codes, dtype=torch.uint8), base.new_empty(scales, dtype=torch.float32)


def _run_codes(
    out: Parts,
    base: torch.Tensor,
    tuned: list[torch.Tensor],
    seeds: list[int],
    streams: list[int],
    weights: list[float],
    transform: str,
    bits: int,
    group: int,
    backend: str,
) -> None:
    size = group or "row"
    _dispatch.kernel("superpose_codes", base, backend)(
        base.contiguous(),
        [x.contiguous() for x in tuned],
        [key_of(a, b) for a, b in zip(seeds, streams, strict=True)],
        weights=weights,
        transform=transform,
        bits=bits,
        group=size,
        out=Quantized(*out, bits, size, tuple(base.shape), base.dtype),
    )


superpose_codes = register_tuple(
    "superpose_codes",
    "Tensor base, Tensor[] tuned, int[] seeds, int[] streams, float[] weights, str transform, int bits, "
    "int group, str backend",
    "(Tensor, Tensor)",
    _run_codes,
    _empty_codes,
)


def _empty(base: torch.Tensor, *rest: object) -> torch.Tensor:
    *_, out_dtype, _ = rest
    assert isinstance(out_dtype, torch.dtype)
    return torch.empty_like(base, dtype=out_dtype, memory_format=torch.contiguous_format)


def _run(
    out: torch.Tensor,
    base: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    seed: int,
    stream: int,
    lam: float,
    transform: str,
    bits: int,
    group: int,
    out_dtype: torch.dtype,
    backend: str,
) -> None:
    shape = tuple(base.shape)
    parts = codes.contiguous(), scales.contiguous()
    _dispatch.kernel("retrieve_codes", base, backend)(
        base.contiguous(),
        Quantized(*parts, bits, group or "row", shape, base.dtype),
        key_of(seed, stream),
        lam=lam,
        transform=transform,
        out=out,
        out_dtype=out_dtype,
    )


retrieve_codes, retrieve_codes_into = register(
    "retrieve_codes",
    "Tensor base, Tensor codes, Tensor scales, int seed, int stream, float lam, str transform, int bits, "
    "int group, ScalarType out_dtype, str backend",
    _run,
    _empty,
)
