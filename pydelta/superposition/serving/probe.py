"""What a forward does with a module's tensors: run on one row and on two, it shows what goes by rows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import arg_tree_leaves

from pydelta.superposition.serving.trees import states, tensors

_SAMPLE = 64
_CHOICES = {"nonzero", "masked_select", "unique", "_unique2", "bincount", "histc", "sort", "argsort"}
"""Torch's ops whose results' shapes or order depend on values: so experts are chosen for tokens."""
_CLOSE = 0.05
"""Of the largest element: what another number of rows may change, through other kernels' roundings."""


class Leaf(NamedTuple):
    """A tensor that a module took or gave: its shape, and some elements of its first row."""

    shape: tuple[int, ...]
    sample: torch.Tensor


class Event(NamedTuple):
    """One call of a module.

    Attributes:
        stack: the modules that were running, outermost first, without the one that was called.
        taken, made: path -> tensor, of the arguments and of the results.
        state: whether an argument was an object that may hold tensors, as caches do.
        written: paths of the arguments that the call wrote to.
    """

    stack: tuple[str, ...]
    taken: dict[str, Leaf]
    made: dict[str, Leaf]
    state: bool
    written: frozenset[str]


class Probe(TorchDispatchMode):
    """Records calls of modules, and every use that torch makes of the tensors that differ between models.

    Args:
        holders: storage of a tensor -> paths of the modules that hold it.

    Attributes:
        calls: path of a module -> its calls.
        touched: path of a module -> storages that were used while it ran.
        written: storages that were written to.
        choosing: paths of the modules that chose elements by their values.
        strays: (storage, modules that were running) where no holder of the storage was the innermost.
    """

    def __init__(self, holders: Mapping[int, set[str]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.holders = holders
        self.calls: dict[str, list[Event]] = {}
        self.touched: dict[str, set[int]] = {}
        self.choosing: set[str] = set()
        self.strays: set[tuple[int, tuple[str, ...]]] = set()
        self._stack: list[str] = []
        self.written: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for x in arg_tree_leaves(*args, **(kwargs or {})):
            if isinstance(x, torch.Tensor) and (storage := storage_of(x)) in self.holders:
                for path in self._stack:
                    self.touched.setdefault(path, set()).add(storage)
                if not self._stack or self._stack[-1] not in self.holders[storage]:
                    self.strays.add((storage, tuple(self._stack)))
        self.written |= _written(func, args, kwargs or {})
        if self._stack and _chooses(func, args):
            self.choosing.add(self._stack[-1])
        return func(*args, **(kwargs or {}))

    def run(
        self, path: str, forward: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        """One call of a module, recorded."""
        taken, stack = _leaves((args, options)), tuple(self._stack)
        arguments = {path: storage_of(x) for path, x in tensors((args, options))}
        before, self.written = self.written, set()
        self._stack.append(path)
        try:
            result = forward(*args, **options)
        finally:
            self._stack.pop()
            own, self.written = self.written, before | self.written
        written = frozenset(path for path, storage in arguments.items() if storage in own)
        event = Event(stack, taken, _leaves(result), bool(states((args, options))), written)
        self.calls.setdefault(path, []).append(event)
        return result


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> set[int]:
    """The storages that an op writes to."""
    if not func._schema.is_mutable:
        return set()
    named = {argument.name: x for argument, x in zip(func._schema.arguments, args, strict=False)} | kwargs
    writes = {a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write}
    return {
        storage_of(x) for x in arg_tree_leaves(*(named.get(n) for n in writes)) if isinstance(x, torch.Tensor)
    }


def _chooses(func: Any, args: tuple[Any, ...]) -> bool:
    name = func.overloadpacket.__name__
    if name == "index":
        return any(isinstance(x, torch.Tensor) and x.dtype == torch.bool for x in args[1])
    return name in _CHOICES


def storage_of(x: torch.Tensor) -> int:
    try:
        return int(x.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # no memory of its own
        return 0


def _leaves(tree: Any) -> dict[str, Leaf]:
    with _quietly():
        return {path: Leaf(tuple(x.shape), _sample(x)) for path, x in tensors(tree)}


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """What the probe itself computes is no use of a tensor."""
    with torch.utils._python_dispatch._disable_current_modes():
        yield


def _sample(x: torch.Tensor) -> torch.Tensor:
    row = x.detach()[:1].reshape(-1) if x.dim() else x.detach().reshape(-1)
    step = max(1, len(row) // _SAMPLE)
    sample = row[::step]
    return sample.to(torch.float64) if sample.is_floating_point() else sample.clone()


def same(one: Leaf, two: Leaf) -> bool:
    """Whether a tensor does not depend on the number of rows."""
    return one.shape == two.shape and _near(one.sample, two.sample)


def grows(one: Leaf, two: Leaf) -> bool:
    """Whether a tensor has a row for each of the batch's, the first one first."""
    return (
        len(one.shape) > 0
        and one.shape[0] == 1
        and two.shape == (2, *one.shape[1:])
        and _near(one.sample, two.sample)
    )


def _near(x: torch.Tensor, y: torch.Tensor) -> bool:
    if x.shape != y.shape:
        return False
    if not x.is_floating_point():
        return torch.equal(x, y)
    if not x.numel():
        return True
    finite = torch.isfinite(x)
    if not torch.equal(finite, torch.isfinite(y)):
        return False
    x, y = x[finite], y[finite]
    if not x.numel():
        return True
    return float((x - y).abs().max()) <= _CLOSE * float(x.abs().max())
