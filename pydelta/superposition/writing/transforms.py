"""``transform="auto"``: signs or a rotation for each tensor, by what either leaves of a few of its rows.

Both transforms act along rows, with one key for all rows of a tensor, so a sample of rows is summed, coded
and retrieved as the whole would be. What is compared is the error e of the outputs, with Y in the place of
the layer's inputs: the sampled rows of the model's own delta, which is made of the inputs it was tuned on,
their columns scaled to the norms of the inputs where a calibration knows those.

- Sums in full: sum_j ||Y_j||^2 ||e_:j||^2, what ||Y e^T||^2 is in expectation over the signs. Signs leave the
  others' deltas in their columns, a rotation spreads them: large where columns that matter are shared.
- Codes: ||Y e^T||^2 itself. Codes commute with the signs of a delta that is alone or outweighs the others in
  its sum, so that errors of like columns are alike and add up.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future

import torch

from pydelta import ops
from pydelta.checkpoint import Checkpoint
from pydelta.checkpoint.workers import Workers
from pydelta.core.check import compute_dtype
from pydelta.core.mask_names import RANDOM
from pydelta.core.masks import KernelMask, RandomMask
from pydelta.core.quantized import Quantized
from pydelta.core.random import Key, key
from pydelta.superposition.format.form import StorageForm
from pydelta.superposition.format.rules import SUPERPOSED, Rule, slot_groups, slots
from pydelta.superposition.reading.aligned import Model
from pydelta.superposition.writing.options import Options

CANDIDATES = ("sign", "hadamard")
_GAIN = 0.9  # the form's own transform stays unless the other leaves less than this share of its error
_ELEMENTS, _FEW, _MANY = 1 << 18, 16, 64
"""Elements of a sample, and its least and most rows: they bound time and memory."""

Errors = Mapping[str, float]


class TransformChooser:
    """Chooses the transform of every superposed tensor.

    Args:
        buckets: the models that share sums.
    """

    def __init__(
        self,
        base: Checkpoint,
        models: Mapping[str, Model],
        rules: Mapping[str, Rule],
        options: Options,
        buckets: Sequence[Sequence[str]],
    ) -> None:
        self._base, self._models, self._rules = base, models, rules
        self._options, self._buckets = options, buckets
        tables = {name: slots(rules, options.seed, name, options.shuffle_layers) for name in models}
        self._sources = {
            name: {slot: source for source, slot in table.items()} for name, table in tables.items()
        }

    def run(self, workers: Workers) -> dict[str, Rule]:
        """The rules with a transform each; tensors that may change places have one between them."""
        slot_names = [name for name, rule in self._rules.items() if rule.rule == SUPERPOSED]
        errors = {slot: workers.submit(functools.partial(self._errors, slot)) for slot in slot_names}
        groups = [members for _, members in slot_groups(self._rules)]
        if not self._options.shuffle_layers:
            groups = [[slot] for slot in slot_names]
        chosen = {slot: self._best([errors[slot] for slot in group]) for group in groups for slot in group}
        return {
            name: dataclasses.replace(rule, transform=chosen.get(name)) for name, rule in self._rules.items()
        }

    def _best(self, errors: Iterable[Future[Errors]]) -> str:
        results = [error.result() for error in errors]
        total = {transform: math.fsum(error[transform] for error in results) for transform in CANDIDATES}
        own = self._options.form.transform
        (other,) = set(CANDIDATES) - {own}
        return other if total[other] < _GAIN * total[own] else own

    def _errors(self, slot: str) -> Errors:
        """Transform -> the relative squared errors of the models' outputs, added up."""
        rule, form = self._rules[slot], self._options.form
        totals = dict.fromkeys(CANDIDATES, 0.0)
        for bucket in self._buckets:
            sources = {model: self._sources[model][slot] for model in bucket}
            deltas = [self._sample(self._models[model], name, rule) for model, name in sources.items()]
            summed = [
                self._masked(*source, delta) for source, delta in zip(sources.items(), deltas, strict=True)
            ]
            keys = [key(self._options.seed, "signs", model, name) for model, name in sources.items()]
            weights = [self._options.weights[model] for model in bucket]
            inputs = [
                self._inputs(*source, delta) for source, delta in zip(sources.items(), deltas, strict=True)
            ]
            zero = torch.zeros_like(deltas[0])
            for transform in CANDIDATES:
                s = _summed(zero, summed, keys, weights, transform, form)
                for y, delta, one, weight in zip(inputs, deltas, keys, weights, strict=True):
                    error = ops.retrieve(zero, s, one, lam=1 / weight, transform=transform).sub_(delta)
                    whole = _expected(y, delta)
                    left = _expected(y, error) if form.bits is None else _output(y, error)
                    totals[transform] += left / whole if whole > 0 else 0.0
        return totals

    def _sample(self, model: Model, name: str, rule: Rule) -> torch.Tensor:
        """(rows, n) of the delta, the rows spread evenly."""
        tuned, base = (x.tensor(name).movedim(rule.dim or 0, -1) for x in (model, self._base))
        shape, n = base.shape[:-1], base.shape[-1]
        total = math.prod(shape)
        count = min(total, max(_FEW, min(_MANY, _ELEMENTS // n)))
        index = torch.unravel_index(torch.arange(count) * total // count, shape)
        compute = compute_dtype(base.dtype)
        return tuned[index].to(compute) - base[index].to(compute)

    def _masked(self, model: str, name: str, delta: torch.Tensor) -> torch.Tensor:
        """As the delta of a store with a mask, whose fractions are taken of the sample."""
        masking, seed = self._options.masking, self._options.seed
        if masking.keep is None:
            return delta
        mask: KernelMask = RandomMask(masking.keep, key(seed, "mask", model, name))
        if masking.mask != RANDOM:
            drop = masking.drop_large or 0.0
            mask = ops.magnitude_threshold(delta, keep=masking.keep, drop_large=drop)
        return ops.mask_rescale(delta, mask)

    def _inputs(self, model: str, name: str, delta: torch.Tensor) -> torch.Tensor:
        """What stands for the inputs of a layer."""
        y = delta.double()
        seen = self._options.calibrations.get(model)
        if seen is None or name not in seen.layers:
            return y
        norm = y.norm(dim=0)
        return y * torch.where(norm > 0, seen.layers[name].column_norm.double() / norm, 0.0)


def _summed(
    zero: torch.Tensor,
    deltas: Sequence[torch.Tensor],
    keys: Sequence[Key],
    weights: Sequence[float],
    transform: str,
    form: StorageForm,
) -> torch.Tensor | Quantized:
    """The rows as a store of this form holds them."""
    if form.bits is None:
        narrow = torch.bfloat16 if form.dtype == "bf16" and zero.dtype == torch.float32 else zero.dtype
        rows = ops.superpose(zero, deltas, keys, weights=weights, transform=transform, out_dtype=narrow)
        assert isinstance(rows, torch.Tensor)
        return rows
    codes = ops.superpose(
        zero, deltas, keys, weights=weights, transform=transform, bits=form.bits, group=form.group
    )
    assert isinstance(codes, Quantized)
    codes.scales.copy_(codes.scales.bfloat16())
    return codes


def _expected(y: torch.Tensor, x: torch.Tensor) -> float:
    """sum_j ||y_j||^2 ||x_:j||^2."""
    return float(y.square().sum(0) @ x.double().square().sum(0))


def _output(y: torch.Tensor, x: torch.Tensor) -> float:
    """||y x^T||^2."""
    return float((y @ x.double().T).square().sum())
