"""Random signs along one dimension in Triton."""

from __future__ import annotations

import torch

from pydelta.core.random import Key
from pydelta.triton_kernels.launch import launch, split


def sign_flip(x: torch.Tensor, key: Key, *, out: torch.Tensor, dim: int) -> None:
    launch(split(x, dim), out, x, key=key)
