"""A recipe: what is merged, and how. No torch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydelta.checkpoint.folders.locate import not_found, resolve
from pydelta.merging.method import Method
from pydelta.merging.recipes.parameters import Level, setting_faults
from pydelta.merging.registry import near

DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "float64": "F64"}
"""Output dtypes by the names that recipes use."""

REFUSED = {
    "int8_mask": "masks are never stored",
    "tokenizer": "write tokenizer_source: base",
    "chat_template": "the base's is copied",
    "modules": "a recipe is of one model",
    "merge_method": "one method a recipe",
}
"""Keys of mergekit's that are refused, and why."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One model.

    Attributes:
        levels: its own settings, which go before the recipe's.
        layers: how many the recipe says it has.
    """

    name: str
    path: str
    levels: tuple[Level, ...] = ()
    layers: int | None = None


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is to be merged, and how.

    Attributes:
        method: None if the recipe names none that is known.
        base: None where the models themselves are averaged.
        models: in the order of their names, which is the order of all sums.
        levels: settings for all models.
        dtype: of the result, by its safetensors name; None is each tensor's own.
        text: as it was written.
        problems: what is wrong with it.
        sound: whether the settings are such that they can be looked up.
    """

    method: Method | None
    base: Entry | None
    models: tuple[Entry, ...]
    levels: tuple[Level, ...] = ()
    dtype: str | None = None
    text: str = ""
    problems: tuple[str, ...] = ()
    sound: bool = True

    @property
    def title(self) -> str:
        """In words, for the model card."""
        name = self.method.name if self.method else ""
        return f"A delta pruned by {name}" if self.prunes else f"A merge by {name}"

    @property
    def prunes(self) -> bool:
        """Whether it is for one delta alone."""
        return self.method is not None and self.method.prunes


def entry_of(name: Any, where: Any, level: Level, problems: list[str]) -> Entry:
    """One model: a path that is looked for, or a state dict, which has none."""
    if not isinstance(name, str) or not name or "\0" in name or not name.isprintable():
        problems.append(f"a model's name must be printable text, got {name!r}")
    path = "" if isinstance(where, Mapping) else os.fspath(resolve(where))
    if path and not os.path.exists(path):
        hint = "; adapters (path+adapter) are not supported" if "+" in path else ""
        problems.append(f"{not_found(path)}{hint}")
    return Entry(str(name), path, (level,) if level else ())


def faults_of(method: Method, models: Sequence[Entry], levels: Sequence[Level]) -> Iterator[str]:
    """What is wrong with settings, whatever tensors they are for."""
    for level in levels:
        yield from _bad_level(method, "", level)
    for entry in models:
        for level in entry.levels:
            yield from _bad_level(method, f" of {entry.name}", level)


def _bad_level(method: Method, of: str, level: Level) -> Iterator[str]:
    for name, setting in level.items():
        parameter = method.parameter(name)
        if parameter is None:
            known = [p.name for p in method.parameters if p.per_model or not of]
            reason = f": {REFUSED[name]}" if name in REFUSED else near(name, known)
            has = ", ".join(known)
            yield f"parameter {name}{of} is not supported by {method.name}, which has {has}{reason}"
        elif of and not parameter.per_model:
            yield f"parameter {name}{of} is one of the whole recipe: write it under its parameters"
        else:
            yield from (f"parameter {name}{of} {fault}" for fault in setting_faults(parameter, setting))


def make_recipe(
    method: Method, base: Any, models: Mapping[str, Any], dials: Mapping[str, Any], dtype: str | None
) -> Recipe:
    """A recipe from arguments: dials that are None are the method's defaults."""
    shared: dict[str, Any] = {}
    own: dict[str, dict[str, Any]] = {name: {} for name in models}
    for dial, value in dials.items():
        if isinstance(value, (Mapping, list, tuple)):
            for name, one in _each(dial, value, list(models)).items():
                own[name][dial] = one
        elif value is not None:
            shared[dial] = value
    problems: list[str] = []
    entries = [entry_of(name, path, own[name], problems) for name, path in models.items()]
    origin = None if base is None else entry_of("base", base, {}, problems)
    faults = list(faults_of(method, entries, [shared]))
    ordered = tuple(sorted(entries, key=lambda entry: entry.name))
    text = _text(method, origin, ordered, shared, dtype)
    wrong = tuple(dict.fromkeys([*problems, *faults]))
    return Recipe(method, origin, ordered, (shared,), DTYPES.get(str(dtype)), text, wrong, not faults)


def _text(
    method: Method, base: Entry | None, models: Sequence[Entry], shared: Mapping[str, Any], dtype: str | None
) -> str:
    """The same as YAML, for the model card."""
    import yaml

    content: dict[str, Any] = {"merge_method": method.name}
    content |= {"base_model": base.path} if base else {}
    content["models"] = [
        {"model": entry.path, "name": entry.name}
        | ({"parameters": dict(entry.levels[0])} if entry.levels else {})
        for entry in models
    ]
    content["parameters"] = dict(shared)
    content |= {"dtype": dtype} if dtype else {}
    return str(yaml.safe_dump(content, sort_keys=False))


def _each(dial: str, value: Any, names: Sequence[str]) -> dict[str, Any]:
    """model -> value."""
    if isinstance(value, Mapping):
        if value.keys() != set(names):
            got = ", ".join(map(str, value))
            raise ValueError(f"[merge] {dial} must have one entry per model ({', '.join(names)}), got {got}")
        return dict(value)
    if len(value) != len(names):
        raise ValueError(f"[merge] {dial} must have one entry per model ({len(names)}), got {len(value)}")
    return dict(zip(names, value, strict=True))
