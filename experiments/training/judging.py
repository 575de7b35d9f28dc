"""How a family of fine-tunes takes merging and superposing: the columns of ``run.py``."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from families import Family, Weights

import pydelta

KEEPS = (0.5, 0.1, 0.01)
LAMBDAS = (0.1, 0.2, 0.3, 0.5, 1.0)
NORMALIZED = (0.5, 1.0, 2.0)
"""Coefficients of the sum of the deltas, and of their mean."""

WHOLE: dict[str, dict[str, Any]] = {
    "average": {"method": "linear", "normalize": True},
    "task arithmetic": {"method": "task_arithmetic"},
}
KEPT: dict[str, dict[str, Any]] = {
    "TIES": {"method": "ties", "normalize": True},
    "Breadcrumbs": {"method": "breadcrumbs", "gamma": 0.01},
    "DARE": {"method": "dare_linear"},
}


def judged(family: Family, seed: int) -> dict[str, float]:
    """Mean test accuracy over the tasks: tuned, merged in each way, superposed."""
    found = {"tuned": fmean(family, family.tuned, "test")}
    for name, options in WHOLE.items():
        found[name] = merged(family, family.tuned, options, seed)
    statistics_of = {task: family.calibrate(task) for task in family.tuned}
    for keep in KEEPS:
        for name, options in KEPT.items():
            found[f"{name} {keep}"] = merged(family, family.tuned, {**options, "density": keep}, seed)
        pruned = {
            task: pydelta.prune(
                family.base, weights, keep=keep, name=task, seed=seed, dense_1d=True,
                method="random", rescale="q", q="mse", calibration=statistics_of[task],
            )
            for task, weights in family.tuned.items()
        }  # fmt: skip
        found[f"DAREx-q {keep}"] = merged(family, pruned, WHOLE["task arithmetic"], seed)
    found["superposed"] = fmean(family, superposed(family, family.tuned, seed), "test")
    for keep in KEEPS:
        kept = {
            task: pydelta.prune(family.base, weights, keep=keep, method="magnitude", dense_1d=True)
            for task, weights in family.tuned.items()
        }
        found[f"superposed {keep}"] = fmean(family, superposed(family, kept, seed), "test")
    return found


def fmean(family: Family, weights: Any, split: str) -> float:
    return statistics.fmean(family.score(task, weights[task], split) for task in weights)


def merged(family: Family, models: Any, options: dict[str, Any], seed: int) -> float:
    """Test accuracy of one model for all tasks, with the coefficient that does best on other inputs."""
    lambdas: Iterable[float | None] = NORMALIZED if options.get("normalize") else LAMBDAS
    base: Weights | None = family.base
    if options["method"] == "linear":
        lambdas, base = (None,), None
    candidates = [pydelta.merge(base, models, lam=lam, seed=seed, **options) for lam in lambdas]
    if len(candidates) > 1:
        candidates.sort(key=lambda weights: fmean(family, dict.fromkeys(models, weights), "choice"))
    return fmean(family, dict.fromkeys(models, candidates[-1]), "test")


def superposed(family: Family, models: Any, seed: int) -> dict[str, Weights]:
    """Each task's model out of one superposition by signs, 1-D tensors exact, as a store keeps them."""
    tasks = sorted(models)
    found: dict[str, Weights] = {task: dict(models[task]) for task in tasks}
    for name, base in family.base.items():
        if base.dim() < 2 or not base.is_floating_point():
            continue
        keys = [pydelta.key(seed, "signs", task, name) for task in tasks]
        summed = pydelta.superpose(base, [models[task][name] for task in tasks], keys)
        for task, key in zip(tasks, keys, strict=True):
            found[task][name] = pydelta.retrieve(base, summed, key)
    return found
