"""Where an adapter's matrices come from: a seed, or matrices that another package has drawn."""

from __future__ import annotations

import dataclasses

import torch

from pydelta.core import check
from pydelta.core.random import Key, key
from pydelta.ops.vera_merge import vera_merge
from pydelta.products import vera

DOMAIN = "vera"
"""The name that the random stream of a seed's matrices has."""


@dataclasses.dataclass(frozen=True)
class Seeded:
    """A and B as functions of a seed; see :func:`pydelta.vera_matrix`."""

    seed: int
    key: Key = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", key(self.seed, DOMAIN))

    def merged(
        self, weight: torch.Tensor, d: torch.Tensor, b: torch.Tensor, out: torch.Tensor | None
    ) -> torch.Tensor:
        return vera_merge(weight, d, b, self.key, out=out)


class Given:
    """A (rank, largest input) and B (largest output, rank) with their bounds, as PEFT has them.

    Layers take their upper left parts. Copies in another dtype or on another device are kept, so that all
    layers share them.
    """

    def __init__(self, a: torch.Tensor, b: torch.Tensor, seed: int | None) -> None:
        self.seed = seed
        self._copies = {(a.dtype, a.device): (a, b)}
        self._first = a, b

    def on(self, dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        if (dtype, device) not in self._copies:
            a, b = self._first
            self._copies[dtype, device] = a.to(device, dtype), b.to(device, dtype)
        return self._copies[dtype, device]

    def product(self, x: torch.Tensor, d: torch.Tensor, b: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """b * (B (d * (A x))); ``d`` and ``b`` are those of all rows, or of each."""
        first, second = self.on(dtype, x.device)
        inner = torch.nn.functional.linear(x.to(dtype), first[: d.shape[-1], : x.shape[-1]])
        return b * torch.nn.functional.linear((d * inner).to(dtype), second[: b.shape[-1], : d.shape[-1]])

    def merged(
        self, weight: torch.Tensor, d: torch.Tensor, b: torch.Tensor, out: torch.Tensor | None
    ) -> torch.Tensor:
        if out is None:
            out = torch.empty_like(weight)
        parts = _Parts(*self.on(check.compute_dtype(weight.dtype), weight.device))
        vera.merge_blocks(parts, weight.detach(), d.detach(), b.detach(), out)
        return out


@dataclasses.dataclass(frozen=True)
class _Parts:
    a: torch.Tensor
    b: torch.Tensor

    def part(self, which: str, shape: tuple[int, int], start: tuple[int, int]) -> torch.Tensor:
        matrix = self.a if which == "A" else self.b
        return matrix[start[0] : start[0] + shape[0], start[1] : start[1] + shape[1]]


Projections = Seeded | Given
