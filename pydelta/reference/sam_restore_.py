"""The way back from sharpness-aware minimisation's ascent step."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def sam_restore_(params: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> None:
    """Each parameter from its backup, or from its fp32 master, rounded."""
    for p, source in zip(params, sources, strict=True):
        p.copy_(source)
