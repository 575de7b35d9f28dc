"""What a bank reads: the base, the superposition and the exact tensors, each held once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pydelta.checkpoint.digest import tensor_digest
from pydelta.checkpoint.staging import Pathlike
from pydelta.core.quantized import Quantized
from pydelta.superposition.format.base import open_base, stamps
from pydelta.superposition.reading.residual import ResidualElements
from pydelta.superposition.reading.source import Source, source

if TYPE_CHECKING:
    from pydelta.superposition.reading.contents import Contents


class Sources:
    """The tensors of a store and its base on one device.

    Args:
        resident: copy them there; else they stay mapped from their files, which other processes share.

    Raises:
        OSError: a file cannot be read.
        ValueError: the base is not the store's, or a file is not sound.
    """

    def __init__(self, store: Contents, base: Pathlike | None, device: torch.device, resident: bool) -> None:
        self.store, self.manifest = store, store.manifest
        self.checkpoint = open_base(store.path, self.manifest, base)
        if stamps(self.checkpoint) != self.manifest.base_stamps:
            for name, digest in self.manifest.digests.items():
                if tensor_digest(self.checkpoint, name) != digest:
                    raise ValueError(
                        f"{self.checkpoint.path}: not the base of {store.path}: tensor {name!r} differs"
                    )
        self._device, self._resident = device, resident
        self._base: dict[str, torch.Tensor] = {}
        self._superposed: dict[tuple[int, str], torch.Tensor | Quantized] = {}
        self._located: dict[tuple[str, str], tuple[tuple[int, str], Source]] = {}
        self._exact: dict[str, dict[str, torch.Tensor]] = {}
        self._patches: dict[tuple[str, str], ResidualElements | None] = {}

    def base(self, name: str) -> torch.Tensor:
        if name not in self._base:
            self._base[name] = self._held(self.checkpoint.tensor(name))
        return self._base[name]

    def find(self, model: str, name: str) -> tuple[tuple[int, str], Source]:
        """Where a superposed tensor of a model lies, its bucket and its layer's slot, and the tensor with
        the model's key and lambda. Models that share a slot share the tensor."""
        if (model, name) not in self._located:
            slot = self.store.bucket(model), self.store.files.slots(model)[name]
            own = source(self.store.files, model, name, self._superposed.get(slot))
            if slot not in self._superposed:
                s = own.superposed
                s = s.to(self._device) if isinstance(s, Quantized) else self._held(s)
                self._superposed[slot], own = s, own._replace(superposed=s)
            self._located[model, name] = slot, own
        return self._located[model, name]

    def exact(self, model: str) -> dict[str, torch.Tensor]:
        if model not in self._exact:
            self._exact[model] = {name: self._held(x) for name, x in self.store.exact(model).items()}
        return self._exact[model]

    def patch(self, model: str, name: str) -> ResidualElements | None:
        """The elements of a superposed tensor that the store keeps exactly."""
        if (model, name) not in self._patches:
            elements = self.store.residual(model, name)
            self._patches[model, name] = None if elements is None else elements.to(self._device)
        return self._patches[model, name]

    def _held(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(self._device, copy=True) if self._resident else x
