"""A delta, masked and rescaled, in Triton."""

from __future__ import annotations

import torch

from pydelta.core.masks import Ready
from pydelta.triton_kernels.merge_into import launch_merge


def mask_rescale(delta: torch.Tensor, mask: Ready, *, base: torch.Tensor | None, out: torch.Tensor) -> None:
    """One model of weight 1, onto zeros."""
    launch_merge(out, base, [delta], [mask], [1.0], onto_base=False, ELECT=0, NORMALIZE=False)
