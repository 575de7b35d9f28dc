"""Settings of recipes: numbers, gradients over the layers, choices by tensor name. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydelta.checkpoint.tensor_names import layer_of
from pydelta.merging.method import Parameter

Setting = Any
"""A number, flag or word; a list of numbers, spread over the layers; or a list of mappings with ``value``
and ``filter``, a part of the tensor's name. The first mapping whose filter fits counts."""

Level = Mapping[str, Setting]

_MISSING = object()


class Depth:
    """How deep each layer lies in its stack: 0 for the first, 1 for the last. What is in no layer has 0.

    Args:
        names: of all tensors.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._last: dict[str, int] = {}
        for name in names:
            layer = layer_of(name)
            if layer is not None:
                self._last[_stack(name)] = max(layer, self._last.get(_stack(name), 0))

    def of(self, name: str) -> float:
        layer = layer_of(name)
        if layer is None:
            return 0.0
        last = self._last[_stack(name)]
        return layer / last if last else 1.0


def look_up(levels: Sequence[Level], parameter: str, tensor: str, depth: float) -> Any:
    """The value that the first level gives for a tensor, or None."""
    for level in levels:
        if parameter in level:
            value = _evaluate(level[parameter], tensor, depth)
            if value is not _MISSING:
                return value
    return None


def setting_faults(parameter: Parameter, setting: Setting) -> Iterator[str]:
    """What is wrong with a setting: its form, or a value in it."""
    values = [setting]
    if isinstance(setting, list):
        choices = [entry for entry in setting if isinstance(entry, Mapping)]
        values = choices or [setting]
        if choices and len(choices) < len(setting):
            yield f"must hold values alone or mappings alone, got {setting!r}"
        for choice in choices:
            if "value" not in choice or choice.keys() - {"filter", "value"}:
                yield f"must have the keys filter and value alone, got {choice!r}"
            if not isinstance(choice.get("filter", ""), str):
                yield f"must have filters that are text, got {choice['filter']!r}"
        values = [choice["value"] for choice in choices if "value" in choice] or values
    for value in values:
        for leaf in value if isinstance(value, list) and value else [value]:
            if parameter.read(leaf) is None:
                yield f"must {parameter.rule}, got {leaf!r}"


def _evaluate(setting: Setting, tensor: str, depth: float) -> Any:
    if not isinstance(setting, list):
        return setting
    if isinstance(setting[0], Mapping):
        for choice in setting:
            part = choice.get("filter", "*")
            if part == "*" or part in tensor:
                return _evaluate(choice["value"], tensor, depth)
        return _MISSING
    position = depth * (len(setting) - 1)
    low = min(int(position), len(setting) - 1)
    high = min(low + 1, len(setting) - 1)
    return (1 - (position - low)) * float(setting[low]) + (position - low) * float(setting[high])


def _stack(name: str) -> str:
    """The name up to the layer number."""
    layer = f".{layer_of(name)}."
    return f".{name}.".partition(layer)[0]
