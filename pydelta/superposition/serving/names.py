"""The names of a checkpoint's tensors in a live module, as transformers renames and packs them on loading."""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pydelta.checkpoint.tensors import TORCH
from pydelta.superposition.format.rules import Rule

Live = dict[str, torch.Tensor]


class Conversion:
    """Tensors of a store that transformers makes into other tensors on loading.

    Attributes:
        names: of the store.
        live: path -> the module's tensors.
    """

    def __init__(
        self, converter: Any, patterns: Mapping[str, str], target: str, module: Any, rules: Mapping[str, Rule]
    ) -> None:
        self._converter, self._patterns, self._target, self._module = converter, patterns, target, module
        self.names = list(patterns)
        made = self._made({n: _like(rules[n], "meta") for n in self.names})
        self.shapes = {path: tuple(x.shape) for path, x in made.items()}
        self.live: Live = {}

    def write(self, tensors: Mapping[str, torch.Tensor]) -> None:
        for path, x in self._made(tensors).items():
            self.live[path].copy_(x)

    def _made(self, tensors: Mapping[str, torch.Tensor]) -> Live:
        converter = copy.deepcopy(self._converter)
        for name, pattern in self._patterns.items():
            converter.add_tensor(self._target, name, pattern, tensors[name])
        made = converter.convert(self._target, model=self._module, config=self._module.config)
        return {path: x[0] if isinstance(x, list) else x for path, x in made.items()}


class Mapping5:
    """What transformers 5 does to names on loading a checkpoint into a module; of other modules nothing."""

    def __init__(self, module: torch.nn.Module, live: Live) -> None:
        self.live, self.at, self.model = live, "", None
        self.renamings: list[Any] = []
        self.converters: list[Any] = []
        if "transformers" not in sys.modules:
            return
        try:
            from transformers import PreTrainedModel
            from transformers.conversion_mapping import get_model_conversion_mapping
            from transformers.core_model_loading import WeightConverter
        except ImportError:
            return
        models = ((path, m) for path, m in module.named_modules() if isinstance(m, PreTrainedModel))
        path, self.model = next(models, ("", None))
        if self.model is None:
            return
        self.at = f"{path}." if path else ""
        self.own = {n.removeprefix(self.at): x for n, x in live.items() if n.startswith(self.at)}
        for transform in get_model_conversion_mapping(self.model):
            converts = isinstance(transform, WeightConverter)
            (self.converters if converts else self.renamings).append(transform)

    def place(self, name: str) -> tuple[str, str | None]:
        """The path of a tensor, and the converter's pattern that it matched, if any."""
        if self.model is None:
            return name, None
        from transformers.core_model_loading import rename_source_key

        prefix = self.model.base_model_prefix
        path, pattern = rename_source_key(name, self.renamings, self.converters, prefix, self.own)
        return path, pattern

    def resolve(self, names: Sequence[str], stored: Mapping[str, str], rules: Mapping[str, Rule]) -> Any:
        """(tensor of the store -> live tensor, conversions) for the names that meet.

        Args:
            names: as a checkpoint has them.
            stored: the same -> as the store has them.
        """
        direct: Live = {}
        packed: dict[str, dict[str, str]] = {}
        for name in names:
            path, pattern = self.place(name)
            if pattern is not None:
                packed.setdefault(path, {})[name] = pattern
            elif self.at + path in self.live:
                direct[stored[name]] = self.live[self.at + path]
        conversions = []
        for path, patterns in packed.items():
            own = {stored[name]: pattern for name, pattern in sorted(patterns.items(), key=_natural)}
            converter = self._converter(list(own.values()))
            whole = self.live.get(self.at + path)
            if whole is not None and (views := _views(converter, whole, own, rules)) is not None:
                direct |= views
            elif (conversion := self._conversion(converter, own, path, rules)) is not None:
                conversions.append(conversion)
        return direct, conversions

    def _converter(self, patterns: list[str]) -> Any:
        return next(c for c in self.converters if set(patterns) <= set(c.source_patterns))

    def _conversion(
        self, converter: Any, own: dict[str, str], path: str, rules: Mapping[str, Rule]
    ) -> Conversion | None:
        try:
            conversion = Conversion(converter, own, path, self.model, rules)
        except Exception:  # transformers' operations stop in many ways: what they miss is told as lacking
            return None
        for name, shape in conversion.shapes.items():
            x = self.live.get(self.at + name)
            if x is None or tuple(x.shape) != shape:
                return None
            conversion.live[name] = x
        return conversion


def _views(
    converter: Any, whole: torch.Tensor, own: dict[str, str], rules: Mapping[str, Rule]
) -> Live | None:
    """Each tensor's part of the packed one, where packing is stacking and joining alone."""
    kinds = [(type(op).__name__, op) for op in converter.operations]
    names: dict[str, list[str]] = {}
    for name, pattern in own.items():
        names.setdefault(pattern, []).append(name)
    order = [p for p in converter.source_patterns if p in names]
    pieces = [whole]
    if kinds and kinds[-1][0] == "Concatenate" and len(order) > 1:
        dim = kinds.pop()[1].dim
        if whole.shape[dim] % len(order):
            return None
        pieces = list(whole.chunk(len(order), dim))
    if [kind for kind, _ in kinds] != ["MergeModulelist"] or len(pieces) != len(order):
        return None
    views: Live = {}
    for pattern, piece in zip(order, pieces, strict=True):
        parts = piece.unbind(kinds[0][1].dim)
        if len(parts) != len(names[pattern]):
            return None
        views |= dict(zip(names[pattern], parts, strict=True))
    fits = all(tuple(x.shape) == rules[name].shape for name, x in views.items())
    return views if fits else None


def nearest(name: str, shape: tuple[int, ...], live: Live) -> tuple[str, str] | None:
    """What of a name would have to be renamed for it to meet a tensor of the module, if any is near."""
    parts = name.split(".")
    for i in range(1, len(parts) - 1):
        tail = ".".join(parts[i:])
        for path, x in live.items():
            if path.endswith("." + tail) and tuple(x.shape) == shape:
                return ".".join(parts[:i]) + ".", path.removesuffix(tail)
    return None


def _like(rule: Rule, device: str) -> torch.Tensor:
    return torch.empty(rule.shape, dtype=TORCH[rule.dtype], device=device)


def _natural(item: tuple[str, str]) -> list[tuple[int, int, str]]:
    """Sorts by numbers as numbers: expert 10 after expert 9."""
    parts = re.split(r"(\d+)", item[0])
    return [(1, int(p), "") if p.isdigit() else (0, 0, p) for p in parts]
