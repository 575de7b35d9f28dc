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
from pydelta.demo.train import Recipe, Weights, train_all, tune_again, twin

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Store:
    """How a store is made.

    Attributes:
        transform, flags: for ``pydelta compress``.
        bits: of its codes, None where sums are kept in full.
    """

    transform: str
    flags: tuple[str, ...] = ()
    bits: int | None = None


STORES = {
    "sign": Store("sign"),
    "hadamard": Store("hadamard"),
    "one_bit": Store("hadamard", ("--bits=1",), bits=1),
    "sixteen": Store("hadamard", ("--rate=0.5",), bits=1),
}


def run(folder: Path, recipe: Recipe, *, seed: int, threads: int = 1, say: Say) -> dict[str, Any]:
    """Trains, compresses, retrieves and compares, in an empty folder.

    Returns:
        What ``demo.json`` in the folder holds. ``methods`` maps each of ``report.LABELS`` to its ``accuracy``
        by view, their ``average``, the ``bytes`` that must be kept to have all views and, for a store, the
        median times of :mod:`pydelta.demo.retrieve_all`; ``sixteen`` has two networks a view, and the means
        of their accuracies. ``curve`` has the averages over the first 1, 2, ... views.

    Raises:
        OSError: a file cannot be written.
        RuntimeError: a process failed, or what came out of a store is not what this process computes.
    """
    start = time.perf_counter()
    digits = data.load(seed)
    base, tuned = train_all(digits, recipe, seed, say)
    say("fine-tuning all of them again, on the digits in another order")
    again = tune_again(digits, recipe, base, seed + 1, say)
    both = tuned | {twin(view): weights for view, weights in again.items()}
    for name, weights in {"base": base, **both}.items():
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
    stores = {name: Comparison(digits, base, both if name == "sixteen" else tuned, seed) for name in STORES}
    times = _through_files(folder, stores, threads, say)
    for method, stored in stores.items():
        retrieved = _retrieved(folder, method, stored)
        methods[method] = kept(retrieved, "models/base", f"store-{method}") | times[method]
    say("accuracy against the number of models in the store")
    result = {
        "seed": seed,
        "recipe": dataclasses.asdict(recipe),
        "views": list(tuned),
        "methods": methods,
        "sixteen_tuned": fmean(comparison.accuracies(both).values()),
        "task_arithmetic_lambda": lam,
        "curve": comparison.by_number_of_models(),
        "seconds": time.perf_counter() - start,
    }
    picture.draw(result, folder / "demo.png")
    (folder / "demo.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


def _through_files(
    folder: Path, stores: dict[str, Comparison], threads: int, say: Say
) -> dict[str, dict[str, float]]:
    """Compression, each store by a process of its own, and retrieval by another; how long that took."""
    for method, comparison in stores.items():
        names, made = list(comparison.tuned), STORES[method]
        flags = [f"--transform={made.transform}", f"--seed={comparison.seed}", *made.flags]
        say(f"pydelta compress {' '.join(flags)}, {len(names)} models")
        files.compress(folder / "models", names, folder / f"store-{method}", flags, threads)
    say("a new process retrieves them all from the files")
    return files.retrieve(folder, list(stores), threads)


def _retrieved(folder: Path, method: str, comparison: Comparison) -> dict[str, Weights]:
    """The models that came out of a store: the bits of what is computed in memory, bucket by bucket."""
    made, store = STORES[method], folder / f"store-{method}"
    back = folder / f"retrieved-{method}"
    retrieved = {name: pydelta.load_checkpoint(back / name) for name in comparison.tuned}
    for bucket in pydelta.Superposition.open(store).describe()["buckets"]:
        if not _equal(comparison.superposed(bucket["models"], made.transform, made.bits), retrieved):
            raise RuntimeError(f"{store.name} gave other bits than superpose and retrieve in memory")
    return retrieved


def _equal(a: dict[str, Weights], b: dict[str, Weights]) -> bool:
    """Whether the models of the first set agree with those of the second bit for bit."""
    return all(x.equal(b[view][name]) for view, weights in a.items() for name, x in weights.items())
