"""Which live tensor is which tensor of a store."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import NamedTuple

import torch

from pydelta.checkpoint.tensors import TORCH
from pydelta.superposition.format.rules import BASE, TIED, Rule
from pydelta.superposition.serving.names import Conversion, Live, Mapping5, nearest

_PLAIN = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)


class Bound(NamedTuple):
    """The live tensors of all that differs between models.

    Attributes:
        direct: tensor of the store -> a live tensor, or the part of one that it is.
        conversions: of tensors that are made into others.
    """

    direct: Live
    conversions: list[Conversion]


def bind(
    module: torch.nn.Module,
    rules: Mapping[str, Rule],
    prefix: str | None,
    rename: Mapping[str, str] | None = None,
) -> Bound:
    """Finds the module's tensors.

    Args:
        prefix: what stands before the store's names in the module; with a leading "-", what stands before the
            module's names in the store. None: found from the names.
        rename: text -> what stands in its place in the module; the first one in a name that has it.

    Raises:
        ValueError: the module lacks a tensor, or holds one of another shape or dtype, of a class that torch
            does not make, on several devices, or in places that overlap; one sentence names them all.
    """
    config = sys.modules.get("torch._inductor.config")
    if getattr(config, "freezing", False):
        raise ValueError(
            "[attach] torch._inductor.config.freezing must be off, for compiled code would keep the base, "
            "got True"
        )
    live = tensors_of(module)
    wanted = {
        _renamed(name, rename or {}): name for name, rule in rules.items() if rule.rule not in (BASE, TIED)
    }
    bound = _bound(module, list(wanted), wanted, live, rules, prefix)
    bound_names = {*bound.direct, *(name for c in bound.conversions for name in c.names)}
    missing = [name for name in wanted.values() if name not in bound_names]
    problems = [f"it lacks {name!r}" for name in missing]
    problems += [problem for name, x in bound.direct.items() for problem in _misfits(name, x, rules[name])]
    for conversion in bound.conversions:
        problems += [p for path, x in conversion.live.items() for p in _unfit(path, x)]
    whole = [*bound.direct.values(), *(x for c in bound.conversions for x in c.live.values())]
    devices = sorted({str(x.device) for x in whole})
    if len(devices) > 1:
        problems.append(f"its tensors lie on {', '.join(devices)}")
    problems += _ties(bound.direct)
    problems += _untied(bound.direct, rules, live)
    if problems:
        bound_live = {id(x) for x in whole}
        free = {path: x for path, x in live.items() if id(x) not in bound_live}
        hint = _hint(missing, rules, free)
        raise ValueError(f"[attach] the module must hold the store's tensors: {'; '.join(problems)}{hint}")
    return bound


def tensors_of(module: torch.nn.Module) -> Live:
    """Parameters and buffers under all of their names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _bound(
    module: torch.nn.Module,
    names: list[str],
    stored: Mapping[str, str],
    live: Live,
    rules: Mapping[str, Rule],
    prefix: str | None,
) -> Bound:
    """By a prefix alone where that meets every name, else as transformers loads them."""
    before = _prefix(names, live) if prefix is None else prefix
    paths = {name: _path(name, before) for name in names}
    direct = {stored[name]: live[path] for name, path in paths.items() if path in live}
    if len(direct) == len(names) or prefix is not None:
        return Bound(direct, [])
    own, conversions = Mapping5(module, live).resolve(names, stored, rules)
    met = len(own) + sum(len(c.names) for c in conversions)
    return Bound(own, conversions) if met > len(direct) else Bound(direct, [])


def _untied(direct: Live, rules: Mapping[str, Rule], live: Live) -> list[str]:
    """Tensors that are one in the store and two in the module, where the second would not be written."""
    problems = []
    for name, rule in rules.items():
        first = direct.get(rule.tied) if rule.tied else None
        for path in (path for path, x in live.items() if x is first):
            assert rule.tied is not None
            twin = live.get(path.removesuffix(rule.tied) + name)
            if rule.tied.endswith(path):
                twin = live.get(name.removeprefix(rule.tied.removesuffix(path)))
            if twin is not None and first is not None and twin.data_ptr() != first.data_ptr():
                problems.append(f"{name!r} and {rule.tied!r} are two tensors, in the store one: tie them")
    return problems


def _renamed(name: str, rename: Mapping[str, str]) -> str:
    for old, new in rename.items():
        if old in name:
            return name.replace(old, new, 1)
    return name


def _hint(missing: list[str], rules: Mapping[str, Rule], live: Live) -> str:
    """The nearest renaming, where one would meet most of what is missing.

    Args:
        live: what no tensor of the store is.
    """
    for name in missing:
        if (pair := nearest(name, rules[name].shape, live)) is None:
            continue
        old, new = pair
        met = sum(n.replace(old, new, 1) in live for n in missing if n.startswith(old))
        if 2 * met < len(missing):
            continue
        return f" (rename={{{old!r}: {new!r}}} would meet {met} of the {len(missing)} that it lacks)"
    return ""


def _path(name: str, prefix: str) -> str:
    if prefix.startswith("-"):
        return name[len(prefix) - 1 :] if name.startswith(prefix[1:]) else ""
    return prefix + name


def _prefix(wanted: list[str], live: Live) -> str:
    """The prefix under which most names meet; the shortest of those."""
    if not wanted:
        return ""
    parts = wanted[0].split(".")
    candidates = ["", *("-" + ".".join(parts[:i]) + "." for i in range(1, len(parts)))]
    candidates += [name.removesuffix(wanted[0]) for name in live if name.endswith("." + wanted[0])]
    return max(candidates, key=lambda prefix: sum(_path(name, prefix) in live for name in wanted))


def _misfits(name: str, x: torch.Tensor, rule: Rule) -> list[str]:
    if problems := _unfit(name, x):
        return problems
    if tuple(x.shape) != rule.shape:
        return [f"{name!r} has shape {list(x.shape)}, in the store {list(rule.shape)}"]
    if x.dtype != TORCH[rule.dtype]:
        return [f"{name!r} is {x.dtype}, in the store {TORCH[rule.dtype]}"]
    return []


def _unfit(name: str, x: torch.Tensor) -> list[str]:
    """A subclass may keep its values in another form, so that what is written to it changes nothing."""
    if type(x) not in _PLAIN or type(x.data) is not torch.Tensor:
        kind = type(x.data) if type(x) in _PLAIN else type(x)
        return [f"{name!r} is a {kind.__module__}.{kind.__qualname__}, no plain tensor"]
    if x.is_meta:
        return [f"{name!r} is on the device meta and is no dense tensor with values"]
    if x.layout is not torch.strided:
        return [f"{name!r} is no dense tensor with values"]
    return []


def _ties(direct: Live) -> list[str]:
    """Tensors that the store keeps apart and the module does not."""
    first: dict[tuple[object, ...], str] = {}
    problems = []
    for name, x in direct.items():
        if type(x.data) is not torch.Tensor or x.is_meta or not x.numel():
            continue
        storage = (x.device, x.data_ptr(), x.shape)
        if (other := first.setdefault(storage, name)) != name:
            problems.append(f"{other!r} and {name!r} are one tensor, in the store two")
    return problems
