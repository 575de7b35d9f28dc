"""State dicts merged in memory."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import torch

from pydelta.calibration import Calibration
from pydelta.checkpoint import TensorInfo
from pydelta.checkpoint.elements.bits import bits
from pydelta.checkpoint.quantised.kinds import may_count
from pydelta.checkpoint.tensors import NAMES, TORCH
from pydelta.checkpoint.workspace import finite
from pydelta.merging.planning.items import Mismatches, TensorPlan
from pydelta.merging.planning.kept import kept_tensors
from pydelta.merging.planning.plan import plan
from pydelta.merging.recipes.recipe import Recipe
from pydelta.merging.running.masker import Masker, common_dtype
from pydelta.merging.running.model_cuts import model_cuts
from pydelta.merging.running.one_tensor import check_result, merge_whole
from pydelta.merging.running.tied import same_in_memory, without_copies

State = Mapping[str, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class _Memory:
    """A state dict as something that has a header."""

    path: str
    tensors: dict[str, TensorInfo]
    state: State


def merge_states(
    recipe: Recipe,
    base: State | None,
    models: Mapping[str, State],
    policy: Mismatches,
    seed: int,
    calibration: Calibration | None,
) -> dict[str, torch.Tensor]:
    """The merged state dict; see :func:`pydelta.merge`. What is not merged is copied from the base."""
    method = recipe.method
    assert method is not None
    states = {entry.name: models[entry.name] for entry in recipe.models}
    origin = base if base is not None and not method.prunes else next(iter(states.values()), {})
    headers = {name: _header(name, state) for name, state in states.items()}
    header = None if base is None else _header("base", base)
    whole_origin = _header("the base", origin)
    inputs = headers if header is None else {"base": header, **headers}
    kept, problems = kept_tensors(whole_origin, inputs, _same, _counts_up, prunes=method.prunes)
    items, faults = plan(recipe, method, whole_origin, header, headers, policy, kept)
    problems += faults
    if problems := [*recipe.problems, *problems]:
        raise ValueError(f"[{'prune' if method.prunes else 'merge'}] {'; '.join(problems)}")

    def load(model: str, item: TensorPlan) -> tuple[torch.Tensor, torch.Tensor]:
        assert base is not None
        sources = [base, *(states[term.model] for term in item.terms)]
        dtype = common_dtype([state[item.name].dtype for state in sources])
        return _piece(states[model], item).to(dtype), _piece(base, item).to(dtype)

    masker = Masker(method, calibration, model_cuts(method, items, load))
    same = same_in_memory(items, [*([] if base is None else [base]), *states.values()])
    results: dict[str, torch.Tensor] = {}
    for item in without_copies(items, same):
        whole = origin[item.name].detach().to(TORCH[item.info.dtype], copy=True)
        if item.terms:
            read = {} if base is None else {"base": base}
            read |= {f"model {term.model}": states[term.model] for term in item.terms}
            pieces = [_checked(name, state, item) for name, state in read.items()]
            dtype = common_dtype([x.dtype for x in pieces])
            pieces = [x.to(dtype) for x in pieces]
            start = None if base is None else pieces.pop(0)
            masks = [masker.mask(item, t, seed, functools.partial(load, t.model, item)) for t in item.terms]
            merged = merge_whole(method, item, start, pieces, masks, whole.dtype)
            check_result(item, merged)
            if tuple(whole.shape) == item.shape:
                whole = merged
            else:
                whole[: item.shape[0]] = merged
        results |= dict.fromkeys(same.get(item.name, (item.name,)), whole)
    return {name: results[name] for name in origin}


def _header(name: str, state: Any) -> _Memory:
    infos = {}
    if not isinstance(state, Mapping):
        raise TypeError(f"[merge] {name} must be a state dict like the others, got {type(state).__name__}")
    for tensor, x in state.items():
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"[merge] {tensor} of {name} must be a tensor, got {type(x).__name__}")
        if x.dtype not in NAMES or x.is_complex() or x.layout is not torch.strided:
            raise TypeError(f"[merge] {tensor} of {name} must be dense and real, got {x.dtype}, {x.layout}")
        infos[tensor] = TensorInfo(tensor, NAMES[x.dtype], tuple(x.shape))
    return _Memory(name, infos, state)


def _same(one: _Memory, other: _Memory, name: str) -> bool:
    a, b = one.state[name].detach(), other.state[name].detach()
    return a is b or (a.dtype == b.dtype and torch.equal(*(bits(x.contiguous()) for x in (a, b))))


def _counts_up(model: _Memory, name: str) -> bool:
    x = model.state[name].detach()
    count = x.numel()
    if count < 3 or count != max(x.shape) or not may_count(model.tensors[name].dtype):
        return False
    flat, steps = x.reshape(-1), torch.arange(count).to(device=x.device, dtype=x.dtype)
    return torch.equal(flat[:3], steps[:3]) and torch.equal(flat, steps)


def _piece(state: State, item: TensorPlan) -> torch.Tensor:
    x = state[item.name].detach()
    return x if tuple(x.shape) == item.shape else x[: item.shape[0]]


def _checked(name: str, state: State, item: TensorPlan) -> torch.Tensor:
    x = _piece(state, item)
    if not finite(x):
        raise ValueError(f"[merge] {name}: tensor {item.name!r} holds NaN or Inf")
    return x
