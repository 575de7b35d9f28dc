"""Tensors inside of what a module takes and gives: in tuples, dictionaries, dataclasses, caches."""

from __future__ import annotations

import copy
import dataclasses
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

_OPAQUE = (torch.nn.Module, type, types.ModuleType, torch.Generator)
Originals = dict[int, Any]
"""id of an object that was copied for some rows -> the object of the whole batch."""


class UnlikeError(ValueError):
    """Trees that differ in what is no tensor: their results cannot be joined."""


def is_state(x: Any) -> bool:
    """Whether an object may hold tensors that a later call reads, as a cache does."""
    return hasattr(x, "__dict__") and not isinstance(x, _OPAQUE) and not callable(x) and not _is_record(x)


def tensors(x: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor with its path, in order."""
    leaves: list[tuple[str, torch.Tensor]] = []

    def leaf(path: str, x: torch.Tensor) -> torch.Tensor:
        leaves.append((path, x))
        return x

    mapped(leaf, x)
    return iter(leaves)


def states(x: Any) -> list[Any]:
    """The stateful objects in a tree, outermost first."""
    leaves: list[Any] = []
    _Walk(lambda path, leaf: leaf, visit=leaves.append).run(x)
    return leaves


def holds_tensor(x: Any) -> bool:
    """Whether a stateful object holds a tensor by now; the first one that is seen is enough."""
    values = [x]
    seen: set[int] = set()
    while values:
        value = values.pop()
        if isinstance(value, torch.Tensor):
            return True
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            values += value.values()
        elif isinstance(value, (list, tuple)):
            values += value
        elif is_state(value):
            values += vars(value).values()
    return False


def mapped(
    leaf: Callable[..., torch.Tensor],
    *trees: Any,
    originals: Originals | None = None,
    copies: Originals | None = None,
    items: Mapping[str, Sequence[int]] | None = None,
) -> Any:
    """A tree like the first one, its tensors replaced by ``leaf(path, *tensors)``.

    Args:
        trees: of one structure; what is no tensor is the same in all.
        originals: objects that are written to instead of copied; for results that are joined.
        copies: gets the original of each copied object.
        items: path of a list -> those of its items that are taken.

    Raises:
        UnlikeError: the trees differ.
    """
    return _Walk(leaf, originals=originals, copies=copies, items=items).run(*trees)


class _Walk:
    def __init__(
        self,
        leaf: Callable[..., torch.Tensor],
        *,
        originals: Originals | None = None,
        copies: Originals | None = None,
        items: Mapping[str, Sequence[int]] | None = None,
        visit: Callable[[Any], None] | None = None,
    ) -> None:
        self.leaf, self.originals, self.copies, self.visit = leaf, originals or {}, copies, visit
        self.taken = items or {}
        self.done: dict[int, Any] = {}
        self.alive: list[Any] = []  # an id stands for its object only as long as that lives

    def run(self, *trees: Any, path: str = "") -> Any:
        first = trees[0]
        if isinstance(first, torch.Tensor):
            if not all(isinstance(x, torch.Tensor) for x in trees):
                raise UnlikeError(f"{path[1:]} is a tensor for one model alone")
            return self.leaf(path, *trees)
        if any(type(x) is not type(first) for x in trees):
            raise UnlikeError(f"{path[1:]} has a type of its own for each model")
        if isinstance(first, (dict, list, tuple)):
            if any(len(x) != len(first) for x in trees):
                raise UnlikeError(f"{path[1:]} has a length of its own for each model")
            return self._items(trees, path)
        if _is_record(first) or is_state(first):
            return self._object(trees, path)
        if any(x is not first and not _equal(x, first) for x in trees):
            raise UnlikeError(f"{path[1:]} is {first!r} for one model and another for the next")
        return first

    def _items(self, trees: tuple[Any, ...], path: str) -> Any:
        first = trees[0]
        if isinstance(first, dict):
            made = copy.copy(first)
            for name in list(first):
                if any(name not in x for x in trees):
                    raise UnlikeError(f"{path[1:]} has keys of its own for each model")
                made[name] = self.run(*(x[name] for x in trees), path=f"{path}.{name}")
            return made
        if path in self.taken:
            trees = tuple([x[i] for i in self.taken[path]] for x in trees)
        items = [self.run(*parts, path=f"{path}.{i}") for i, parts in enumerate(zip(*trees, strict=True))]
        if hasattr(first, "_fields"):
            return type(first)(*items)
        return type(first)(items)

    def _object(self, trees: tuple[Any, ...], path: str) -> Any:
        first = trees[0]
        if id(first) in self.done:
            return self.done[id(first)]
        if self.visit is not None and is_state(first):
            self.visit(first)
        made = self.originals.get(id(first))
        if made is None:
            made = copy.copy(first)
        if self.copies is not None:
            self.copies[id(made)] = first
        self.done[id(first)] = made
        self.alive += [first, made]
        names = list(vars(first))
        if any(list(vars(x)) != names for x in trees):
            raise UnlikeError(f"{path[1:]} has attributes of its own for each model")
        for name in names:
            made.__dict__[name] = self.run(*(vars(x)[name] for x in trees), path=f"{path}.{name}")
        return made


def _is_record(x: Any) -> bool:
    return dataclasses.is_dataclass(x) and not isinstance(x, (type, dict))


def _equal(x: Any, y: Any) -> bool:
    try:
        return bool(x == y)
    except (TypeError, ValueError, RuntimeError):
        return False
