"""A merge of checkpoints, opened and checked as a whole."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path

from pydelta.checkpoint import Checkpoint
from pydelta.checkpoint.header import ITEMSIZE
from pydelta.checkpoint.quantised.dequantised import open_checkpoint
from pydelta.checkpoint.quantised.kinds import counts_up, same_bytes
from pydelta.checkpoint.tensor_names import known_axes
from pydelta.merging.planning.items import Mismatches, TensorPlan
from pydelta.merging.planning.kept import kept_tensors
from pydelta.merging.planning.plan import plan
from pydelta.merging.recipes.recipe import Recipe

_BANDWIDTH = 1.2e9
"""Bytes read and written per second, roughly, on a laptop."""

_TORCH_BYTES = 300 << 20
_WORKSPACE = 8 << 20
"""What torch itself takes, and each thread's buffers, roughly: they serve an estimate and bound nothing."""


@dataclasses.dataclass(frozen=True)
class CheckedMerge:
    """What is to be merged, checked.

    Attributes:
        origin: gives layout, config, and what is not merged: the base, or the first model where there is
            none, or the model that is pruned.
        base: None where the models themselves are averaged.
        models: by name, in the order of the names.
        problems: why it cannot run; nothing is merged while there are any.
    """

    recipe: Recipe
    origin: Checkpoint | None
    base: Checkpoint | None
    models: Mapping[str, Checkpoint]
    items: list[TensorPlan]
    problems: list[str]

    @property
    def inputs(self) -> list[Path]:
        """Where the checkpoints are that are read."""
        used = [self.origin, self.base, *self.models.values()]
        return [model.path for model in used if model is not None]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors that are read."""
        assert self.origin is not None
        return sum(item_bytes(item, self) for item in self.items)

    def estimate(self, outputs: int = 1, threads: int | None = None) -> dict[str, float]:
        """Bytes to read and to write, peak memory, and rough seconds."""
        count = threads or os.cpu_count() or 1
        cuts = self.recipe.method is not None and self.recipe.method.mask is not None
        cuts = cuts and not getattr(self.recipe.method, "random", False)
        written = outputs * sum(item.info.nbytes for item in self.items)
        pairs = [2 * item.info.nbytes for item in self.items if item.terms]
        memory = _TORCH_BYTES + count * _WORKSPACE + (max(pairs, default=0) * min(count, 4) if cuts else 0)
        read = self.nbytes * (2 if cuts else 1)
        return {
            "read_bytes": read,
            "written_bytes": written,
            "memory_bytes": memory,
            "seconds": 2 + (read + written) / _BANDWIDTH,
        }


def check_merge(recipe: Recipe, policy: Mismatches) -> CheckedMerge:
    """Opens every checkpoint of a recipe and holds them against each other: headers and integers."""
    problems = list(recipe.problems)
    opened: dict[str, Checkpoint] = {}
    for entry in [*recipe.models, *([recipe.base] if recipe.base else [])]:
        if entry.path not in opened and os.path.exists(entry.path):
            try:
                opened[entry.path] = open_checkpoint(entry.path, dequantize=policy.dequantize)
            except (OSError, ValueError) as error:
                problems.append(str(error))
    models = {entry.name: opened[entry.path] for entry in recipe.models if entry.path in opened}
    stated_base = opened.get(recipe.base.path) if recipe.base else None
    origin = stated_base or next(iter(models.values()), None)
    if recipe.method is not None and recipe.method.prunes:
        origin = next(iter(models.values()), None)
    base = stated_base if recipe.method is not None and recipe.method.needs_base else None
    items: list[TensorPlan] = []
    if recipe.method is not None and origin is not None and (stated_base or not recipe.base):
        try:
            known = known_axes(origin)
        except ValueError as error:
            known, problems = {}, [*problems, str(error)]
        policy = dataclasses.replace(policy, axes={**policy.axes, **known})
        sources = models if base is None else {"base": base, **models}
        prunes = recipe.method.prunes
        kept, faults = kept_tensors(origin, sources, same_bytes, counts_up, prunes=prunes)
        if not faults:
            items, faults = plan(recipe, recipe.method, origin, base, models, policy, kept)
        problems += faults
    return CheckedMerge(recipe, origin, base, models, items, problems)


def item_bytes(item: TensorPlan, job: CheckedMerge) -> int:
    """Bytes that are read for one tensor, once."""
    sources = [job.models[term.model] for term in item.terms]
    assert job.origin is not None
    sources += [job.base] if job.base is not None and sources else []
    sources = sources or [job.origin]
    count = math.prod(item.shape if item.terms else item.info.shape)
    return sum(count * ITEMSIZE[source.dtype(item.name)] for source in sources)
