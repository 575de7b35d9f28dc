"""Block-diagonal Walsh-Hadamard transform in Triton."""

from __future__ import annotations

import torch

from pydelta.triton_kernels.launch import check_block, flat, launch


def hadamard(x: torch.Tensor, *, out: torch.Tensor, block: int, scale: float) -> None:
    check_block("hadamard", block)
    launch(flat(x), out, x, block=block, scale=scale)
