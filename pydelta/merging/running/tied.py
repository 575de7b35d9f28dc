"""Tied weights: one tensor under several names."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch

from pydelta.checkpoint import Checkpoint
from pydelta.checkpoint.tensors import TORCH, buffer
from pydelta.merging.planning.items import TensorPlan

_HEAD = 512  # elements that tell most tensors apart

Mark = Callable[[str], object]
Equal = Callable[[str, str], bool]


def same_in_files(items: Sequence[TensorPlan], models: Sequence[Checkpoint]) -> dict[str, tuple[str, ...]]:
    """Matrices that have the same bytes in every checkpoint: the first name -> all names.

    An output layer that is tied to an embedding lies in a file twice, or once.
    """

    def mark(name: str) -> bytes:
        model = next(model for model in models if name in model.tensors)
        info = model.tensors[name]
        head = torch.empty(min(_HEAD, math.prod(info.shape)), dtype=TORCH[info.dtype])
        return bytes(buffer(model.read(name, head)))

    return _same(items, mark, lambda a, b: all(_equal(model, a, b) for model in models))


def same_in_memory(
    items: Sequence[TensorPlan], models: Sequence[Mapping[str, torch.Tensor]]
) -> dict[str, tuple[str, ...]]:
    """Matrices that share their memory in every state dict: the first name -> all names."""

    def mark(name: str) -> int:
        return next(model[name] for model in models if name in model).data_ptr()

    return _same(items, mark, lambda a, b: all(_shared(model.get(a), model.get(b)) for model in models))


def without_copies(items: Sequence[TensorPlan], same: Mapping[str, Sequence[str]]) -> list[TensorPlan]:
    """The items that are merged, one for each group of tied names."""
    copies = {name for names in same.values() for name in names[1:]}
    return [item for item in items if item.name not in copies]


def _same(items: Sequence[TensorPlan], mark: Mark, equal: Equal) -> dict[str, tuple[str, ...]]:
    groups: dict[object, list[str]] = {}
    for item in items:
        if item.terms and len(item.shape) > 1:
            models = tuple(term.model for term in item.terms)
            groups.setdefault((item.info.dtype, item.shape, models, mark(item.name)), []).append(item.name)
    tied: dict[str, tuple[str, ...]] = {}
    for names in groups.values():
        first, *others = sorted(names)
        copies = [name for name in others if equal(first, name)]
        if copies:
            tied[first] = (first, *copies)
    return tied


def _equal(model: Checkpoint, a: str, b: str) -> bool:
    if a not in model.tensors or b not in model.tensors or model.dtype(a) != model.dtype(b):
        return False
    return buffer(model.tensor(a)) == buffer(model.tensor(b))


def _shared(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    if a is None or b is None:
        return False
    alike = a.dtype == b.dtype and a.shape == b.shape and a.stride() == b.stride()
    return alike and a.data_ptr() == b.data_ptr() and a.device == b.device
