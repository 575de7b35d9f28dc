"""Where an adapter's matrices come from: a seed, or matrices that another package has drawn."""

from __future__ import annotations

import dataclasses

import torch

from pydelta.core import check
from pydelta.core.random import Key, key
from pydelta.ops.vera_merge import vera_merge

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
    layers share them. ``dtype``: what the entries were rounded to, where that is known.
    """

    def __init__(
        self, a: torch.Tensor, b: torch.Tensor, seed: int | None, dtype: torch.dtype | None = None
    ) -> None:
        self.seed, self.dtype = seed, dtype
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
        """As PEFT merges, so that the bits are its own: the product, then the sum, rounded once; by rows."""
        if out is None:
            out = torch.empty_like(weight)
        compute = check.compute_dtype(weight.dtype)
        first, second = self.on(compute, weight.device)
        (m, n), rank = weight.shape, len(d)
        inner = d.detach().to(compute)[:, None] * first[:rank, :n]
        step = max(1, _BLOCK // max(n, 1))
        for top in range(0, m, step):
            rows = slice(top, min(top + step, m))
            delta = (b.detach()[rows, None].to(compute) * second[rows, :rank]) @ inner
            out[rows].copy_(delta.add_(weight.detach()[rows]))
        return out


_BLOCK = 1 << 24  # elements of a delta that are there at once


Projections = Seeded | Given
