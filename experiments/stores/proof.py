"""A family of fine-tunes kept in few bits: how its models are stored, restored and scored."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from statistics import fmean, stdev
from typing import Any, NamedTuple

import torch
from families import Family, Weights
from stores.methods import (
    OURS,
    RATES,
    Alone,
    Together,
    bitdelta,
    dare,
    individual,
    magnitude,
    nearest,
    ours,
    randes,
)

import pydelta
from pydelta import key
from pydelta.core.levels import DISTORTIONS


class Model(NamedTuple):
    """``tuned`` names the fine-tune, ``label`` its random signs."""

    label: str
    tuned: str


def is_matrix(x: torch.Tensor) -> bool:
    return x.is_floating_point() and x.dim() > 1


class Proof:
    """A family, and how its models are scored.

    Attributes:
        tuned: fine-tune -> its accuracy, of those that were scored.
    """

    def __init__(self, family: Family, sample: int, seed: int) -> None:
        self.family, self.size, self.seed = family, sample, seed
        self.tuned: dict[str, float] = {}
        self.matrices = {name: x for name, x in family.base.items() if is_matrix(x)}
        self.parameters = sum(x.numel() for x in self.matrices.values())
        self.norms: dict[str, float] = {}

    def models(self, count: int) -> list[Model]:
        names = list(self.family.tuned)
        turns = ((i // len(names), names[i % len(names)]) for i in range(count))
        return [Model(f"{name} again {turn}" if turn else name, name) for turn, name in turns]

    def sample(self, models: list[Model]) -> list[Model]:
        """As many of each task, evenly spaced."""
        tasks: dict[str, list[Model]] = {}
        for model in models:
            tasks.setdefault(self.family.tasks[model.tuned], []).append(model)
        each = max(1, self.size // len(tasks))
        groups = ((group, min(each, len(group))) for group in tasks.values())
        return [group[i * len(group) // few] for group, few in groups for i in range(few)]

    def alone(self, count: int) -> Iterator[dict[str, Any]]:
        """What keeps each model by itself: the number of models does not matter."""
        methods: list[Alone] = [individual(), bitdelta(), *map(nearest, (2, 4, 8))]
        methods += [method(rate) for method in (magnitude, dare) for rate in RATES]
        models = self.sample(self.models(count))
        for method in methods:

            def matrices(model: Model, method: Alone = method) -> Weights:
                tuned = self.family.tuned[model.tuned]
                return {
                    name: method.restore(x, tuned[name], self.key("mask", model, name))
                    for name, x in self.matrices.items()
                }

            yield self.point(method, None, models, matrices)

    def together(self, counts: list[int]) -> Iterator[dict[str, Any]]:
        for count in counts:
            yield self.buckets(randes(count), count)
        for transform, rate in itertools.product(OURS, RATES):
            method = ours(rate, transform)
            if method.models == 1:
                yield self.buckets(method, max(counts)) | {"models": None}
                continue
            for count in counts:
                if count >= method.models:
                    yield self.buckets(method, count)

    def buckets(self, method: Together, count: int) -> dict[str, Any]:
        """A point of models that lie in buckets; those are made that hold a model which is scored."""
        models = self.models(count)
        buckets = [models[i : i + method.models] for i in range(0, count, method.models)]
        home = {model: i for i, bucket in enumerate(buckets) for model in bucket}
        made: dict[int, Mapping[str, Any]] = {}

        def matrices(model: Model) -> Weights:
            if home[model] not in made:
                made.clear()  # one at a time: the sample comes bucket by bucket
                made[home[model]] = self.superposed(method, buckets[home[model]])
            return {
                name: method.restore(x, made[home[model]][name], self.key("signs", model, name))
                for name, x in self.matrices.items()
            }

        sample = sorted(self.sample(models), key=home.__getitem__)
        point = self.point(method, count, sample, matrices)
        shrink = 1 if method.code is None else 1 - DISTORTIONS[method.code]
        errors = [
            sum(self.norm(other.tuned) for other in buckets[home[model]]) / self.norm(model.tuned) / shrink
            - 1
            for model in sample
        ]
        equal_norms = method.models / shrink - 1
        return (
            point
            | {"bucket": method.models, "code": method.code}
            | {
                "predicted": fmean(errors),
                "predicted_equal_norms": equal_norms,
            }
        )

    def superposed(self, method: Together, bucket: list[Model]) -> dict[str, Any]:
        return {
            name: method.superpose(
                x,
                [self.family.tuned[model.tuned][name] for model in bucket],
                [self.key("signs", model, name) for model in bucket],
            )
            for name, x in self.matrices.items()
        }

    def point(
        self,
        method: Alone | Together,
        count: int | None,
        models: list[Model],
        matrices: Callable[[Model], Weights],
    ) -> dict[str, Any]:
        """Accuracy over the tuned models', and the relative squared error of the deltas."""
        kept, errors = [], []
        for model in models:
            tuned = self.family.tuned[model.tuned]
            restored = matrices(model)
            lost = sum((x - tuned[name]).double().square().sum().item() for name, x in restored.items())
            errors.append(lost / self.norm(model.tuned))
            kept.append(self.score(model.tuned, {**tuned, **restored}) / self.accuracy(model.tuned))
        bits = sum(method.bits(x.shape) for x in self.matrices.values()) / self.parameters
        where = "any" if count is None else count
        print(
            f"{method.method:18} {bits:7.3f} bits, {where!s:>3} models: {100 * fmean(kept):6.2f} %",
            flush=True,
        )
        return {
            "method": method.method,
            "models": count,
            "bits": bits,
            "kept": fmean(kept),
            "standard_error": stdev(kept) / len(kept) ** 0.5 if len(kept) > 1 else None,
            "scored": len(kept),
            "error": fmean(errors),
        }

    def untuned(self, count: int) -> float:
        """The base's matrices with each model's other tensors."""
        models = self.sample(self.models(count))
        return fmean(
            self.score(model.tuned, {**self.family.tuned[model.tuned], **self.matrices})
            / self.accuracy(model.tuned)
            for model in models
        )

    def key(self, domain: str, model: Model, tensor: str) -> pydelta.Key:
        return key(self.seed, domain, model.label, tensor)

    def score(self, tuned: str, weights: Weights) -> float:
        return self.family.score(tuned, weights, "test")

    def accuracy(self, tuned: str) -> float:
        if tuned not in self.tuned:
            self.tuned[tuned] = self.score(tuned, dict(self.family.tuned[tuned]))
        return self.tuned[tuned]

    def norm(self, tuned: str) -> float:
        """The squared norm of a delta."""
        if tuned not in self.norms:
            weights = self.family.tuned[tuned]
            deltas = (weights[name] - x for name, x in self.matrices.items())
            self.norms[tuned] = sum(delta.double().square().sum().item() for delta in deltas)
        return self.norms[tuned]
