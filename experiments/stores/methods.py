"""What ``bits.py`` compares: ways to keep many fine-tunes in few bits, on one matrix at a time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import torch

from pydelta import (
    Key,
    MagnitudeMask,
    Quantized,
    RandomMask,
    mask_rescale,
    retrieve,
    superpose,
)

RATES = (4.0, 2.0, 1.0, 0.5, 0.25, 0.125)
"""Bits per parameter and model."""

OURS = {"hadamard": "pydelta, rotated", "sign": "pydelta, signs"}
SCALE_BITS = 16  # scales are kept in bf16


@dataclasses.dataclass(frozen=True)
class Alone:
    """A way to keep one model.

    Attributes:
        method: its name in tables and pictures.
        bits: (shape of a matrix) -> bits that are kept of it.
        restore: (base, tuned, key) -> the matrix that comes back.
    """

    method: str
    bits: Callable[[torch.Size], float]
    restore: Callable[[torch.Tensor, torch.Tensor, Key], torch.Tensor]


def individual() -> Alone:
    return Alone(
        "individual bf16", lambda shape: 16 * shape.numel(), lambda b, t, k: t.bfloat16().to(t.dtype)
    )


def bitdelta() -> Alone:
    """BitDelta (arXiv 2402.10193) before its distillation: the signs, and the mean of |delta| of a matrix."""

    def restore(base: torch.Tensor, tuned: torch.Tensor, key: Key) -> torch.Tensor:
        delta = tuned - base
        scale = delta.abs().mean().bfloat16()
        return base + torch.where(delta > 0, scale, -scale).to(base.dtype)

    return Alone("BitDelta's scale", lambda shape: shape.numel() + SCALE_BITS, restore)


def nearest(bits: int) -> Alone:
    """Round to nearest: 2^b - 1 even steps of the delta, the row's largest at the end."""
    steps = 2 ** (bits - 1) - 1

    def restore(base: torch.Tensor, tuned: torch.Tensor, key: Key) -> torch.Tensor:
        delta = tuned - base
        step = (delta.abs().amax(-1, keepdim=True) / steps).bfloat16().to(base.dtype)
        return base + torch.where(step > 0, (delta / step).round().clamp(-steps, steps) * step, 0)

    return Alone("round to nearest", lambda shape: bits * shape.numel() + scale_bits(shape), restore)


def dare(rate: float) -> Alone:
    """DARE (arXiv 2311.03099): random elements in bf16, rescaled; a seed gives their places."""

    def restore(base: torch.Tensor, tuned: torch.Tensor, key: Key) -> torch.Tensor:
        kept = mask_rescale(tuned, RandomMask(rate / 16, key), base=base)
        return base + kept.bfloat16().to(base.dtype)

    return Alone("DARE", lambda shape: rate * shape.numel(), restore)


def magnitude(rate: float) -> Alone:
    """The largest elements in bf16, their places at the entropy: no code takes less."""
    keep = _keep_at(rate)

    def restore(base: torch.Tensor, tuned: torch.Tensor, key: Key) -> torch.Tensor:
        kept = mask_rescale(tuned, MagnitudeMask(keep), base=base)
        return base + kept.bfloat16().to(base.dtype)

    return Alone("magnitude pruning", lambda shape: rate * shape.numel(), restore)


def _keep_at(rate: float) -> float:
    """The fraction whose values and places take ``rate`` bits an element, by bisection."""
    low, high = 0.0, min(rate / 16, 0.5)
    for _ in range(60):
        keep = (low + high) / 2
        places = -sum(p * math.log2(p) for p in (keep, 1 - keep) if p > 0)
        low, high = (keep, high) if 16 * keep + places < rate else (low, keep)
    return low


@dataclasses.dataclass(frozen=True)
class Together:
    """Buckets of models that share one superposition.

    Attributes:
        method: its name in tables and pictures.
        models: in a bucket.
        code: bits of the superposition's codes; None keeps it in bf16.
        transform: of the deltas.
    """

    method: str
    models: int
    code: int | None
    transform: str

    def bits(self, shape: torch.Size) -> float:
        """Per model of a full bucket."""
        if self.code is None:
            return 16 * shape.numel() / self.models
        return (self.code * shape.numel() + scale_bits(shape)) / self.models

    def superpose(
        self, base: torch.Tensor, tuned: Sequence[torch.Tensor], keys: Sequence[Key]
    ) -> torch.Tensor | Quantized:
        if self.code is None:
            return superpose(base, tuned, keys, transform=self.transform, out_dtype=torch.bfloat16)
        q = superpose(base, tuned, keys, transform=self.transform, bits=self.code)
        q.scales.copy_(q.scales.bfloat16())
        return q

    def restore(self, base: torch.Tensor, summed: torch.Tensor | Quantized, key: Key) -> torch.Tensor:
        return retrieve(base, summed, key, transform=self.transform)


def randes(models: int) -> Together:
    """RanDeS (arXiv 2505.11204): all models in one superposition."""
    return Together("RanDeS bf16", models, None, "sign")


def ours(rate: float, transform: str) -> Together:
    """A rate of 1 and more: a bucket a model. Below: one bit, and 1 / rate models a bucket."""
    return Together(OURS[transform], max(1, round(1 / rate)), max(1, round(rate)), transform)


def scale_bits(shape: torch.Size) -> int:
    """Of one bf16 scale a row."""
    return SCALE_BITS * (shape.numel() // shape[-1])
