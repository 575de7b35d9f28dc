"""Sums of deltas part by part, their norms, and whether they are finite."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import torch

from pydelta._check import compute_dtype
from pydelta.checkpoint import Checkpoint
from pydelta.ops import superpose
from pydelta.random import Key, key
from pydelta.superposition.parts import Workspace, split
from pydelta.superposition.rules import Rule

_RUN, _RUNS = 64, 4096


@dataclasses.dataclass(frozen=True)
class Contribution:
    """What one model puts into one tensor of the store: w T(tuned - base)."""

    model: str
    source: str
    base: torch.Tensor
    tuned: torch.Tensor
    key: Key
    weight: float


class Summer:
    """S[place] = sum_k w_k T_k(tuned_k - base), the models in the order of their names."""

    def __init__(
        self,
        base: Checkpoint,
        models: Mapping[str, Checkpoint],
        weights: Mapping[str, float],
        seed: int,
        transform: str,
    ) -> None:
        self.base, self.models = base, models
        self._weights, self._seed, self._transform = weights, seed, transform
        self._work = Workspace()

    def contributions(self, sources: Mapping[str, str]) -> list[Contribution]:
        """Maps the tensors that go into one tensor of the store.

        Args:
            sources: model -> the tensor whose delta it puts there.
        """
        bases = {name: self.base.tensor(name) for name in set(sources.values())}
        return [
            Contribution(
                model,
                name,
                bases[name],
                self.models[model].tensor(name),
                key(self._seed, "signs", model, name),
                self._weights[model],
            )
            for model, name in sorted(sources.items())
        ]

    def split(self, rule: Rule, whole: Sequence[Contribution]) -> Iterator[tuple[int, list[Contribution]]]:
        """(index of the first element, that part of every contribution)."""
        tensors = [x for c in whole for x in (c.base, c.tuned)]
        for start, cut in split(rule, *tensors):
            pairs = zip(whole, cut[::2], cut[1::2], strict=True)
            yield start, [dataclasses.replace(c, base=base, tuned=tuned) for c, base, tuned in pairs]

    def sum(self, part: Sequence[Contribution], dim: int, dtype: torch.dtype) -> torch.Tensor:
        """The sum, which lives until the thread's next call.

        Raises:
            ValueError: an input holds NaN or Inf, or the sum overflows.
        """
        shape = part[0].base.shape
        out = self._work.get("sum", shape, dtype)
        if len({c.source for c in part}) == 1:
            self._superpose(part, dim, out)
        else:
            # Shuffled layers: every delta has a base of its own. The bits are as if they came at once.
            compute = compute_dtype(part[0].base.dtype)
            total = self._work.get("total", shape, compute).zero_()
            for c in part:
                total.add_(self._superpose([c], dim, self._work.get("one", shape, compute)))
            out.copy_(total)
        if not math.isfinite(out.sum().item()):
            self._blame(part, out)
        return out

    def _superpose(self, part: Sequence[Contribution], dim: int, out: torch.Tensor) -> torch.Tensor:
        return superpose(
            part[0].base,
            [c.tuned for c in part],
            [c.key for c in part],
            weights=[c.weight for c in part],
            transform=self._transform,
            dim=dim,
            out=out,
        )

    def _blame(self, part: Sequence[Contribution], out: torch.Tensor) -> None:
        for c in part:
            check_finite(self.base, c.source)
            check_finite(self.models[c.model], c.source)
        if not out.isfinite().all():
            names = ", ".join(sorted({c.source for c in part}))
            raise ValueError(f"{self.base.path}: the sum of the deltas of {names} overflows {out.dtype}")


def norm2(tuned: torch.Tensor, base: torch.Tensor) -> float:
    """||tuned - base||^2; of more than 2^18 elements, estimated from 4096 evenly spaced runs of 64."""
    count, scale = base.numel(), 1.0
    if count > _RUN * _RUNS:
        size, stride = (_RUNS, _RUN), ((count - _RUN) // (_RUNS - 1), 1)
        # Gathered in their own dtype first: converting strided runs is many times slower.
        tuned, base = (x.as_strided(size, stride).contiguous() for x in (tuned, base))
        scale = count / (_RUN * _RUNS)
    delta = (tuned.double() - base.double()).flatten()
    return float(torch.dot(delta, delta)) * scale


def check_finite(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    """A floating tensor of a checkpoint.

    Raises:
        ValueError: it holds NaN or Inf.
    """
    x = checkpoint.tensor(name)
    for part in torch.split(x.reshape(-1), 1 << 22):
        # The narrow dtypes lack isfinite; fp32 holds them all.
        if not part.to(compute_dtype(x.dtype)).isfinite().all():
            raise ValueError(f"{checkpoint.home(name).path}: tensor {name!r} holds NaN or Inf")
    return x
