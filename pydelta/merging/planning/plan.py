"""What becomes of every tensor, decided from headers alone, with every problem found at once. No torch."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydelta.checkpoint.header import TensorInfo
from pydelta.checkpoint.tensor_names import FLOATS, input_axis
from pydelta.merging.method import REQUIRED, Method
from pydelta.merging.planning.faults import group_faults, layer_faults, name_faults, value_faults
from pydelta.merging.planning.items import Mismatches, Model, ModelTerm, TensorPlan
from pydelta.merging.recipes.parameters import Depth, Level, look_up
from pydelta.merging.recipes.recipe import Recipe


def plan(
    recipe: Recipe,
    method: Method,
    origin: Model,
    base: Model | None,
    models: Mapping[str, Model],
    policy: Mismatches,
    kept: Collection[str] = (),
) -> tuple[list[TensorPlan], list[str]]:
    """(the tensors of the result, what is wrong).

    Args:
        origin: gives the result its names, shapes and layout, and what is not merged.
        base: what deltas are from; None where the models themselves are averaged.
        models: by name, in the order of the names.
        kept: tensors that are the origin's, whatever they hold.
    """
    sources = models if base is None else {"base": base, **models}
    problems = [
        fault for name, model in sources.items() for fault in name_faults(name, model, origin, policy)
    ]
    depth = Depth(list(origin.tensors))
    maker = _Maker(recipe, method, base, models, policy, depth)
    tensors = origin.tensors.values()
    items = [TensorPlan(info) if info.name in kept else maker.item(info) for info in tensors]
    problems += maker.problems
    problems += group_faults(items) + layer_faults(recipe, origin)
    return items, list(dict.fromkeys(problems))


class _Maker:
    """Items, one by one, and what is wrong with them."""

    def __init__(
        self,
        recipe: Recipe,
        method: Method,
        base: Model | None,
        models: Mapping[str, Model],
        policy: Mismatches,
        depth: Depth,
    ) -> None:
        self._recipe, self._method, self._base, self._models = recipe, method, base, models
        self._policy, self._depth = policy, depth
        self.problems: list[str] = []

    def item(self, info: TensorInfo) -> TensorPlan:
        if info.nbytes == 0 or not info.dtype.startswith(("F", "BF")):
            return TensorPlan(info)
        if info.dtype not in FLOATS:
            self.problems.append(f"{info.name} has dtype {info.dtype}, which cannot be merged")
            return TensorPlan(info)
        sources = self._models if self._base is None else {"base": self._base, **self._models}
        held = {
            name: model.tensors[info.name] for name, model in sources.items() if info.name in model.tensors
        }
        shape = min((self._fitting(name, other, info) for name, other in held.items()), default=info.shape)
        if self._base is not None and held.pop("base", None) is None:
            held = {}
        if not self._recipe.sound:
            return TensorPlan(info)
        shared = self._shared(info.name)
        terms = [ModelTerm(name, self._values(name, info.name, shape, shared)) for name in held]
        dtype = self._recipe.dtype or info.dtype
        axis = self._axis(info.name, shape)
        if terms and not self._weights_fit(info.name, terms, shared):
            terms = []
        return TensorPlan(TensorInfo(info.name, dtype, info.shape), shape, tuple(terms), axis, shared)

    def _fitting(self, model: str, other: TensorInfo, info: TensorInfo) -> tuple[int, ...]:
        """The shape that a model's tensor and the base's have in common."""
        if other.dtype not in FLOATS:
            self.problems.append(f"{model}: {info.name} has dtype {other.dtype}, elsewhere {info.dtype}")
        if other.shape == info.shape:
            return info.shape
        rows_alone = info.shape and other.shape[1:] == info.shape[1:] and len(other.shape) == len(info.shape)
        if rows_alone and self._policy.vocabulary == "common":
            return min(other.shape, info.shape)
        hint = "; vocabulary common merges the rows that all have" if rows_alone else ""
        self.problems.append(
            f"{model}: {info.name} has shape {list(other.shape)}, not {list(info.shape)}{hint}"
        )
        return info.shape

    def _axis(self, name: str, shape: tuple[int, ...]) -> int:
        """The input axis, counted from the front."""
        rank = len(shape)
        stated = (axis for pattern, axis in self._policy.axes.items() if fnmatch.fnmatchcase(name, pattern))
        axis = next(stated, input_axis(shape))
        if rank > 1 and not -rank <= axis < rank:
            self.problems.append(
                f"input_dims must lie in [{-rank}, {rank - 1}] for {name} of shape {list(shape)}, got {axis}"
            )
        return axis % max(rank, 1)

    def _shared(self, tensor: str) -> dict[str, Any]:
        return {
            parameter.name: self._look_up(self._recipe.levels, parameter, tensor, "")
            for parameter in self._method.parameters
            if not parameter.per_model
        }

    def _values(
        self, model: str, tensor: str, shape: tuple[int, ...], shared: Mapping[str, Any]
    ) -> dict[str, Any]:
        own = next(entry.levels for entry in self._recipe.models if entry.name == model)
        levels = (*own, *self._recipe.levels)
        values = dict(shared) | {
            parameter.name: self._look_up(levels, parameter, tensor, f" of {model}")
            for parameter in self._method.parameters
            if parameter.per_model
        }
        values["size"] = math.prod(shape)
        values["mergekit"] = self._policy.mergekit
        if values.get("rescale") is True and self._policy.mergekit:
            values["rescale"] = "l1"
        values["factor"] = values.get("rescale", False)
        self.problems += [f"{fault} (model {model})" for fault in value_faults(self._method, values)]
        return values

    def _look_up(self, levels: Sequence[Level], parameter: Any, tensor: str, of: str) -> Any:
        raw = look_up(levels, parameter.name, tensor, self._depth.of(tensor))
        if raw is not None:
            return parameter.read(raw)
        if parameter.default is REQUIRED:
            self.problems.append(f"parameter {parameter.name}{of} is missing, for {tensor}")
            return parameter.read(1)
        return parameter.default

    def _weights_fit(self, tensor: str, terms: Sequence[ModelTerm], shared: Mapping[str, Any]) -> bool:
        weights = [term.values.get("weight", 1.0) for term in terms]
        if not shared.get("normalize") or self._method.elect or None in weights or math.fsum(weights) != 0:
            return True
        self.problems.append(
            f"weights must not add up to 0 where normalize is true, got {weights} for {tensor}"
        )
        return False
