"""Accuracy after pruning and merging, on real fine-tunes: the pictures and numbers in docs/results.

    python experiments/merging/run.py --family digits --out docs/results
    python experiments/merging/run.py --family FOLDER --tuned DIR --out docs/results

FOLDER holds a ``finetune.py`` as ``families.Sentences`` wants it, DIR what that wrote.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # experiments/: modules are named from there
from families import Family, Weights, digits, sentences
from merging import pictures

import pydelta
from pydelta.calibration import Calibration

KEEPS = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
PRUNINGS: dict[str, dict[str, Any]] = {
    "random (DARE)": {"method": "random", "rescale": True},
    "random, DAREx-q (mse)": {"method": "random", "rescale": "q", "q": "mse"},
    "random, 1/q, q = 2 keep": {"method": "random", "rescale": "half"},
    "magnitude": {"method": "magnitude"},
    "magnitude by row": {"method": "magnitude", "group": "row"},
    "wanda": {"method": "wanda"},
    "breadcrumbs": {"method": "breadcrumbs", "drop_large": 0.01},
    "input columns": {"method": "magnitude", "group": "column"},
}
MERGES: dict[str, dict[str, Any]] = {
    "average": {"method": "linear", "normalize": True},
    "task arithmetic": {"method": "task_arithmetic"},
    "TIES": {"method": "ties", "density": 0.2, "normalize": True},
    "DARE": {"method": "dare_linear", "density": 0.2},
    "DARE + TIES": {"method": "dare_ties", "density": 0.2, "normalize": True},
    "DELLA": {"method": "della", "density": 0.5, "epsilon": 0.2},
    "Breadcrumbs": {"method": "breadcrumbs", "density": 0.2, "gamma": 0.01},
    "Breadcrumbs + TIES": {"method": "breadcrumbs_ties", "density": 0.2, "gamma": 0.01, "normalize": True},
}
LAMBDAS = (0.2, 0.3, 0.5, 0.7, 1.0)
NORMALIZED = (0.5, 0.75, 1.0, 1.5, 2.0)
"""Of the sum of the deltas, and of their mean: the best on inputs apart from the test is taken."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--family", default="digits")
    parser.add_argument("--tuned", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--sentences", type=int, help="of each task that are scored; default: all")
    parser.add_argument("--seed", type=int, default=42)
    arguments = parser.parse_args()
    started = time.time()
    family = (
        digits(arguments.seed)
        if arguments.family == "digits"
        else sentences(Path(arguments.family), [arguments.tuned], arguments.sentences)
    )
    tuned = {task: family.score(task, weights, "test") for task, weights in family.tuned.items()}
    base = {task: family.score(task, family.base, "test") for task in family.tuned}
    print(f"{family.name}: tuned {tuned}, base {base}", flush=True)
    result = {
        "family": family.name,
        "seed": arguments.seed,
        "sentences": arguments.sentences,
        "tuned": tuned,
        "base": base,
        "pruning": pruning(family, tuned, arguments.seed),
        "merging": merging(family, tuned, arguments.seed),
        "torch": torch.__version__,
        "pydelta": pydelta.__version__,
        "minutes": (time.time() - started) / 60,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / f"{family.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    pictures.draw(result, arguments.out)


def pruning(family: Family, tuned: dict[str, float], seed: int) -> dict[str, Any]:
    """Method -> mean over the tasks of accuracy / tuned accuracy, one for each of KEEPS."""
    statistics = {task: family.calibrate(task) for task in family.tuned}

    def mean(options: dict[str, Any], keep: float) -> float:
        return fmean(
            family.score(task, _pruned(family, task, statistics[task], options, keep, seed), "test")
            / tuned[task]
            for task in family.tuned
        )

    return {"keeps": KEEPS, "curves": _curves(PRUNINGS, KEEPS, mean)}


def _pruned(
    family: Family, task: str, calibration: Calibration, options: dict[str, Any], keep: float, seed: int
) -> Weights:
    if options["method"] == "wanda" or options.get("q") == "mse":
        options = {**options, "calibration": calibration}
    if options.get("rescale") == "half":
        options = {**options, "rescale": 1 / (2 * keep)}
    pruned = pydelta.prune(
        family.base, family.tuned[task], keep=keep, name=task, seed=seed, dense_1d=True, **options
    )
    assert isinstance(pruned, dict)
    return pruned


def merging(family: Family, tuned: dict[str, float], seed: int) -> dict[str, Any]:
    """Method -> mean over the merged tasks of accuracy / tuned accuracy, for the first 2, 3, ... tasks."""
    tasks = list(family.tuned)
    counts = range(2, len(tasks) + 1)

    def mean(options: dict[str, Any], count: int) -> float:
        chosen = tasks[:count]
        best = max(
            (_merged(family, chosen, options, lam, seed) for lam in _lambdas(options)),
            key=lambda weights: fmean(family.score(task, weights, "choice") for task in chosen),
        )
        return fmean(family.score(task, best, "test") / tuned[task] for task in chosen)

    return {"counts": list(counts), "curves": _curves(MERGES, counts, mean)}


def _lambdas(options: dict[str, Any]) -> Iterable[float | None]:
    if options["method"] == "linear":
        return (None,)
    return NORMALIZED if options.get("normalize") else LAMBDAS


def _merged(
    family: Family, tasks: list[str], options: dict[str, Any], lam: float | None, seed: int
) -> Weights:
    models = {task: family.tuned[task] for task in tasks}
    base = None if options["method"] == "linear" else family.base
    merged = pydelta.merge(base, models, lam=lam, seed=seed, **options)
    assert isinstance(merged, dict)
    return merged


def _curves(
    methods: dict[str, dict[str, Any]], places: Iterable[Any], mean: Callable[[dict[str, Any], Any], float]
) -> dict[str, list[float]]:
    curves = {}
    for name, options in methods.items():
        curves[name] = [mean(options, place) for place in places]
        print(f"{name:24}", *(f"{100 * value:6.1f}" for value in curves[name]), flush=True)
    return curves


if __name__ == "__main__":
    main()
