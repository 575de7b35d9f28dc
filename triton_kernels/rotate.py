"""The randomised Hadamard transform D H D' in Triton."""

from __future__ import annotations

import math

import torch

from pydelta.core.random import Key
from pydelta.triton_kernels.launch import check_block, launch, split


def rotate(x: torch.Tensor, key: Key, *, out: torch.Tensor, block: int, inverse: bool) -> None:
    check_block("rotate", block)
    shape, scale = split(x, x.dim() - 1), 1.0 / math.sqrt(block)
    launch(shape, out, x, key=key, block=block, scale=scale, inverse=inverse)
