"""Which models share a sum, and what each loses by it. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from pydelta.superposition.manifest import Bucket, Manifest
from pydelta.superposition.rules import slots


def spread(powers: Mapping[str, float], count: int) -> list[tuple[str, ...]]:
    """Models in buckets of equal size, or one less, whose powers balance.

    Largest first, ``count`` at a time: of each round the largest goes where there is least so far. It depends
    on the names and powers alone, not on their order.

    Args:
        powers: model -> squared norm of what it adds to a sum.
        count: of buckets, at most the number of models.

    Returns:
        The models' names; buckets with more models come first.
    """
    order = sorted(powers, key=lambda name: (-powers[name], name))
    found: list[list[str]] = [[] for _ in range(count)]
    for first in range(0, len(order), count):
        found.sort(key=lambda names: (math.fsum(powers[name] for name in names), names))
        for bucket, name in zip(found, order[first : first + count], strict=False):
            bucket.append(name)
    return sorted((tuple(sorted(names)) for names in found), key=lambda names: (-len(names), names))


def relative_error(manifest: Manifest, model: str) -> float:
    """Expected relative squared error of a model's retrieved delta at lambda 1.

    With P the sum of w_j^2 ||tau_j||^2 over its bucket, p its own part of it and D the distortion of the
    codes it is P / ((1 - D) p) - 1: for n equal norms n / (1 - D) - 1. Infinite for a model without a delta
    in a bucket that has some.
    """
    models, bucket = manifest.models, manifest.buckets[manifest.bucket(model)]
    return _error(manifest, [models[name].power() for name in bucket.models], models[model].power())


def tensor_errors(manifest: Manifest, model: str) -> dict[str, float]:
    """The same for each superposed tensor of a model; nothing for a store of version 1."""
    if manifest.version == 1:
        return {}
    bucket, models = manifest.buckets[manifest.bucket(model)], manifest.models
    tables = {name: _slots(manifest, name) for name in bucket.models}
    power: dict[str, list[float]] = {}
    for name, table in tables.items():
        for tensor, place in table.items():
            power.setdefault(place, []).append(models[name].power(tensor))
    return {
        tensor: _error(manifest, power[place], models[model].power(tensor))
        for tensor, place in tables[model].items()
    }


def open_bucket(manifest: Manifest) -> int | None:
    """The bucket that takes the next model; None if a new one must be begun.

    Low-bit codes: the last, while its sums in full are there. Otherwise the one with the least power.
    """
    if manifest.form.bits is not None:
        last = len(manifest.buckets) - 1
        return last if manifest.buckets and manifest.buckets[last].open else None
    return min(range(len(manifest.buckets)), key=lambda i: (_power(manifest, manifest.buckets[i]), i))


def _power(manifest: Manifest, bucket: Bucket) -> float:
    return math.fsum(manifest.models[name].power() for name in bucket.models)


def _slots(manifest: Manifest, model: str) -> dict[str, str]:
    return slots(manifest.rules, manifest.models[model].seed, model, manifest.shuffle_layers)


def _error(manifest: Manifest, powers: Iterable[float], own: float) -> float:
    total = math.fsum(powers)
    noise = max(total - own, 0.0) + total * manifest.form.noise
    if own > 0:
        return noise / own
    return math.inf if noise > 0 else 0.0
