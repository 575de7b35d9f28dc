"""``apply``: a delta file into the tensors of a live model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping

import torch

from pydelta.checkpoint.elements.bits import put, take
from pydelta.checkpoint.staging import Pathlike
from pydelta.checkpoint.tensors import TORCH, buffer
from pydelta.deltafile.manifest import BASE
from pydelta.deltafile.reader import DeltaFile
from pydelta.deltafile.restore import new_values


def apply(file: Pathlike, state_dict: Mapping[str, torch.Tensor]) -> None:
    """See :func:`pydelta.deltafile.apply`."""
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"[apply] state_dict must map names to tensors, got {type(state_dict).__name__}")
    delta = DeltaFile(file)
    known = {*delta.manifest.base, *delta.tensors}
    live = {name: x for name, x in state_dict.items() if name in known}
    for name, x in live.items():
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"[apply] state_dict[{name!r}] must be a tensor, got {type(x).__name__}")
    touched = [name for name, rule in delta.manifest.rules.items() if rule.rule != BASE]
    problems = [*_misfits(delta, live, touched)] or [*_ties(delta, live), *_contents(delta, live, touched)]
    if problems:
        raise ValueError(f"{delta.path}: does not fit the state dict: {'; '.join(problems)}")
    # Tied tensors are one view and change once.
    once = {_view(live[name]): name for name in touched}
    _write(delta, {name: live[name] for name in once.values()})


def _misfits(delta: DeltaFile, live: Mapping[str, torch.Tensor], touched: list[str]) -> Iterator[str]:
    """What can be seen without looking at an element."""
    for name in touched:
        if name not in live:
            yield f"tensor {name!r} is missing"
    for name, x in live.items():
        wanted = delta.tensors.get(name) or delta.manifest.base[name]
        if (x.dtype, tuple(x.shape)) != (TORCH[wanted.dtype], wanted.shape):
            rule = f"must be {wanted.dtype} of shape {list(wanted.shape)}"
            yield f"tensor {name!r} {rule}, got {x.dtype} of shape {list(x.shape)}"
        elif x.layout is not torch.strided or x.is_meta:
            yield f"tensor {name!r} must be dense and hold values, got {x.layout} on {x.device}"
        elif any(size > 1 and stride == 0 for size, stride in zip(x.shape, x.stride(), strict=True)):
            yield f"tensor {name!r} must have a place of its own for every element"


def _ties(delta: DeltaFile, live: Mapping[str, torch.Tensor]) -> Iterator[str]:
    """Tensors of one memory that the file would make differ."""
    first: dict[object, str] = {}
    for name, rule in delta.manifest.rules.items():
        if name not in live or live[name].numel() == 0:
            continue
        x, other = live[name], first.setdefault((live[name].device, live[name].data_ptr()), name)
        same_view = _view(x) == _view(live[other]) or rule.rule == BASE
        if other != name and not (same_view and delta.alike(other, name)):
            yield f"tensors {other!r} and {name!r} share memory, but the file changes them in different ways"


def _contents(delta: DeltaFile, live: Mapping[str, torch.Tensor], touched: list[str]) -> Iterator[str]:
    """Values that are not the base's, and places that are not sound."""
    for name, base in delta.manifest.base.items():
        x = live.get(name)
        # What has another shape in the base is stored whole, and its old values do not matter.
        if x is None or (x.dtype, tuple(x.shape)) != (TORCH[base.dtype], base.shape):
            continue
        if hashlib.sha256(buffer(x.detach().cpu().contiguous())).hexdigest() != base.sha256:
            yield f"tensor {name!r} is not the base's"
    for name in touched:
        try:
            delta.check(name, live[name].device)
        except ValueError as error:
            yield str(error)


def _view(x: torch.Tensor) -> tuple[object, ...]:
    """Alike for tensors that are the same elements of the same memory."""
    return x.device, x.data_ptr(), x.dtype, x.shape, x.stride()


def _write(delta: DeltaFile, live: Mapping[str, torch.Tensor]) -> None:
    """Changes all tensors; an error in the middle gives those that were changed their elements back."""
    undo: list[Callable[[], None]] = []
    try:
        for name, x in live.items():
            _change(delta, name, x.detach(), undo)
    except BaseException:
        for step in reversed(undo):
            step()
        raise


def _change(delta: DeltaFile, name: str, x: torch.Tensor, undo: list[Callable[[], None]]) -> None:
    mask = delta.mask(name, x.device)
    new, old = new_values(delta, name, x, mask), take(x, mask)
    # The mask is larger than what it keeps: where it is needed again it is made again.
    undo.append(lambda: put(x, delta.mask(name, x.device), old))
    put(x, mask, new)
