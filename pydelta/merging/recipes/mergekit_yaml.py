"""Recipes read from mergekit's YAML. What is not understood is refused by name. No torch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydelta.checkpoint.folders.locate import name_of
from pydelta.merging.method import Method
from pydelta.merging.methods import METHODS
from pydelta.merging.recipes.parameters import Level
from pydelta.merging.recipes.recipe import DTYPES, REFUSED, Entry, Recipe, entry_of, faults_of
from pydelta.merging.registry import near

_TOP = (
    "merge_method",
    "base_model",
    "models",
    "slices",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
)
_MODEL: tuple[str, ...] = ("model", "parameters", "name")
_SOURCE = ("model", "parameters", "name", "layer_range")


def read_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Reads a recipe; what is wrong with it stands in ``problems``.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not sound YAML.
    """
    import yaml

    text = Path(path).read_text(encoding="utf-8")
    try:
        content = yaml.load(text, _loader())
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path}: not sound YAML ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a recipe must be a mapping, got {type(content).__name__}")
    return parse(content, text)


def parse(content: Mapping[str, Any], text: str = "") -> Recipe:
    """A recipe from parsed YAML."""
    problems = list(_unknown("the recipe", content, _TOP))
    name = content.get("merge_method")
    if name is None:
        problems.append("merge_method is missing")
    elif name not in METHODS.names:
        known = ", ".join(METHODS.names)
        problems.append(f"merge_method must be one of {known}, got {name!r}{near(name, METHODS.names)}")
    method = METHODS.get(name) if name in METHODS.names else None
    models, levels, wrong = _models(content)
    problems += wrong
    levels += _level("the recipe", content, problems)
    base_path = content.get("base_model")
    base = None if base_path is None else _entry("base_model", {"model": base_path}, problems)
    models, base = _with_base(method, models, base, problems)
    source = content.get("tokenizer_source", "base")
    if source != "base":
        problems.append(f"tokenizer_source must be base, got {source!r}")
    dtype = content.get("out_dtype") or content.get("dtype")
    for key in ("dtype", "out_dtype"):
        value = content.get(key)
        if value is not None and value not in tuple(DTYPES):
            known = ", ".join(DTYPES)
            problems.append(f"{key} must be one of {known}, got {value!r}{near(value, list(DTYPES))}")
    faults = list(faults_of(method, models, levels)) if method is not None else []
    problems += faults
    problems += _bad_names(models)
    ordered = tuple(sorted(models, key=lambda entry: entry.name))
    return Recipe(
        method, base, ordered, tuple(levels), DTYPES.get(str(dtype)), text, tuple(problems), not faults
    )


def _models(content: Mapping[str, Any]) -> tuple[list[Entry], list[Level], list[str]]:
    """The models of ``models`` or of one slice over whole models, and the slice's settings."""
    problems: list[str] = []
    if ("models" in content) == ("slices" in content):
        return [], [], ["a recipe must have either models or slices"]
    if "models" in content:
        entries, known, shared = content["models"], _MODEL, []
    else:
        slices = content["slices"]
        if not isinstance(slices, list) or len(slices) != 1 or not isinstance(slices[0], dict):
            return [], [], ["slices must be one slice over whole models: layers cannot be restacked"]
        problems += _unknown("the slice", slices[0], ("sources", "parameters"))
        entries, known = slices[0].get("sources"), _SOURCE
        shared = _level("the slice", slices[0], problems)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return [], shared, [*problems, "models must be a list of mappings with the key model"]
    made_entries = []
    for i, entry in enumerate(entries):
        problems += _unknown(f"models[{i}]", entry, known)
        made = _entry(f"models[{i}].model", entry, problems)
        if made is not None:
            made_entries.append(made)
    return made_entries, shared, problems


def _entry(where: str, entry: Mapping[str, Any], problems: list[str]) -> Entry | None:
    path = entry.get("model")
    if isinstance(path, dict) and set(path) == {"model"}:
        path = path["model"]
    if isinstance(path, dict) and set(path) == {"path"}:
        path = path["path"]
    if not isinstance(path, str) or not path:
        problems.append(f"{where} must be a path, got {path!r}")
        return None
    whole = entry.get("layer_range")
    if whole is not None and not _is_range(whole):
        problems.append(f"{where}: layer_range must be [0, number of layers], got {whole!r}")
    name = entry.get("name", name_of(path))
    made = entry_of(name, path, {}, problems)
    layers = whole[1] if whole is not None and _is_range(whole) else None
    return dataclasses.replace(made, levels=tuple(_level(where, entry, problems)), layers=layers)


def _is_range(value: Any) -> bool:
    return (
        isinstance(value, list) and len(value) == 2 and all(type(x) is int for x in value) and value[0] == 0
    )


def _with_base(
    method: Method | None, models: list[Entry], base: Entry | None, problems: list[str]
) -> tuple[list[Entry], Entry | None]:
    """A base that is listed has no delta; for a plain mean it is one more model."""
    if method is None:
        return models, base
    if method.needs_base and base is None:
        problems.append(f"base_model is missing: {method.name} merges deltas from a base")
    if base is None:
        return models, None
    listed = [entry for entry in models if os.path.realpath(entry.path) == os.path.realpath(base.path)]
    if not method.needs_base:
        return models if listed else [*models, base], base
    return [entry for entry in models if entry not in listed], base


def _level(where: str, holder: Mapping[str, Any], problems: list[str]) -> list[Level]:
    level = holder.get("parameters")
    if level is None:
        return []
    if not isinstance(level, dict):
        problems.append(f"the parameters of {where} must be a mapping, got {level!r}")
        return []
    return [level]


def _bad_names(models: Sequence[Entry]) -> Iterator[str]:
    if not models:
        yield "a recipe must have at least one model"
    seen: dict[str, str] = {}
    for entry in models:
        if entry.name in seen:
            both = f"{seen[entry.name]} and {entry.path}"
            yield f"two models are named {entry.name!r}: {both}; give each a name"
        seen[entry.name] = entry.path


def _unknown(where: str, holder: Mapping[str, Any], known: tuple[str, ...]) -> Iterator[str]:
    for key in holder:
        if key not in known:
            reason = f": {REFUSED[key]}" if key in REFUSED else near(key, known)
            yield f"key {key} of {where} is not supported; supported are {', '.join(known)}{reason}"


def _loader() -> Any:
    """Safe YAML in which no mapping names a key twice."""
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if twice := {key for key in keys if keys.count(key) > 1 and key != "<<"}:
                line = node.start_mark.line + 1
                raise yaml.YAMLError(f"{twice.pop()} stands twice in the mapping of line {line}")
            mapping: dict[Any, Any] = super().construct_mapping(node, deep)
            return mapping

    return Loader
