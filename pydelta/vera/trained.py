"""Parts of a module that an adapter trains in full: a classifier's head, say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from pydelta.core.module_names import plain_name

_ATTRIBUTE = "vera_trained"


class Trained:
    """The tensors of one part: the base's, and each adapter's own. The part holds those in use as its own.

    Attributes:
        own: adapter -> name in the part -> tensor; what is in use is newer in the part itself.
        tied: the paths of other parts that hold tensors of the base's.
        shown: whose tensors the part holds; None: the base's.
        merged: whether they stay when the adapters are taken off.
    """

    def __init__(self, part: nn.Module, tied: list[str]) -> None:
        self.tied = tied
        self.part, self.base = [part], dict(_tensors(part))  # in a list: no second path to the part
        self.own: dict[str, dict[str, torch.Tensor]] = {}
        self.shown: str | None = None
        self.merged = False

    def add(self, name: str) -> None:
        """A copy of what the part holds, for an adapter to train."""
        self.own[name] = {
            key: nn.Parameter(x.detach().clone())
            if isinstance(x, nn.Parameter) and x.is_floating_point()
            else x.clone()
            for key, x in _tensors(self.part[0])
        }

    def tensors(self, name: str | None) -> dict[str, torch.Tensor]:
        if name == self.shown:
            return dict(_tensors(self.part[0]))
        return self.base if name is None else self.own[name]

    def show(self, name: str | None) -> None:
        """Puts an adapter's tensors into the part, on the device and in the dtype that the part has."""
        name = name if name in self.own else None
        if name == self.shown:
            return
        present = self.tensors(self.shown)
        if self.shown is None:
            self.base = present
        else:
            self.own[self.shown] = present
        for key, x in self.tensors(name).items():
            like = present[key]
            if x.device != like.device or x.dtype is not like.dtype:
                x.data = x.data.to(like.device, like.dtype)
            _put(self.part[0], key, x)
        self.shown = name


def trained_parts(module: nn.Module) -> dict[str, Trained]:
    """Path -> what is trained there."""
    return {
        plain_name(f"{path}.").removesuffix("."): part.__dict__[_ATTRIBUTE]
        for path, part in module.named_modules()
        if _ATTRIBUTE in part.__dict__
    }


def begin(part: nn.Module, name: str, tied: list[str]) -> None:
    """Lets an adapter train a part of its own; ``tied``: the paths of others that hold its tensors."""
    if _ATTRIBUTE not in part.__dict__:
        part.__dict__[_ATTRIBUTE] = Trained(part, tied)
    part.__dict__[_ATTRIBUTE].add(name)


def end(part: nn.Module) -> None:
    """The base's tensors again, unless an adapter's are merged."""
    trained = part.__dict__.pop(_ATTRIBUTE)
    if not trained.merged:
        trained.show(None)


def shapes_of(part: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(x.shape) for key, x in _tensors(part)}


def _tensors(part: nn.Module) -> Iterator[tuple[str, Any]]:
    """Parameters and the buffers that a state_dict has."""
    yield from part.named_parameters()
    for path, inner in part.named_modules():
        for name, x in inner._buffers.items():
            if x is not None and name not in inner._non_persistent_buffers_set:
                yield f"{path}.{name}" if path else name, x


def _put(part: nn.Module, key: str, x: torch.Tensor) -> None:
    path, _, name = key.rpartition(".")
    owner = part.get_submodule(path)
    held: dict[str, Any] = owner._parameters if name in owner._parameters else owner._buffers
    held[name] = x
