"""Which models share a sum. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pydelta.superposition.format.manifest import Bucket, Manifest


def balance_into_buckets(powers: Mapping[str, float], count: int) -> list[tuple[str, ...]]:
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
    buckets: list[list[str]] = [[] for _ in range(count)]
    for first in range(0, len(order), count):
        buckets.sort(key=lambda names: (math.fsum(powers[name] for name in names), names))
        for bucket, name in zip(buckets, order[first : first + count], strict=False):
            bucket.append(name)
    return sorted((tuple(sorted(names)) for names in buckets), key=lambda names: (-len(names), names))


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
