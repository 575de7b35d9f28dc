"""What the ops on lists of tensors share: checks, groups of one dtype, fixed-order totals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from pydelta.core import check
from pydelta.core.lists import halve

Tensors = Sequence[torch.Tensor]
MaybeTensors = Sequence["torch.Tensor | None"]


def tensors(op: str, name: str, values: object) -> list[torch.Tensor]:
    """Dense floating tensors of one device."""
    entries = list(check.sequence(op, name, values))
    # Lists may be long, so good ones are passed by a look at all of them at once.
    if not {type(x) for x in entries} <= _TENSORS or not _good(entries):
        for i, x in enumerate(entries):
            check.floating(op, f"{name}[{i}]", x)
            if x.device != entries[0].device:
                raise ValueError(
                    f"[{op}] {name} must be on one device, got {entries[0].device} and {x.device}"
                )
    return entries


_TENSORS = {torch.Tensor, torch.nn.Parameter}


def _good(xs: Tensors) -> bool:
    """Dense, floating, on one device."""
    one = len({x.device for x in xs}) <= 1 and {x.layout for x in xs} <= {torch.strided}
    return one and {x.dtype for x in xs} <= set(check.FLOATS)


def beside(op: str, name: str, values: object, of: str, params: Tensors, wide: bool = False) -> Tensors:
    """One tensor for each of ``params``, of its shape, device and dtype; ``wide``: of its compute dtype."""
    entries = tensors(op, name, values)
    _shapes(op, name, entries, of, params)
    kinds = {p.dtype for p in params}
    if wide:
        kinds = {check.compute_dtype(kind) for kind in kinds}
    if len(kinds) > 1 or {x.dtype for x in entries} != kinds:
        for i, (x, p) in enumerate(zip(entries, params, strict=True)):
            check.dtype_of(op, f"{name}[{i}]", x, check.compute_dtype(p.dtype) if wide else p.dtype)
    return entries


def sources_of(op: str, name: str, values: object, of: str, params: Tensors) -> Tensors:
    """What ``params`` or their weights are read from: of the parameter's dtype, or of its compute dtype."""
    entries = tensors(op, name, values)
    _shapes(op, name, entries, of, params)
    if len({x.dtype for x in (*entries, *params)}) > 1:
        for i, (x, p) in enumerate(zip(entries, params, strict=True)):
            if x.dtype is not p.dtype:
                check.dtype_of(op, f"{name}[{i}]", x, check.compute_dtype(p.dtype))
    return entries


def maybe_beside(op: str, name: str, values: object, of: str, params: Tensors) -> MaybeTensors:
    """None, or a tensor of any floating dtype, for each of ``params``; float64 goes with float64."""
    entries = list(check.sequence(op, name, values))
    _same_number(op, name, entries, of, params)
    absent = any(x is None for x in entries)
    xs = [x for x in entries if x is not None] if absent else entries
    ps = [p for x, p in zip(entries, params, strict=True) if x is not None] if absent else params
    if not ({type(x) for x in xs} <= _TENSORS and _good(xs) and _alike(xs, ps) and _one_precision(xs, ps)):
        for i, (x, p) in enumerate(zip(entries, params, strict=True)):
            if x is not None:
                check.floating(op, f"{name}[{i}]", x)
                check.alike(op, f"{name}[{i}]", x, f"{of}[{i}]", p)
                _same_precision(op, f"{name}[{i}]", x, f"{of}[{i}]", p)
    return entries


def _one_precision(xs: Tensors, ps: Tensors) -> bool:
    return len({check.compute_dtype(dtype) for dtype in {y.dtype for y in (*xs, *ps)}}) <= 1


def _same_precision(op: str, name: str, x: torch.Tensor, of: str, p: torch.Tensor) -> None:
    if check.compute_dtype(x.dtype) is not check.compute_dtype(p.dtype):
        rule = f"{name} must be float64 exactly when {of} is ({check.name_of(p.dtype)})"
        raise ValueError(f"[{op}] {rule}, got {check.name_of(x.dtype)}")


def _same_number(op: str, name: str, entries: Sequence[object], of: str, params: Tensors) -> None:
    if len(entries) != len(params):
        raise ValueError(
            f"[{op}] {name} must have as many entries as {of} ({len(params)}), got {len(entries)}"
        )


def _shapes(op: str, name: str, entries: Tensors, of: str, params: Tensors) -> None:
    """As many, of the same shapes, on the same device."""
    _same_number(op, name, entries, of, params)
    if not _alike(entries, params):
        for i, (x, p) in enumerate(zip(entries, params, strict=True)):
            check.alike(op, f"{name}[{i}]", x, f"{of}[{i}]", p)


def _alike(xs: Tensors, ps: Tensors) -> bool:
    """Of the same shapes, on the same device. Both are on one."""
    # No lists of shapes: so many tuples at once would wake the garbage collector.
    return device_of(xs) == device_of(ps) and all(x.shape == p.shape for x, p in zip(xs, ps, strict=True))


def scalar(op: str, name: str, x: object, device: torch.device) -> torch.Tensor:
    """A 0-D float64 tensor."""
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"[{op}] {name} must be a tensor, got {type(x).__name__}")
    if x.shape != () or x.dtype is not torch.float64 or x.device != device:
        raise ValueError(
            f"[{op}] {name} must be a 0-D float64 tensor on {device}, "
            f"got {check.name_of(x.dtype)} of shape {tuple(x.shape)} on {x.device}"
        )
    return x


def at_least_zero(op: str, name: str, value: object) -> float:
    parsed = check.number(op, name, value)
    if parsed < 0:
        raise ValueError(f"[{op}] {name} must be at least 0, got {value}")
    return parsed


def device_of(params: Tensors) -> torch.device:
    return params[0].device if params else torch.device("cpu")


def total(sums: torch.Tensor) -> torch.Tensor:
    """The 0-D sum of a list's sums, in a fixed order: the same bits on every device."""
    return halve(sums)


def groups(*lists: MaybeTensors) -> Iterator[tuple[list[int], list[MaybeTensors]]]:
    """Tensors that agree in the dtypes of all their lists, with their places; an empty list stays empty."""
    if all(len({x if x is None else x.dtype for x in values}) <= 1 for values in lists):
        yield list(range(len(lists[0]))), list(lists)
        return
    present = [values for values in lists if values]
    members: dict[object, list[int]] = {}
    for i, row in enumerate(zip(*present, strict=True)):
        members.setdefault(tuple(x if x is None else x.dtype for x in row), []).append(i)
    for places in members.values():
        yield places, [[values[i] for i in places] if values else values for values in lists]


def put(sums: torch.Tensor, places: list[int], group_sums: torch.Tensor) -> None:
    """A group's sums into the list's, without an index that a device would have to be sent."""
    if group_sums is not sums:
        torch._foreach_copy_([sums[i] for i in places], list(group_sums.unbind()))


def dense(values: MaybeTensors) -> MaybeTensors:
    return [x if x is None or x.is_contiguous() else x.contiguous() for x in values]


@contextmanager
def written(*lists: Tensors) -> Iterator[list[Tensors]]:
    """Contiguous stand-ins for tensors that an op writes, which go back into those that are not."""
    stand_ins = [xs if all(x.is_contiguous() for x in xs) else [x.contiguous() for x in xs] for xs in lists]
    yield stand_ins
    for values, stands in zip(lists, stand_ins, strict=True):
        for x, stand in zip(values, stands, strict=True) if stands is not values else ():
            if x is not stand:
                x.copy_(stand)
        torch.autograd.graph.increment_version(values)
