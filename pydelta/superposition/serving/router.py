"""A forward whose rows belong to different models: by layers where that is proven, else once a model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch

from pydelta.superposition.serving.batch import Batch, Current
from pydelta.superposition.serving.plan import Plan, Unit, not_called_before, plan_of
from pydelta.superposition.serving.probe import Probe, storage_of
from pydelta.superposition.serving.rows import (
    Axes,
    Call,
    argument_axes,
    join,
    name_of,
    result_axes,
    rows_of,
    select,
    starred,
)
from pydelta.superposition.serving.trees import (
    Originals,
    UnlikeError,
    holds_tensor,
    is_state,
    states,
    tensors,
)
from pydelta.superposition.serving.weights import Weights

_PLANS = 512
"""How many kinds of calls are remembered."""


class Router:
    """Stands before the forward of every module that holds, itself or below, what differs between models.

    Args:
        layers: path -> a layer that can mix models; it has a forward of its own and asks :meth:`layer`.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        weights: Weights,
        layers: Mapping[str, torch.nn.Module],
        current: Current,
    ) -> None:
        self.weights, self.layers, self.current = weights, layers, current
        self.stored: dict[int, list[str]] = {}  # storage -> tensors of the store
        for name, x in weights.storages():
            self.stored.setdefault(storage_of(x), []).append(name)
        self.modules = {
            path: m for path, m in module.named_modules() if path not in layers and self._below(m)
        }
        self.below = {path: self._below(m) for path, m in self.modules.items()}
        self.holders, self.others = self._holders(module)
        self.everything = dict(module.named_modules())
        self.plans: dict[object, Plan] = {}
        self._prepare = torch._dynamo.disable(self._prepare)  # type: ignore[method-assign]
        self._run_apart = torch._dynamo.disable(self._once_a_model)
        self.state_axes: Axes = {}
        self._before = {path: m.__dict__.get("forward") for path, m in self.modules.items()}
        for path, m in self.modules.items():
            m.forward = self._wrapped(path, m.forward)

    def restore(self) -> None:
        for path, module in self.modules.items():
            if self._before[path] is None:
                del module.forward
            else:
                module.forward = self._before[path]

    def _below(self, module: torch.nn.Module) -> set[int]:
        own = [*module.parameters(), *module.buffers()]
        return {storage_of(x) for x in own} & self.stored.keys()

    def _holders(self, module: torch.nn.Module) -> tuple[dict[int, set[str]], list[str]]:
        holders: dict[int, set[str]] = {storage: set() for storage in self.stored}
        others = []
        for path, m in module.named_modules():
            own = {storage_of(x) for x in (*m._parameters.values(), *m._buffers.values()) if x is not None}
            for storage in own & self.stored.keys():
                holders[storage].add(path)
            if own & self.stored.keys() and path not in self.layers:
                others.append(path)
        return holders, others

    def _wrapped(self, path: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        # A compiler sees what the outermost module's forward does, and nothing of what is decided before.
        outermost = torch._dynamo.disable(self._outermost, recursive=False)
        once_a_model = torch._dynamo.disable(self._unit)

        @functools.wraps(forward)
        def call(*args: Any, **options: Any) -> Any:
            current = self.current
            if current.probe is not None:
                return current.probe.run(path, forward, args, options)
            if current.batch is None or not len(current.batch):
                return forward(*args, **options)
            if current.plan is None:
                return outermost(path, forward, (args, options))
            if path in current.plan.units:
                return once_a_model(current.plan.units[path], path, forward, (args, options))
            if path in self.others:
                raise not_called_before(path)
            return forward(*args, **options)

        return call

    def _outermost(self, path: str, forward: Callable[..., Any], call: Call) -> Any:
        """The call of a module that no other module of the batch made."""
        batch, plan, axes = self._prepare(path, forward, call)
        if plan is None:
            return forward(*call[0], **call[1])
        if plan.whole:
            return self._run_apart(self.weights.names, batch, forward, call, axes, plan)
        with self.current.set(batch, plan):
            result = forward(*call[0], **call[1])
            self._check_called(plan)
        return result

    def _prepare(self, path: str, forward: Callable[..., Any], call: Call) -> tuple[Batch, Plan | None, Axes]:
        batch, rows = self.current.batch, rows_of(call)
        assert batch is not None
        if rows is None:
            raise ValueError("[models] the batch must be a tensor with one row for each name, got no tensor")
        batch = batch.repeated(rows)
        if not rows:
            return batch, None, {}
        key = path, _signature(call)
        plan = self.plans.get(key)
        if plan is not None and not plan.whole:
            return batch, plan, {}
        axes = argument_axes(call, rows, self.state_axes)
        if plan is None:
            if len(self.plans) == _PLANS:
                self.plans.clear()
            self.plans[key] = self._proven(path, forward, call, axes, rows)
        return batch, self.plans[key], axes

    def _check_called(self, plan: Plan) -> None:
        if not torch.compiler.is_compiling() and (missed := plan.mixing - self.current.called):
            raise ValueError(
                f"[models] {min(missed)!r} must be called in every batch of this kind, got a forward that "
                "did not call it: use activate()"
            )

    def _proven(self, path: str, forward: Callable[..., Any], call: Call, axes: Axes, rows: int) -> Plan:
        """Runs the base on one row and on two, and sees what its layers are called with."""
        probes, results = [], []
        before = self._kept()
        for at in ([0], [0, rows - 1]):
            copies: Originals = {}
            args, options = select(call, axes, at, copies)
            probe = Probe(self.holders)
            with self.current.off(probe), torch.no_grad(), probe:
                result = probe.run(path, forward, args, options)
            probes.append(probe)
            results.append((states((args, options)), result))
        if (changed := self._changed(before, probes[0].written | probes[1].written)) is not None:
            raise ValueError(
                f"[models] {changed!r} must keep nothing from one call to the next, got a tensor that "
                "a forward left there: use activate()"
            )
        grown = result_axes(results[0], results[1])
        self._learn(results[0], grown)
        return plan_of(path, (probes[0], probes[1]), self.layers, self.others, grown)

    def _learn(self, result: Any, axes: dict[str, int | None]) -> None:
        """Where the rows of caches are, which only their growth tells."""
        by_id = {id(x): axes[path] for path, x in tensors(result)}
        self.state_axes |= {
            starred(name_of(path)): axis for path, axis in axes.items() if axis is not None and axis > 0
        }
        for state in states(result):
            for path, x in tensors(state):
                if (axis := by_id.get(id(x))) is not None:
                    self.state_axes[starred(path[1:])] = axis

    def _kept(self) -> dict[tuple[str, str], torch.Tensor]:
        """Every tensor that a module holds, whatever as."""
        return {
            (path, name): x
            for path, module in self.everything.items()
            for name, x in (*vars(module).items(), *module._buffers.items(), *module._parameters.items())
            if isinstance(x, torch.Tensor) and "inv_freq" not in name  # of the number of tokens alone
        }

    def _changed(self, before: dict[tuple[str, str], torch.Tensor], written: set[int]) -> str | None:
        """A module that holds other tensors than before, or wrote to one."""
        for (path, name), x in self._kept().items():
            if before.get((path, name)) is not x or storage_of(x) in written:
                return path
        return None

    def _unit(self, unit: Unit, path: str, forward: Callable[..., Any], call: Call) -> Any:
        batch = self.current.batch
        assert batch is not None
        axes: Axes = {}
        for leaf, x in tensors(call):
            if leaf not in unit.rows or (unit.rows[leaf] and x.shape[0] != len(batch)):
                raise ValueError(
                    f"[models] {path!r} must get rows of the batch ({len(batch)}) as in the batch before, "
                    f"got an argument of shape {tuple(x.shape)}: use activate()"
                )
            axes[leaf] = 0 if unit.rows[leaf] else -1
        storages = unit.storages | self.below[path]
        names = [name for storage in storages for name in self.stored[storage]]
        return self._once_a_model(names, batch, forward, call, axes)

    def _once_a_model(
        self,
        names: Any,
        batch: Batch,
        forward: Callable[..., Any],
        call: Call,
        axes: Axes,
        plan: Plan | None = None,
    ) -> Any:
        """Writes each model's tensors, and runs its rows; then the base's are there again."""
        copies: Originals = {}
        parts = []
        models = self.weights.sources.store.models
        try:
            for k, rows in batch.groups.items():
                self.weights.write(models[k], names)
                args, options = select(call, axes, rows, copies)
                with self.current.off():
                    result = forward(*args, **options)
                parts.append((states((args, options)), result))
                if plan is not None and plan.written:
                    _write_back(call, (args, options), axes, rows, plan.written)
        finally:
            self.weights.write_base(names)
        groups = list(batch.groups.values())
        grown: dict[str, int | None] = (
            plan.axes if plan is not None else {leaf: 0 for leaf, _ in tensors(parts[0])}
        )
        try:
            return join(parts, groups, grown, copies)[1]
        except UnlikeError as error:
            raise ValueError(
                f"[models] results must be alike for all models, got one in which {error}"
            ) from None


def _write_back(call: Call, own: Call, axes: Axes, rows: torch.Tensor, written: frozenset[str]) -> None:
    """What a forward wrote to its arguments, into those of the whole batch."""
    copies = dict(tensors(own))
    held = {id(x) for state in states(call) for _, x in tensors(state)}
    for path, x in tensors(call):
        if path in written and id(x) not in held and axes[path] >= 0:
            x.index_copy_(axes[path], rows.to(x.device), copies[path])


def _signature(call: Call) -> object:
    """Calls of one signature run the same layers: they are alike but for the numbers of rows and tokens."""

    def tensor(x: torch.Tensor) -> object:
        sizes = x.shape[1:]
        exact = (
            x.is_floating_point() and x.dim() > 3
        )  # images, whose size may not be the table's of positions
        return x.dtype, tuple(sizes) if exact else tuple(min(n, 2) for n in sizes), x.dim()

    def plain(path: str, x: Any) -> list[object]:
        if isinstance(x, torch.Tensor):
            return [(path, tensor(x))]
        if isinstance(x, dict):
            return [y for name, value in x.items() for y in plain(f"{path}.{name}", value)]
        if isinstance(x, (list, tuple)):
            return [y for i, value in enumerate(x) for y in plain(f"{path}.{i}", value)]
        if is_state(x):
            return [(path, (type(x), holds_tensor(x)))]
        return [(path, x if isinstance(x, (bool, int, float, str, type(None))) else type(x))]

    return tuple(plain("", call))
