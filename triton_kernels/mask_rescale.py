"""A delta, masked and rescaled, in Triton."""

from __future__ import annotations

import torch

from pydelta.core.codes import ELECTIONS
from pydelta.core.masks import KernelMask
from pydelta.triton_kernels.merge_into import launch_merge


def mask_rescale(
    delta: torch.Tensor, mask: KernelMask, *, base: torch.Tensor | None, out: torch.Tensor
) -> None:
    """One model of weight 1, onto zeros."""
    launch_merge(out, base, [delta], [mask], [1.0], onto_base=False, ELECT=ELECTIONS["sum"], NORMALIZE=False)
