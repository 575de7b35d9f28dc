"""The whole demo, from digits to picture."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pydelta
from pydelta.demo import data, files, picture
from pydelta.demo.compare import Comparison
from pydelta.demo.train import Recipe, Weights, train_all

Say = Callable[[str], None]


def run(folder: Path, recipe: Recipe, *, seed: int, threads: int = 1, say: Say) -> dict[str, Any]:
    """Trains, compresses, retrieves and compares, in an empty folder.

    Returns:
        What ``demo.json`` in the folder holds. ``methods`` maps each of ``report.LABELS`` to its ``accuracy``
        by view, their ``average``, the ``bytes`` that must be kept to have all views and, for a store, the
        median times of :mod:`pydelta.demo.retrieve_all`; ``curve`` has the averages over the first 1, 2, ...
        views.

    Raises:
        OSError: a file cannot be written.
        RuntimeError: a process failed, or what came out of a store is not what this process computes.
    """
    start = time.perf_counter()
    digits = data.load(seed)
    base, tuned = train_all(digits, recipe, seed, say)
    for name, weights in {"base": base, **tuned}.items():
        files.write_model(weights, folder / "models" / name)
    comparison = Comparison(digits, base, tuned, seed)
    say("task arithmetic: lambda by the validation split")
    merged, lam = comparison.task_arithmetic(tuned)
    files.write_model(merged, folder / "merged")

    def kept(weights: dict[str, Weights], *paths: str) -> dict[str, Any]:
        accuracy = comparison.accuracies(weights)
        size = files.bytes_of(*(folder / path for path in paths))
        return {"accuracy": accuracy, "average": fmean(accuracy.values()), "bytes": size}

    methods = {
        "tuned": kept(tuned, *(f"models/{view}" for view in tuned)),
        "base": kept(dict.fromkeys(tuned, base), "models/base"),
        "task_arithmetic": kept(dict.fromkeys(tuned, merged), "merged"),
    }
    for transform in ("sign", "hadamard"):
        retrieved, times = _through_files(folder, list(tuned), transform, seed, threads, say)
        if not _equal(retrieved, comparison.superposed(tuned, transform)):
            raise RuntimeError(f"store-{transform} gave other bits than superpose and retrieve in memory")
        methods[transform] = kept(retrieved, "models/base", f"store-{transform}") | times
    say("accuracy against the number of models in the store")
    result = {
        "seed": seed,
        "recipe": dataclasses.asdict(recipe),
        "views": list(tuned),
        "methods": methods,
        "task_arithmetic_lambda": lam,
        "curve": comparison.by_number_of_models(),
        "seconds": time.perf_counter() - start,
    }
    picture.draw(result, folder / "demo.png")
    (folder / "demo.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


def _through_files(
    folder: Path, views: list[str], transform: str, seed: int, threads: int, say: Say
) -> tuple[dict[str, Weights], dict[str, float]]:
    """The models after compression by one process and retrieval by another, and how long retrieval took."""
    models, store, back = folder / "models", folder / f"store-{transform}", folder / f"retrieved-{transform}"
    say(f"pydelta compress --transform {transform}, {len(views)} models")
    files.compress(models, views, store, transform, seed, threads)
    say("a new process retrieves them all from the file")
    times = files.retrieve(models, store, back, threads)
    return {view: pydelta.load_checkpoint(back / view) for view in views}, times


def _equal(a: dict[str, Weights], b: dict[str, Weights]) -> bool:
    """Whether two sets of models agree bit for bit."""
    return all(x.equal(b[view][name]) for view, weights in a.items() for name, x in weights.items())
