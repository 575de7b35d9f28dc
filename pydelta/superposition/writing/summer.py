"""BucketWriter of deltas part by part, their norms, and whether they are finite."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import torch

from pydelta.checkpoint import Checkpoint
from pydelta.checkpoint.tensors import TORCH
from pydelta.checkpoint.workers import Workers
from pydelta.checkpoint.workspace import Workspace, check_finite
from pydelta.core.check import compute_dtype
from pydelta.core.masks import KernelMask
from pydelta.core.quantized import Quantized
from pydelta.core.random import Key, key
from pydelta.ops import merge_into, quantize, superpose
from pydelta.superposition.format.form import StorageForm
from pydelta.superposition.format.manifest import Loss
from pydelta.superposition.format.mask import Masking
from pydelta.superposition.format.parts import Part, input_axis
from pydelta.superposition.format.rules import SUPERPOSED, Rule
from pydelta.superposition.reading.aligned import Model

_SMALL, _RUN, _PERIOD = 1 << 18, 32, 1031


class DeltaSummer:
    """S[place] = sum_k w_k T_k(m_k(tuned_k - base)), the models in the order of their names.

    Args:
        weights: model -> w_k; a negative one takes a model out of a sum that holds it.
        masking: m_k, what of a delta is summed.
    """

    def __init__(
        self,
        base: Checkpoint,
        models: Mapping[str, Model],
        weights: Mapping[str, float],
        seeds: Mapping[str, int],
        transform: str,
        masking: Masking,
    ) -> None:
        self.base, self.models = base, {name: models[name] for name in sorted(models)}
        self.seeds, self._weights, self._transform = seeds, weights, transform
        self._masking = masking
        self._key = functools.lru_cache(4096)(key)  # once per tensor, not per part
        self._work = Workspace()
        self._norms = {name: {tensor: list[_Norms]() for tensor in base.names} for name in models}

    def norm2(self, model: str, tensor: str) -> float:
        """The squared norm of what a model has put into a sum, without its weight, to six digits."""
        return _six(norms.summed for norms in self._norms[model][tensor])

    @property
    def masked(self) -> bool:
        return self._masking.mask is not None

    def loss(self, model: str, tensor: str) -> Loss:
        """What the mask has taken from a delta that was summed."""
        norms = self._norms[model][tensor]
        return Loss(_six(x.delta for x in norms), _six(x.lost for x in norms))

    def masks(self, sources: Mapping[str, str], workers: Workers) -> dict[str, Future[KernelMask]]:
        """Begins the masks of the deltas that are summed in one place.

        A worker that needs one waits for it: it was begun before, so it is done or on its way.
        """
        if not self.masked:
            return {}
        return {
            model: workers.submit(
                functools.partial(
                    self._masking.of, self.base, checkpoint, self.seeds[model], model, sources[model]
                )
            )
            for model, checkpoint in self.models.items()
        }

    def sum(self, part: Part, dtype: torch.dtype, old: torch.Tensor | None = None) -> torch.Tensor:
        """One part of one tensor of the store; it lives until the thread's next call.

        Args:
            dtype: of the result.
            old: a sum of other models, to which these are added.

        Raises:
            ValueError: an input holds NaN or Inf, the sum overflows, or a file has changed.
        """
        return self._sum(self._terms(part), part, dtype, old)

    def codes(self, part: Part, form: StorageForm) -> Quantized:
        """The codes of one part of a sum, which is itself nowhere in memory unless layers are shuffled."""
        terms = self._terms(part)
        if not _one_base(terms):
            return coded(self._sum(terms, part, compute_dtype(terms[0].base.dtype), None), part.rule, form)
        assert form.bits is not None
        codes = self._superpose(terms, part, bits=form.bits, group=form.group)
        assert isinstance(codes, Quantized)
        self._check(part, codes.scales)
        return codes

    def fixed(self, part: Part, exponent: int, room: int, old: torch.Tensor | None = None) -> torch.Tensor:
        """As :meth:`sum`, in int32: deltas are rounded to multiples of 2^-exponent, so any order is exact."""
        out = self._work.get("fixed", part.shape, torch.int32)
        out.zero_() if old is None else out.copy_(old)
        limit = 2**31 // room
        for model, one in zip(self.models, self._deltas(self._terms(part), part), strict=True):
            one.mul_(math.ldexp(1.0, exponent)).round_()
            if not bool((one.abs() < limit).all()):
                self._check(part, one)
                raise ValueError(
                    f"{self.models[model].path}: tensor {part.sources[model]!r} is too far from the base "
                    f"for a fixed-point sum of {room} models; take less --room, or leave out --exact"
                )
            out.add_(one.to(torch.int32))
        return out

    def _terms(self, part: Part) -> list[_Term]:
        names = sorted(set(part.sources.values()))
        models = self.models.values()
        same = all(model.dtype(name) == self.base.dtype(name) for model in models for name in names)
        wide = None if same else compute_dtype(TORCH[part.rule.dtype])
        bases = {name: self._read(self.base, name, f"base {i}", part, wide) for i, name in enumerate(names)}
        terms = []
        for model, checkpoint in self.models.items():
            name = part.sources[model]
            tuned = self._read(checkpoint, name, f"tuned {model}", part, wide)
            signs = self._key(self.seeds[model], "signs", model, name)
            term = _Term(bases[name], tuned, signs, self._weights[model])
            count = math.prod(part.rule.shape)
            power = norm2(tuned, bases[name], part.start, count)
            norms = _Norms(power, power, 0.0)
            if part.masks:
                term, delta = self._masked(term, model, part)
                summed = norm2(term.tuned, term.base, part.start, count)
                norms = _Norms(summed, power, norm2(delta, term.tuned, part.start, count))
            self._norms[model][name].append(norms)
            terms.append(term)
        return terms

    def _masked(self, term: _Term, model: str, part: Part) -> tuple[_Term, torch.Tensor]:
        """A term whose delta is masked, over a base of zeros; and the whole delta."""
        compute = compute_dtype(term.base.dtype)
        delta = self._work.get("delta", part.shape, compute).copy_(term.tuned).sub_(term.base)
        kept = self._work.get(f"kept {model}", part.shape, compute)
        merge_into(None, [delta], masks=[part.masks[model].result()], start=part.start, out=kept)
        zero = self._work.get("zero", part.shape, compute).zero_()
        return dataclasses.replace(term, base=zero, tuned=kept), delta

    def _sum(
        self, terms: Sequence[_Term], part: Part, dtype: torch.dtype, old: torch.Tensor | None
    ) -> torch.Tensor:
        out = self._work.get("sum", part.shape, dtype)
        if old is None and _one_base(terms):
            self._superpose(terms, part, out=out)
        else:
            # Every delta has a base of its own, or joins a sum. The bits are as if they came at once.
            total = self._work.get("total", part.shape, compute_dtype(terms[0].base.dtype))
            total.zero_() if old is None else total.copy_(old)
            for one in self._deltas(terms, part):
                total.add_(one)
            out.copy_(total)
        self._check(part, out)
        return out

    def _read(
        self, checkpoint: Model, name: str, role: str, part: Part, wide: torch.dtype | None
    ) -> torch.Tensor:
        """One part, widened where models differ in their dtype from the base."""
        out = self._work.get(role, part.shape, TORCH[checkpoint.dtype(name)])
        checkpoint.read(name, out, part.start)
        return out if wide in (None, out.dtype) else self._work.get(role, part.shape, wide).copy_(out)

    def _deltas(self, terms: Sequence[_Term], part: Part) -> Iterator[torch.Tensor]:
        for term in terms:
            one = self._work.get("one", part.shape, compute_dtype(term.base.dtype))
            self._superpose([term], part, out=one)
            yield one

    def _superpose(self, terms: Sequence[_Term], part: Part, **options: Any) -> torch.Tensor | Quantized:
        superposed: torch.Tensor | Quantized = superpose(
            terms[0].base,
            [term.tuned for term in terms],
            [term.key for term in terms],
            weights=[term.weight for term in terms],
            transform=part.rule.transform or self._transform,
            dim=input_axis(part.rule),
            **options,
        )
        return superposed

    def _check(self, part: Part, out: torch.Tensor) -> None:
        """Nothing in a sum, or in its scales, is NaN or Inf."""
        if math.isfinite(out.sum().item()):
            return
        for model, name in part.sources.items():
            check_finite(self.base, name)
            check_finite(self.models[model], name)
        if not out.isfinite().all():
            names = ", ".join(sorted(set(part.sources.values())))
            raise ValueError(f"{self.base.path}: the sum of the deltas of {names} overflows {out.dtype}")


def coded(total: torch.Tensor, rule: Rule, form: StorageForm) -> Quantized:
    """The codes of a part of a sum."""
    assert form.bits is not None
    return quantize(total.movedim(input_axis(rule), -1), bits=form.bits, group=form.group)


def _one_base(terms: Sequence[_Term]) -> bool:
    return all(term.base.data_ptr() == terms[0].base.data_ptr() for term in terms)


def _six(parts: Iterable[float]) -> float:
    return float(f"{math.fsum(parts):.6g}")


class _Norms(NamedTuple):
    """Squared norms of a part of a delta: what is summed, all of it, and how the two differ."""

    summed: float
    delta: float
    lost: float


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
    delta = tuned.double() - base.double()
    return float(torch.dot(delta, delta)) * scale


_EXPONENTS = 100
"""Bounds e, so that 2^-e and 2^e are numbers of fp32; a reader takes e up to 200."""


def fixed_exponents(base: Checkpoint, rules: Mapping[str, Rule], room: int) -> dict[str, int]:
    """Superposed tensor -> e of its fixed-point sum, in units of 2^-e.

    ``room`` deltas as large as the base's largest element fit into 31 bits. The base alone decides, so that
    the store's bytes do not depend on which model came first.
    """
    head = 31 - (room - 1).bit_length()
    exponents = {}
    for name, rule in rules.items():
        if rule.rule == SUPERPOSED:
            largest = float(check_finite(base, name).abs().max())
            exponents[name] = max(-_EXPONENTS, min(_EXPONENTS, head - math.frexp(largest or 1.0)[1]))
    return exponents


def power(model: Model, base: Checkpoint, rules: Mapping[str, Rule], weight: float) -> float:
    """The squared norm of what a model adds to a sum, before anything is summed."""
    parts = [
        norm2(model.tensor(name), base.tensor(name), 0, math.prod(rule.shape))
        for name, rule in rules.items()
        if rule.rule == SUPERPOSED
    ]
    return weight**2 * math.fsum(parts)
