"""The live tensors of a store's models, and writing models into them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from pydelta import ops
from pydelta.superposition.format.rules import SUPERPOSED
from pydelta.superposition.serving.binding import Bound
from pydelta.superposition.serving.sources import Sources


class Weights:
    """The live tensors of a module, and what a store has for them.

    Attributes:
        names: the store's tensors that differ between models.
        direct: tensor of the store -> the live tensor, or the part of one, that it is.
        live: the live tensors, each once.
    """

    def __init__(self, bound: Bound, sources: Sources) -> None:
        self.direct, self.conversions, self.sources = bound.direct, bound.conversions, sources
        self.names = [*bound.direct, *(name for c in bound.conversions for name in c.names)]
        self.live = [*bound.direct.values(), *(x for c in bound.conversions for x in c.live.values())]

    def storages(self) -> Iterable[tuple[str, torch.Tensor]]:
        """Tensors of the store with each live tensor that they are part of."""
        yield from self.direct.items()
        for conversion in self.conversions:
            yield from ((name, x) for name in conversion.names for x in conversion.live.values())

    def write(self, model: str, names: Iterable[str]) -> None:
        """A model's tensors, each by one fused ``retrieve``: never by adding to what was there.

        All that can fail is read before anything is written.
        """
        names = set(names)
        rules = self.sources.manifest.rules
        exact = self.sources.exact(model)
        for tensor in names:
            if rules[tensor].rule == SUPERPOSED and tensor not in self._lacks(model):
                self.sources.find(model, tensor)
                self.sources.patch(model, tensor)
        with torch.no_grad():
            for tensor in self.direct:
                if tensor in names:
                    self._put(model, tensor, exact, self.direct[tensor].detach())
            for conversion in self.conversions:
                if names.intersection(conversion.names):
                    own = {tensor: torch.empty_like(self.sources.base(tensor)) for tensor in conversion.names}
                    for tensor, x in own.items():
                        self._put(model, tensor, exact, x)
                    conversion.write(own)

    def write_base(self, names: Iterable[str]) -> None:
        names = set(names)
        base = self.sources.base
        with torch.no_grad():
            for tensor in self.direct:
                if tensor in names:
                    self.direct[tensor].copy_(base(tensor))
            for conversion in self.conversions:
                if names.intersection(conversion.names):
                    conversion.write({tensor: base(tensor) for tensor in conversion.names})

    def _lacks(self, model: str) -> frozenset[str]:
        """What a model has not is the base's in a module that has it."""
        return self.sources.manifest.models[model].departs.lacks

    def _put(self, model: str, tensor: str, exact: dict[str, torch.Tensor], out: torch.Tensor) -> None:
        if tensor in exact or tensor in self._lacks(model):
            out.copy_(exact.get(tensor, self.sources.base(tensor)))
            return
        superposed, key, lam = self.sources.find(model, tensor)[1]
        manifest = self.sources.manifest
        dim: Any = manifest.rules[tensor].dim
        base, transform = self.sources.base(tensor), manifest.transform_of(tensor)
        ops.retrieve(base, superposed, key, lam=lam, transform=transform, dim=dim, out=out)
        if (own := self.sources.patch(model, tensor)) is not None:
            own.put(out)
