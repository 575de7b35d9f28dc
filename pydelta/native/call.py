"""From tensors to the numbers that the compiled extensions take; the call of one."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from types import ModuleType

import torch

# csrc/core/types.h holds the same codes.
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}
# csrc/core/transform.h holds the same codes.
TRANSFORMS = {"none": 0, "sign": 1, "hadamard": 2}


def extension(backend: str) -> ModuleType:
    return importlib.import_module(f"pydelta._{backend}")


def on(x: torch.Tensor, run: Callable[..., None], *args: object) -> None:
    """Calls ``run`` with ``x``'s device current."""
    if x.is_cuda:
        with torch.cuda.device(x.device):
            run(*args, torch.cuda.current_stream(x.device).cuda_stream)
    else:
        run(*args, torch.get_num_threads())


def split(x: torch.Tensor, dim: int) -> tuple[int, int, int]:
    """The sizes before, at and after ``dim``."""
    outer = inner = 1
    for size in x.shape[:dim]:
        outer *= size
    for size in x.shape[dim + 1 :]:
        inner *= size
    return outer, x.shape[dim], inner


def pointer(x: torch.Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def rows_of(x: torch.Tensor) -> tuple[int, int]:
    """How many rows, and how long they are."""
    n = x.shape[-1]
    return math.prod(x.shape[:-1]), n
