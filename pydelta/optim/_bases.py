"""Which base tensor belongs to which parameter."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from pydelta.core import check
from pydelta.core.module_names import plain_name
from pydelta.optim._sharded import local

Bases = Mapping[str, torch.Tensor] | Sequence["torch.Tensor | None"]


def match(
    op: str, groups: Sequence[dict[str, Any]], base: Bases, beside: Iterable[torch.Tensor] = ()
) -> tuple[dict[torch.Tensor, torch.Tensor], tuple[str, ...]]:
    """Parameter -> its base tensor, and the names of these; parameters without one are left out.

    Args:
        groups: an optimizer's parameter groups.
        base: by name, for an optimizer that was given named parameters, or one (or None) for each parameter.
            Names may differ by what torch.compile, DistributedDataParallel and FSDP put into them.
        beside: further tensors that training writes.

    Raises:
        TypeError: ``base`` is neither.
        ValueError: parameters have no names, the number is another, no name fits, a base lies in a
            parameter's memory, or shapes, devices or precisions differ: all of these are named at once.
    """
    params = [p for group in groups for p in group["params"]]
    names = [name for group in groups for name in group.get("param_names", ())]
    bases: list[torch.Tensor | None]
    if isinstance(base, Mapping):
        if len(names) != len(params):
            raise ValueError(f"[{op}] params must be named_parameters() where base is a dict, got no names")
        bases = _by_name(op, names, params, base)
    else:
        bases = list(check.sequence(op, "base", base))
        if len(bases) != len(params):
            raise ValueError(
                f"[{op}] base must have an entry per parameter ({len(params)}), got {len(bases)}"
            )
    labels = names if len(names) == len(params) else [f"parameter {i}" for i in range(len(params))]
    rows = list(zip(labels, params, bases, strict=True))
    if problems := [text for label, p, x in rows if x is not None and (text := _problem(label, p, x))]:
        raise ValueError(f"[{op}] base must fit the parameters, got {'; '.join(problems)}")
    trained = {_memory(x) for x in (*params, *beside)} - {0}
    if shared := [label for label, _, x in rows if x is not None and _memory(x) in trained]:
        raise ValueError(
            f"[{op}] base must be a copy of the weights before training, for what shares memory with a "
            f"parameter moves with it, got {_some(shared)}: clone them"
        )
    return {p: x for _, p, x in rows if x is not None}, tuple(label for label, _, x in rows if x is not None)


def _by_name(
    op: str, names: list[str], params: list[torch.Tensor], base: Mapping[str, torch.Tensor]
) -> list[torch.Tensor | None]:
    plain = {plain_name(key): key for key in base}
    keys = [name if name in base else plain.get(plain_name(name)) for name in names]
    if names and not any(key is not None for key in keys):
        near = [
            f"{name}: {', '.join(close)}"
            for name in names[:3]
            if (close := difflib.get_close_matches(name, list(base), 2, 0.3))
        ]
        raise ValueError(
            f"[{op}] base must have tensors by the parameters' names ({_some(names)}), "
            f"got {_some(list(base)) or 'no tensors'}; near {'; '.join(near) or 'none'}"
        )
    _say_apart(op, [(n, p) for n, p, key in zip(names, params, keys, strict=True) if key is None], keys, base)
    return [None if key is None else base[key] for key in keys]


def _say_apart(
    op: str,
    alone: list[tuple[str, torch.Tensor]],
    keys: Sequence[str | None],
    base: Mapping[str, torch.Tensor],
) -> None:
    """One line where a parameter has no base although a tensor of its shape is left over there."""
    used = set(keys)
    over = {tuple(x.shape): key for key, x in base.items() if key not in used}
    if pairs := [f"{name} ({over[tuple(p.shape)]}?)" for name, p in alone if tuple(p.shape) in over]:
        warnings.warn(f"[{op}] no base is named like {_some(pairs)}: left alone", stacklevel=5)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _memory(x: torch.Tensor) -> int:
    """Where a tensor's storage begins; 0: nowhere."""
    part = local(x)
    if part.layout is not torch.strided or part.device.type == "meta" or part.numel() == 0:
        return 0
    return part.untyped_storage().data_ptr()


def _problem(label: str, p: torch.Tensor, x: torch.Tensor) -> str:
    if x.shape != p.shape:
        return f"{label} of shape {tuple(x.shape)} for {tuple(p.shape)}"
    if hasattr(x, "to_local") != hasattr(p, "to_local"):
        return f"{label} spread over processes unlike the parameter"
    if x.device != p.device:
        return f"{label} on {x.device} for {p.device}"
    if not x.is_floating_point() or check.compute_dtype(x.dtype) is not check.compute_dtype(p.dtype):
        return f"{label} in {check.name_of(x.dtype)} for {check.name_of(p.dtype)}"
    return ""
