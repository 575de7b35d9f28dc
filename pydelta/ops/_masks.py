"""Masks as the flat lists that an operator's schema can hold, and back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from pydelta.core import check, codes
from pydelta.core.masks import (
    BandMask,
    DellaMask,
    KernelMask,
    MagnitudeMask,
    MagnitudeThreshold,
    RandomMask,
    WandaMask,
)
from pydelta.ops._library import key_of, to_int64
from pydelta.ops.magnitude_threshold import magnitude_threshold

SCHEMA = "int[] kinds, int[] seeds, int[] streams, float[] numbers, Tensor[] cuts"

Packed = tuple[list[int], list[int], list[int], list[float], list[torch.Tensor]]

_NONE, _RANDOM, _DELLA, _TENSOR, _ROW = codes.MASKS.values()
_NORMED_ROW = _ROW + 1
_NAMES = "RandomMask, MagnitudeMask, BandMask, WandaMask, DellaMask, a MagnitudeThreshold or None"


def kernel_masks(
    op: str,
    masks: object,
    models: Sequence[torch.Tensor],
    base: torch.Tensor | None,
    start: int,
    backend: str,
) -> list[KernelMask | None]:
    """The masks of K models, as kernels read them."""
    if masks is None:
        return [None] * len(models)
    entries = check.sequence(op, "masks", masks)
    check.count(op, "masks", entries, len(models))
    return [
        kernel_mask(op, f"masks[{i}]", mask, x, base, start, backend)
        for i, (mask, x) in enumerate(zip(entries, models, strict=True))
    ]


def kernel_mask(
    op: str, name: str, mask: object, x: torch.Tensor, base: torch.Tensor | None, start: int, backend: str
) -> KernelMask | None:
    """The mask as kernels read it: what goes by magnitude has become cuts."""
    if mask is None or isinstance(mask, RandomMask):
        return mask
    if isinstance(mask, DellaMask):
        _whole_rows(op, name, x, start)
        return mask
    if isinstance(mask, MagnitudeThreshold):
        _fits(op, name, mask, x, start)
        return mask
    if not isinstance(mask, (MagnitudeMask, BandMask, WandaMask)):
        raise TypeError(f"[{op}] {name} must be {_NAMES}, got {type(mask).__name__}")
    if start:
        got = type(mask).__name__
        raise ValueError(
            f"[{op}] {name} must be a RandomMask, a DellaMask or a MagnitudeThreshold where start is not 0, "
            f"got {got}"
        )
    if isinstance(mask, WandaMask):
        norm = check.column_norm(op, f"{name}.column_norm", mask.column_norm, x)
        return magnitude_threshold(
            x, keep=mask.keep, group="row", base=base, column_norm=norm, backend=backend
        )
    large = mask.drop_large if isinstance(mask, BandMask) else 0.0
    return magnitude_threshold(
        x, keep=mask.keep, drop_large=large, group=mask.group, base=base, backend=backend
    )


def _whole_rows(op: str, name: str, x: torch.Tensor, start: int) -> None:
    n = x.shape[-1] if x.dim() else 1
    if start % max(n, 1):
        raise ValueError(f"[{op}] start must be a multiple of {n}, for {name} goes by rows, got {start}")


def _fits(op: str, name: str, cuts: MagnitudeThreshold, x: torch.Tensor, start: int) -> None:
    expected = 1
    if cuts.group == "row":
        _whole_rows(op, name, x, start)
        expected = math.prod(x.shape[:-1])
    compute = check.compute_dtype(x.dtype)
    for part in ("low", "high"):
        check.like(op, f"{name}.{part}", getattr(cuts, part), (expected,), compute, x)
        check.like(op, f"{name}.{part}_index", getattr(cuts, f"{part}_index"), (expected,), torch.int64, x)
    if cuts.column_norm is not None:
        check.column_norm(op, f"{name}.column_norm", cuts.column_norm, x)


def pack(masks: Sequence[KernelMask | None]) -> Packed:
    kinds: list[int] = []
    seeds: list[int] = []
    streams: list[int] = []
    numbers: list[float] = []
    cuts: list[torch.Tensor] = []
    for mask in masks:
        kind, seed, stream, pair = _NONE, 0, 0, (0.0, 0.0)
        if isinstance(mask, RandomMask):
            kind, pair = _RANDOM, (mask.keep, mask.factor)
        elif isinstance(mask, DellaMask):
            kind, pair = _DELLA, (mask.keep, mask.epsilon)
        elif isinstance(mask, MagnitudeThreshold):
            kind = _TENSOR if mask.group == "tensor" else _ROW
            cuts += [mask.low, mask.low_index, mask.high, mask.high_index]
            if mask.column_norm is not None:
                kind = _NORMED_ROW
                cuts.append(mask.column_norm)
        if isinstance(mask, (RandomMask, DellaMask)):
            seed, stream = to_int64(mask.key.seed), to_int64(mask.key.stream)
        kinds.append(kind)
        seeds.append(seed)
        streams.append(stream)
        numbers += pair
    return kinds, seeds, streams, numbers, cuts


def unpack(
    kinds: Sequence[int],
    seeds: Sequence[int],
    streams: Sequence[int],
    numbers: Sequence[float],
    cuts: Sequence[torch.Tensor],
) -> list[KernelMask | None]:
    return list(_unpacked(kinds, seeds, streams, numbers, cuts))


def _unpacked(
    kinds: Sequence[int],
    seeds: Sequence[int],
    streams: Sequence[int],
    numbers: Sequence[float],
    cuts: Sequence[torch.Tensor],
) -> Iterator[KernelMask | None]:
    tensors = iter(cuts)
    for i, kind in enumerate(kinds):
        first, second = numbers[2 * i : 2 * i + 2]
        if kind == _NONE:
            yield None
        elif kind == _RANDOM:
            yield RandomMask(first, key_of(seeds[i], streams[i]), second)
        elif kind == _DELLA:
            yield DellaMask(first, second, key_of(seeds[i], streams[i]))
        else:
            low, low_index, high, high_index = (next(tensors) for _ in range(4))
            norm = next(tensors) if kind == _NORMED_ROW else None
            group = "tensor" if kind == _TENSOR else "row"
            yield MagnitudeThreshold(low, low_index, high, high_index, group, norm)
