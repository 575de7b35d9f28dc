"""Writing models into the live tensors."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from pydelta import ops
from pydelta.superposition.format.rules import SUPERPOSED
from pydelta.superposition.serving.binding import Live
from pydelta.superposition.serving.sources import Sources


class Weights:
    """The live tensors of a module, and what a store has for them."""

    def __init__(self, targets: Live, sources: Sources) -> None:
        self.targets, self.sources = targets, sources

    def write(self, model: str, names: Iterable[str]) -> None:
        """A model's tensors, each by one fused ``retrieve``: never by adding to what was there.

        All that can fail is read before anything is written.
        """
        rules, manifest = self.sources.manifest.rules, self.sources.manifest
        names = list(names)
        exact = self.sources.exact(model)
        sums = {t: self.sources.find(model, t)[1] for t in names if rules[t].rule == SUPERPOSED}
        patches = {tensor: self.sources.patch(model, tensor) for tensor in sums}
        with torch.no_grad():
            for tensor in names:
                live = self.targets[tensor].detach()
                if tensor in exact:
                    live.copy_(exact[tensor])
                    continue
                superposed, key, lam = sums[tensor]
                ops.retrieve(
                    self.sources.base(tensor),
                    superposed,
                    key,
                    lam=lam,
                    transform=manifest.transform_of(tensor),
                    dim=rules[tensor].dim,  # type: ignore[arg-type]
                    out=live,
                )
                if (own := patches[tensor]) is not None:
                    own.put(live)

    def write_base(self, names: Iterable[str]) -> None:
        with torch.no_grad():
            for tensor in names:
                self.targets[tensor].copy_(self.sources.base(tensor))
