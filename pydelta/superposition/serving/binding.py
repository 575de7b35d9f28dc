"""Which live tensors a store's tensors are."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pydelta.checkpoint.tensors import TORCH
from pydelta.superposition.format.rules import BASE, TIED, Rule

Live = dict[str, torch.Tensor]


def bind(module: torch.nn.Module, rules: Mapping[str, Rule], prefix: str | None) -> Live:
    """Tensor of the store -> the module's tensor, for all that differ between models.

    Args:
        prefix: what stands before the store's names in the module; with a leading "-", what stands before the
            module's names in the store. None: found from the names.

    Raises:
        ValueError: the module lacks a tensor, or holds one of another shape or dtype, on several devices, or
            in places that overlap; one sentence names them all.
    """
    live = tensors_of(module)
    wanted = [name for name, rule in rules.items() if rule.rule not in (BASE, TIED)]
    stem = _prefix(wanted, live) if prefix is None else prefix
    places = {name: _place(name, stem) for name in wanted}
    problems = [f"it lacks {name!r}" for name in wanted if places[name] not in live]
    found = {name: live[place] for name, place in places.items() if place in live}
    problems += [problem for name, x in found.items() for problem in _misfits(name, x, rules[name])]
    devices = sorted({str(x.device) for x in found.values()})
    if len(devices) > 1:
        problems.append(f"its tensors lie on {', '.join(devices)}")
    problems += _ties(found)
    for name, rule in rules.items():
        twin = live.get(_place(name, stem)) if rule.tied else None
        if twin is not None and rule.tied in found and twin.data_ptr() != found[rule.tied].data_ptr():
            problems.append(f"{name!r} and {rule.tied!r} are two tensors, in the store one: tie them")
    if problems:
        raise ValueError(f"[attach] the module must hold the store's tensors: {'; '.join(problems)}")
    return found


def tensors_of(module: torch.nn.Module) -> Live:
    """Parameters and buffers under all of their names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _place(name: str, prefix: str) -> str:
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
    return max(candidates, key=lambda prefix: sum(_place(name, prefix) in live for name in wanted))


def _misfits(name: str, x: torch.Tensor, rule: Rule) -> list[str]:
    if tuple(x.shape) != rule.shape:
        return [f"{name!r} has shape {list(x.shape)}, in the store {list(rule.shape)}"]
    if x.dtype != TORCH[rule.dtype]:
        return [f"{name!r} is {x.dtype}, in the store {TORCH[rule.dtype]}"]
    if x.layout is not torch.strided or x.is_meta:
        return [f"{name!r} is no dense tensor with values"]
    return []


def _ties(found: Live) -> list[str]:
    """Tensors that the store keeps apart and the module does not."""
    first: dict[tuple[object, int], str] = {}
    problems = []
    for name, x in found.items():
        if x.numel() and (other := first.setdefault((x.device, x.data_ptr()), name)) != name:
            problems.append(f"{other!r} and {name!r} are one tensor, in the store two")
    return problems
