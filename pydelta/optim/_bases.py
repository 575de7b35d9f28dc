"""Which base tensor belongs to which parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pydelta.core import check

Bases = Mapping[str, torch.Tensor] | Sequence["torch.Tensor | None"]


def match(op: str, groups: Sequence[dict[str, Any]], base: Bases) -> dict[torch.Tensor, torch.Tensor]:
    """Parameter -> its base tensor; parameters without one are left out.

    Args:
        groups: an optimizer's parameter groups.
        base: by name, for an optimizer that was given named parameters, or one (or None) for each parameter.

    Raises:
        TypeError: ``base`` is neither.
        ValueError: parameters have no names, the number is another, or shapes, devices or precisions differ:
            all of these are named at once.
    """
    params = [p for group in groups for p in group["params"]]
    names = [name for group in groups for name in group.get("param_names", ())]
    if isinstance(base, Mapping):
        if len(names) != len(params):
            raise ValueError(f"[{op}] params must be named_parameters() where base is a dict, got no names")
        bases = [base.get(name) for name in names]
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
    return {p: x for _, p, x in rows if x is not None}


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
