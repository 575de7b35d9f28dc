"""A module's buffers, kept over a forward pass that must leave no trace in them."""

from __future__ import annotations

import torch
from torch import nn


class Buffers:
    """Copies of a module's buffers: running statistics, counters, whatever a forward pass may change.

    Bool buffers, masks as large as a context's square, are left out. All others are written back, since
    kernels of torch change statistics without counting versions.
    """

    def __init__(self, model: nn.Module | None) -> None:
        self._rows: list[tuple[nn.Module, str, torch.Tensor, torch.Tensor]] = []
        for module in model.modules() if model is not None else ():
            for name, x in module._buffers.items():
                if x is not None and x.dtype is not torch.bool and x.device.type != "meta":
                    self._rows.append((module, name, x, x.detach().clone()))

    @torch.no_grad()
    def restore(self) -> None:
        """The same tensors with the values that they had; once."""
        while self._rows:
            module, name, x, values = self._rows.pop()
            module._buffers[name] = x
            x.copy_(values)
