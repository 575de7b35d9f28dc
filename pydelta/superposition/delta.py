"""Sums of deltas part by part, their norms, and whether they are finite."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import torch

from pydelta._check import compute_dtype
from pydelta.checkpoint import Checkpoint
from pydelta.checkpoint.memory import TORCH
from pydelta.checkpoint.workspace import Workspace, check_finite
from pydelta.ops import superpose
from pydelta.random import Key, key
from pydelta.superposition.parts import input_axis
from pydelta.superposition.rules import Rule

_SMALL, _RUN, _PERIOD = 1 << 18, 32, 1031


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
        self.base, self.models = base, {name: models[name] for name in sorted(models)}
        self._weights, self._seed, self._transform = weights, seed, transform
        self._key = functools.lru_cache(4096)(key)  # once per tensor, not per part
        self._work = Workspace()
        self._norm2: dict[str, list[float]] = {name: [] for name in models}

    def norm2(self, model: str) -> float:
        """The squared norm of a model's delta over all that was summed."""
        return math.fsum(self._norm2[model])

    def sum(
        self, sources: Mapping[str, str], rule: Rule, start: int, shape: tuple[int, ...], dtype: torch.dtype
    ) -> torch.Tensor:
        """One part of one tensor of the store; it lives until the thread's next call.

        Args:
            sources: model -> the tensor whose delta it puts there.
            rule: theirs.
            start, shape: of the part, see :func:`cut`.
            dtype: of the result.

        Raises:
            ValueError: an input holds NaN or Inf, the sum overflows, or a file has changed.
        """
        bases = {
            name: self._read(self.base, name, f"base {i}", start, shape)
            for i, name in enumerate(sorted(set(sources.values())))
        }
        terms = [
            _Term(
                bases[sources[model]],
                self._read(checkpoint, sources[model], f"tuned {model}", start, shape),
                self._key(self._seed, "signs", model, sources[model]),
                self._weights[model],
            )
            for model, checkpoint in self.models.items()
        ]
        out = self._work.get("sum", shape, dtype)
        if len(bases) == 1:
            self._superpose(terms, input_axis(rule), out)
        else:
            # Shuffled layers: every delta has a base of its own. The bits are as if they came at once.
            compute = compute_dtype(terms[0].base.dtype)
            total = self._work.get("total", shape, compute).zero_()
            for term in terms:
                one = self._work.get("one", shape, compute)
                total.add_(self._superpose([term], input_axis(rule), one))
            out.copy_(total)
        if not math.isfinite(out.sum().item()):
            self._blame(sources, out)
        for model, term in zip(self.models, terms, strict=True):
            self._norm2[model].append(norm2(term.tuned, term.base, start, math.prod(rule.shape)))
        return out

    def _read(
        self, checkpoint: Checkpoint, name: str, role: str, start: int, shape: tuple[int, ...]
    ) -> torch.Tensor:
        out = self._work.get(role, shape, TORCH[checkpoint.dtype(name)])
        return checkpoint.read(name, out, start)

    def _superpose(self, terms: Sequence[_Term], dim: int, out: torch.Tensor) -> torch.Tensor:
        return superpose(
            terms[0].base,
            [term.tuned for term in terms],
            [term.key for term in terms],
            weights=[term.weight for term in terms],
            transform=self._transform,
            dim=dim,
            out=out,
        )

    def _blame(self, sources: Mapping[str, str], out: torch.Tensor) -> None:
        for model, name in sources.items():
            check_finite(self.base, name)
            check_finite(self.models[model], name)
        if not out.isfinite().all():
            names = ", ".join(sorted(set(sources.values())))
            raise ValueError(f"{self.base.path}: the sum of the deltas of {names} overflows {out.dtype}")


@dataclasses.dataclass(frozen=True)
class _Term:
    """What one model adds to a part: w T(tuned - base)."""

    base: torch.Tensor
    tuned: torch.Tensor
    key: Key
    weight: float


def norm2(tuned: torch.Tensor, base: torch.Tensor, start: int, count: int) -> float:
    """What a part adds to ||tuned - base||^2 of a tensor of ``count`` elements.

    Exact up to 2^18 elements, else estimated from 32 of every 1031: a prime, so that it meets all columns.

    Args:
        start: the index of the part's first element.
    """
    tuned, base = tuned.view(-1), base.view(-1)
    scale = 1.0
    if count > _SMALL:
        first = -start % _PERIOD
        runs = (tuned.numel() - first - _RUN) // _PERIOD + 1
        if runs <= 0:
            return 0.0
        size, stride = (runs, _RUN), (_PERIOD, 1)
        # Gathered in their own dtype first: converting strided runs is many times slower.
        tuned, base = (x[first:].as_strided(size, stride).contiguous().view(-1) for x in (tuned, base))
        scale = _PERIOD / _RUN
    delta = tuned.double().sub_(base.double())
    return float(torch.dot(delta, delta)) * scale
