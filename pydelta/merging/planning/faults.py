"""What can be wrong with a merge as a whole, told by headers and parameters. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydelta.checkpoint.tensor_names import layer_of
from pydelta.merging.method import Method, Values
from pydelta.merging.planning.items import Mismatches, Model, TensorPlan
from pydelta.merging.recipes.recipe import Recipe


def value_faults(method: Method, values: Values) -> Iterator[str]:
    if None not in values.values() and method.fault is not None and (fault := method.fault(values)):
        yield fault
    rescale, q = values.get("rescale"), values.get("q")
    if rescale == "q" and q is None:
        yield "parameter q is missing where rescale is q: a number, analytic or mse"
    if rescale != "q" and q is not None:
        yield f"parameter q must come with rescale: q, got rescale {rescale}"
    if (q == "analytic") != (values.get("eta") is not None):
        yield f"parameter eta must be given where q is analytic, and there alone, got {values.get('eta')}"


def group_faults(items: Sequence[TensorPlan]) -> list[str]:
    """One order of magnitudes over the whole model wants one density."""
    faults = []
    grouped = [item for item in items if item.terms]
    if len({item.values.get("group") == "model" for item in grouped}) > 1:
        faults.append("parameter group must be model for every tensor or for none")
    seen: dict[tuple[str, str], Any] = {}
    for item in grouped:
        for term in item.terms if item.values.get("group") == "model" else ():
            for name in ("density", "gamma"):
                if seen.setdefault((term.model, name), term.values.get(name)) != term.values.get(name):
                    faults.append(f"parameter {name} of {term.model} must be one number where group is model")
    return faults


def layer_faults(recipe: Recipe, origin: Model) -> list[str]:
    layers = {layer for name in origin.tensors if (layer := layer_of(name)) is not None}
    count = max(layers, default=-1) + 1
    return [
        f"{entry.name}: layer_range must be [0, {count}], the whole model, got [0, {entry.layers}]"
        for entry in recipe.models
        if entry.layers not in (None, count)
    ]


def name_faults(name: str, model: Model, origin: Model, policy: Mismatches) -> Iterator[str]:
    lacking = [n for n in origin.tensors if n not in model.tensors and not policy.allows(n)]
    extra = [n for n in model.tensors if n not in origin.tensors and not policy.allows(n)]
    if lacking:
        yield f"{name} ({model.path}) lacks tensors of {origin.path}: {', '.join(lacking)}"
    if extra:
        yield f"{name} ({model.path}) has tensors that {origin.path} lacks: {', '.join(extra)}"
