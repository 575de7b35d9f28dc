"""What is saved, copied and resumed of an optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pydelta.core import check
from pydelta.core.module_names import plain_name
from pydelta.optim._sharded import gradient, norm

# State that torch's optimizers keep in the shape of the parameter.
_LIKE_PARAMETERS = (
    "exp_avg",
    "exp_avg_sq",
    "max_exp_avg_sq",
    "momentum_buffer",
    "square_avg",
    "acc_delta",
    "master",
)


def check_parameters(op: str, groups: Sequence[Mapping[str, Any]]) -> None:
    """That all that train are real numbers of 16 bits at least.

    Raises:
        TypeError: some are not: each is named.
    """
    bad = []
    for group in groups:
        names = group.get("param_names") or [None] * len(group["params"])
        for name, p in zip(names, group["params"], strict=True):
            if p.requires_grad and p.dtype not in check.FLOATS:
                bad.append(f"{check.name_of(p.dtype)} of {name or f'a parameter of shape {tuple(p.shape)}'}")
    if bad:
        raise TypeError(f"[{op}] parameters must be real, of 16 bits at least, got {'; '.join(bad)}")


def only_makes_state(optimizer: torch.optim.Optimizer) -> bool:
    """Whether this step is torch.distributed.checkpoint's, which makes state to be filled from a file.

    Such a step comes without a closure, before any state is there, and all its rates and gradients are zero.
    """
    groups = optimizer.param_groups
    if any(optimizer.state.values()) or any(float(group.get("lr", 0)) for group in groups):
        return False
    pairs = [(p, g) for group in groups for p in group["params"] if (g := gradient(p)) is not None]
    return bool(pairs) and float(norm([p for p, _ in pairs], [g for _, g in pairs])) == 0


def checked_state(op: str, optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """A saved state, ready to be loaded: its parameters stand in the order of the optimizer's.

    torch.distributed.checkpoint puts parameters in order by their names and leaves the list of names as it
    was saved; that list is left out.

    Raises:
        ValueError: parameters come in another order, or state has another shape than its parameter.
    """
    saved_groups = state_dict["param_groups"]
    by_name = any(isinstance(i, str) for group in saved_groups for i in group["params"])
    if by_name:
        kept = [{k: v for k, v in group.items() if k != "param_names"} for group in saved_groups]
        state_dict = {**state_dict, "param_groups": kept}
    for saved, group in zip(saved_groups, optimizer.param_groups, strict=False):
        names = [plain_name(name) for name in group.get("param_names", ())]
        theirs = [plain_name(name) for name in saved.get("param_names", ())]
        if not by_name and len(names) == len(theirs):
            known = set(names)
            for name, other in zip(names, theirs, strict=True):
                if name != other and other in known:
                    raise ValueError(
                        f"[{op}] state must be of the same parameters in the same order, "
                        f"got that of {other} for {name}"
                    )
        labels = names or [f"parameter {i}" for i in range(len(group["params"]))]
        for label, i, p in zip(labels, saved["params"], group["params"], strict=False):
            _check_shapes(op, label, p, state_dict["state"].get(i, {}))
    return state_dict


def _check_shapes(op: str, label: str, p: torch.Tensor, state: Mapping[str, Any]) -> None:
    for name in _LIKE_PARAMETERS:
        x = state.get(name)
        # A part of a spread tensor may be saved as it lay in its process.
        if not isinstance(x, torch.Tensor) or hasattr(x, "to_local") != hasattr(p, "to_local"):
            continue
        if x.shape != p.shape and x.dim() > 0:
            raise ValueError(
                f"[{op}] state must be of the same parameters in the same order, got {name} of shape "
                f"{tuple(x.shape)} for {label} of shape {tuple(p.shape)}"
            )
