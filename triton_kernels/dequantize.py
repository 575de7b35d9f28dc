"""What low-bit codes stand for, in Triton."""

from __future__ import annotations

import torch

from pydelta.core.quantized import Quantized
from pydelta.triton_kernels.launch import launch, split


def dequantize(q: Quantized, *, out: torch.Tensor, dtype: torch.dtype) -> None:
    launch(split(out, out.dim() - 1), out, coded=q)
