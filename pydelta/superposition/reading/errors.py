"""What each model loses by sharing a sum: expected errors, from norms alone. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterable

from pydelta.superposition.format.manifest import Manifest, Model
from pydelta.superposition.format.rules import slots


def relative_error(manifest: Manifest, model: str) -> float:
    """Expected relative squared error of a model's retrieved delta at lambda 1.

    With P the sum of w_j^2 ||m(tau_j)||^2 over its bucket, m the mask, p its own part of it and D the
    distortion of the codes, the sum adds P / (1 - D) - p, over w_k^2; the mask adds ||m(tau_k) - tau_k||^2.
    Without a mask, relative to ||tau_k||^2, it is P / ((1 - D) p) - 1: for n equal norms n / (1 - D) - 1.
    Infinite for a model without a delta in a bucket that has some.
    """
    models, entry = manifest.models, manifest.models[model]
    if entry.losses or entry.departs.in_tensors:
        squares = _squares(manifest, model)
        return _ratio(math.fsum(squares.values()), math.fsum(entry.loss(tensor).delta for tensor in squares))
    names = manifest.buckets[manifest.bucket(model)].models
    own = entry.power()
    return _ratio(_noise(manifest, [models[name].power() for name in names], own), own)


def tensor_errors(manifest: Manifest, model: str) -> dict[str, float]:
    """The same for each superposed tensor of a model; nothing for a store of version 1."""
    entry = manifest.models[model]
    whole = {tensor: entry.loss(tensor).delta for tensor in entry.norms}
    return {tensor: _ratio(error, whole[tensor]) for tensor, error in _squares(manifest, model).items()}


def cosine(model: Model, error: float) -> float:
    """The expected cosine of a delta and what is retrieved of it, from the relative squared error.

    Noise of the sum is at right angles to the delta, what a mask takes is not: with e the error and t the
    delta, <e, t> = <m(t) - t, t> follows from the norms of m(t), t and m(t) - t.
    """
    if not model.losses or not math.isfinite(error):
        return 1 / math.sqrt(1 + error)
    delta = math.fsum(loss.delta for loss in model.losses.values())
    if delta == 0:
        return 1.0
    losses = model.losses.items()
    along = math.fsum(x.left * (model.norms[name] - x.delta - x.lost) / 2 for name, x in losses) / delta
    return (1 + along) / math.sqrt(max(1 + 2 * along + error, (1 + along) ** 2)) if along > -1 else 0.0


def _slots(manifest: Manifest, model: str) -> dict[str, str]:
    return slots(manifest.rules, manifest.models[model].seed, model, manifest.shuffle_layers)


def _squares(manifest: Manifest, model: str) -> dict[str, float]:
    """Superposed tensor -> expected squared error of its retrieved delta."""
    if manifest.version == 1:
        return {}
    bucket, models = manifest.buckets[manifest.bucket(model)], manifest.models
    tables = {name: _slots(manifest, name) for name in bucket.models}
    power: dict[str, list[float]] = {}
    for name, table in tables.items():
        for tensor, slot in table.items():
            power.setdefault(slot, []).append(models[name].power(tensor))
    entry, squares = models[model], {}
    for tensor, slot in tables[model].items():
        if not entry.departs.superposes(tensor, manifest.rules[tensor]):
            continue  # what is exact shares nothing
        noise, loss = _noise(manifest, power[slot], entry.power(tensor)), entry.loss(tensor)
        squares[tensor] = loss.left * (noise / entry.weight**2 + loss.lost)
    return squares


def _noise(manifest: Manifest, powers: Iterable[float], own: float) -> float:
    """What the others of a sum and its codes add to one of its terms."""
    total = math.fsum(powers)
    return max(total - own, 0.0) + total * manifest.form.noise


def _ratio(error: float, whole: float) -> float:
    if whole > 0:
        return error / whole
    return math.inf if error > 0 else 0.0
