"""Accuracy of the networks, and of what becomes of them when several are kept as one."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean

import torch

from pydelta import ops
from pydelta.core.quantized import Quantized
from pydelta.core.random import key
from pydelta.demo.data import VIEWS, Digits, Split
from pydelta.demo.train import Network, Weights, twin

Sums = dict[str, torch.Tensor | Quantized]

LAMBDAS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.8, 1.0)
"""Task arithmetic takes the one of these that does best on the validation split."""


class Comparison:
    """A base, its fine-tunes by view, and the digits that they are judged on.

    Args:
        digits: the splits.
        base: the base network's weights.
        tuned: view -> the tuned network's weights.
        seed: what the superpositions' random signs come from.
    """

    def __init__(self, digits: Digits, base: Weights, tuned: dict[str, Weights], seed: int) -> None:
        self.digits, self.base, self.tuned, self.seed = digits, base, tuned, seed
        self._network = Network(len(base["0.bias"]))

    def accuracy(self, weights: Weights, view: str, split: Split | None = None) -> float:
        """Per cent of a split's digits (by default the test split's) that are read rightly in a view."""
        self._network.load_state_dict(weights)
        x, digits = (split or self.digits.test).view(view)
        with torch.no_grad():
            right: float = (self._network(x).argmax(-1) == digits).double().mean().item()
        return 100 * right

    def accuracies(self, weights: dict[str, Weights]) -> dict[str, float]:
        """Test accuracy by view, each view with its own weights; where it has two networks, their mean."""
        views = [view for view in VIEWS if view in weights]
        return {
            view: fmean(self.accuracy(weights[name], view) for name in (view, twin(view)) if name in weights)
            for view in views
        }

    def task_arithmetic(self, views: Iterable[str]) -> tuple[Weights, float]:
        """One network for all the views: base + lambda * (the sum of their deltas), and its lambda."""
        views = list(views)
        summed = self._superpose(views, "none")
        merged = {lam: self._retrieve(summed, "", "none", lam) for lam in LAMBDAS}

        def validate(lam: float) -> float:
            return fmean(self.accuracy(merged[lam], view, self.digits.validation) for view in views)

        best = max(LAMBDAS, key=validate)
        return merged[best], best

    def superposed(self, views: Iterable[str], transform: str, bits: int | None = None) -> dict[str, Weights]:
        """Each view's network out of ONE superposition of them, biases exact: a store's work, in memory.

        With ``bits`` the superposition is kept in codes, their scales in bfloat16 as in a file.
        """
        views = list(views)
        summed = self._superpose(views, transform, bits)
        return {
            view: self._retrieve(summed, view, transform, 1.0) | _biases(self.tuned[view]) for view in views
        }

    def by_number_of_models(self) -> dict[str, list[float]]:
        """Mean accuracy over the first 1, 2, ... views, kept by each method as if there were no others."""
        views = list(self.tuned)
        curves: dict[str, list[float]] = {"tuned": [], "task_arithmetic": [], "sign": [], "hadamard": []}
        for count in range(1, len(views) + 1):
            stored = views[:count]
            kept = {transform: self.superposed(stored, transform) for transform in ("sign", "hadamard")}
            kept["tuned"] = {view: self.tuned[view] for view in stored}
            kept["task_arithmetic"] = dict.fromkeys(stored, self.task_arithmetic(stored)[0])
            for method, weights in kept.items():
                curves[method].append(fmean(self.accuracies(weights).values()))
        return curves

    def _superpose(self, views: list[str], transform: str, bits: int | None = None) -> Sums:
        # The order of the names, as in a store: then the sums have the same bits.
        views = sorted(views)
        sums: Sums = {}
        for name, x in self.base.items():
            models = [self.tuned[view][name] for view in views]
            keys = [key(self.seed, "signs", view, name) for view in views]
            if bits is None:
                sums[name] = ops.superpose(x, models, keys, transform=transform)
            else:
                codes = ops.superpose(x, models, keys, transform=transform, bits=bits)
                codes.scales.copy_(codes.scales.bfloat16())
                sums[name] = codes
        return sums

    def _retrieve(self, summed: Sums, view: str, transform: str, lam: float) -> Weights:
        return {
            name: ops.retrieve(
                x, summed[name], key(self.seed, "signs", view, name), lam=lam, transform=transform
            )
            for name, x in self.base.items()
        }


def _biases(weights: Weights) -> Weights:
    return {name: x for name, x in weights.items() if x.dim() == 1}
