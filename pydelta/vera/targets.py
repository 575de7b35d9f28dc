"""Which parts of a module are meant: layers to adapt, heads to train, weights that several layers share."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from pydelta.core.module_names import plain_name
from pydelta.vera.layer import VeraLinear, is_conv1d

ALL = "all-linear"
OUTPUTS = ("lm_head", "embed_out")
_CLASSIFIES = re.compile(r"For\w*(Classification|QuestionAnswering|MultipleChoice|Regression|CTC)")


def parts_of(module: nn.Module) -> dict[str, nn.Module]:
    """Path without wrappers' names -> part; one that stands at several paths is found at each.

    The insides of adapted layers are left out, and what torch.compile wraps alone, whose compiled call would
    never see another layer in its place.
    """
    inside = {id(part.base) for part in module.modules() if isinstance(part, VeraLinear)}
    parts: dict[str, nn.Module] = {}
    for path, part in module.named_modules(remove_duplicate=False):
        if id(part) not in inside and not path.endswith("_orig_mod"):
            parts.setdefault(plain_name(path), part)
    return parts


def replace(module: nn.Module, new: Mapping[nn.Module, nn.Module]) -> None:
    """Puts parts in other parts' places, everywhere in a module."""
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and child in new:
                setattr(parent, name, new[child])


def matching(module: nn.Module, targets: Sequence[str], trained: Sequence[str] = ()) -> list[str]:
    """The paths of the layers that targets name; "all-linear" leaves heads and trained parts alone."""
    linear: dict[str, nn.Module] = {}
    for path, part in parts_of(module).items():
        if path and _is_layer(part) and part not in linear.values():
            linear[path] = part
    matched: set[str] = set()
    heads = heads_of(module) if ALL in targets else set()
    for target in targets:
        if target == ALL:
            hits = [path for path in linear if not is_within(path, [*heads, *trained])]
        else:
            hits = [path for path in linear if matches(path, target)]
        hits = hits or _aliased(module, linear, target)
        if not hits:
            ends = sorted({path.rsplit(".", 1)[-1] for path in linear})
            near = difflib.get_close_matches(target, ends, 5, 0.4) or ends[:8]
            raise ValueError(
                f"[vera.attach] targets must match a linear layer, got {target!r}; near: {', '.join(near)}"
            )
        matched.update(hits)
    return [path for path in linear if path in matched]


def _aliased(module: nn.Module, linear: Mapping[str, nn.Module], target: str) -> list[str]:
    """Layers that a target names by another of their paths."""
    named = [part for path, part in parts_of(module).items() if path and matches(path, target)]
    return [path for path, part in linear.items() if any(part is other for other in named)]


def modules_named(module: nn.Module, names: Sequence[str]) -> list[str]:
    """The paths of the parts that names stand for, without the parts of these parts.

    Raises:
        ValueError: a name matches no part that has parameters.
    """
    parts = {
        path: part for path, part in parts_of(module).items() if path and any(True for _ in part.parameters())
    }
    matched: set[str] = set()
    for name in names:
        hits = [path for path in parts if matches(path, name)]
        if not hits:
            ends = sorted({path.rsplit(".", 1)[-1] for path in parts})
            near = difflib.get_close_matches(name, ends, 5, 0.4) or ends[:8]
            raise ValueError(
                f"[vera.attach] train must match a part of the module, got {name!r}; near: {', '.join(near)}"
            )
        matched.update(hits)
    return [path for path in parts if path in matched and not is_within(path, matched - {path})]


def _has_parameters(part: nn.Module) -> bool:
    return any(True for _ in part.parameters())


def matches(path: str, target: str) -> bool:
    return path == target or path.endswith(f".{target}") or fnmatch.fnmatchcase(path, target)


def is_within(path: str, paths: Iterable[str]) -> bool:
    return any(path == other or path.startswith(f"{other}.") for other in paths)


def _is_layer(part: nn.Module) -> bool:
    """A layer that could be meant: linear, quantised ones too, or adapted already."""
    return isinstance(part, (nn.Linear, VeraLinear)) or is_conv1d(part) or hasattr(part, "in_features")


def heads_of(module: nn.Module) -> set[str]:
    """Paths that "all-linear" leaves alone: output layers over the vocabulary, and fresh heads."""
    parts = parts_of(module)
    heads = {path for path in parts if path.rsplit(".", 1)[-1] in OUTPUTS}
    outputs = [out for part in _owners(module, "get_output_embeddings") if (out := _output(part)) is not None]
    tied = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    for path, part in parts.items():
        weight = getattr(part, "weight", None)
        if any(part is out for out in outputs) or (_is_layer(part) and id(weight) in tied):
            heads.add(path)
    return heads | set(fresh_heads(module))


def _output(part: Any) -> Any:
    try:
        return part.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        return None


def _owners(module: nn.Module, name: str) -> list[Any]:
    return [part for part in module.modules() if callable(getattr(type(part), name, None))]


def fresh_heads(module: nn.Module) -> list[str]:
    """The parts beside the body of a transformers classifier, which no pre-training has seen."""
    heads = []
    for path, part in parts_of(module).items():
        prefix = getattr(part, "base_model_prefix", "")
        if not prefix or prefix not in part._modules or not _CLASSIFIES.search(type(part).__name__):
            continue
        for name, child in part.named_children():
            if name != prefix and _has_parameters(child):
                heads.append(f"{path}.{name}" if path else name)
    return heads


def sharers(module: nn.Module) -> dict[int, list[str]]:
    """id of a parameter -> the paths of all parts that hold it."""
    held: dict[int, list[str]] = {}
    for path, part in module.named_modules():
        for p in part._parameters.values():
            if p is not None:
                held.setdefault(id(p), []).append(plain_name(f"{path}.").removesuffix("."))
    return held


def untie(module: nn.Module, path: str, other: str) -> list[Any]:
    """Sets the configs of a module whose output layer has a weight of its own from now on.

    Returns:
        The configs that said otherwise.

    Raises:
        ValueError: a part of the module computes otherwise where nothing is tied.
    """
    for part in module.modules():
        if "tie_word_embeddings" in _names_in(type(part).forward):
            raise ValueError(
                f"[vera] {path!r} must have a weight of its own to be merged, got one tied to {other!r}, "
                f"and {type(part).__name__} computes otherwise without the tie"
            )
    configs: dict[int, Any] = {}
    for part in module.modules():
        config = getattr(part, "config", None)
        for one in (config, getattr(config, "get_text_config", lambda: None)()):
            if getattr(one, "tie_word_embeddings", False):
                configs[id(one)] = one
    for config in configs.values():
        config.tie_word_embeddings = False
    return list(configs.values())


def _names_in(function: Any) -> tuple[str, ...]:
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    code = getattr(function, "__code__", None)
    return code.co_names if code is not None else ()


def shared_weight(layer: nn.Module, held: Mapping[int, list[str]]) -> list[str]:
    """The paths of all parts that hold a layer's weight, if there are several."""
    weight = getattr(layer, "weight", None)
    paths = held.get(id(weight), []) if isinstance(weight, torch.Tensor) else []
    return paths if len(paths) > 1 else []
