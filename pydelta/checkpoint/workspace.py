"""What work on parts of tensors needs: memory that stays in a core's cache, and a look for NaN."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Protocol

import torch

from pydelta.checkpoint.header import Header
from pydelta.core.check import compute_dtype

PART_BYTES = 4 << 20
"""What the buffers of one part take together."""


class Readable(Protocol):
    """What a look for NaN needs of a checkpoint, or of a view of one."""

    def tensor(self, name: str) -> torch.Tensor: ...

    def home(self, name: str) -> Header: ...


class Workspace(threading.local):
    """Memory that a thread uses again for part after part: fresh pages cost more than the arithmetic."""

    def __init__(self) -> None:
        self._flat: dict[tuple[str, torch.dtype], torch.Tensor] = {}

    def get(self, role: str, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """An uninitialised tensor, which the thread's next call with the same role and dtype takes back."""
        count = math.prod(shape)
        flat = self._flat.get((role, dtype))
        if flat is None or flat.numel() < count:
            flat = self._flat[role, dtype] = torch.empty(count, dtype=dtype)
        return flat[:count].view(tuple(shape))


def check_finite(checkpoint: Readable, name: str) -> torch.Tensor:
    """A floating tensor of a checkpoint.

    Raises:
        ValueError: it holds NaN or Inf.
    """
    x = checkpoint.tensor(name)
    for part in torch.split(x.reshape(-1), 1 << 22):
        check_part(checkpoint, name, part)
    return x


def check_part(checkpoint: Readable, name: str, part: torch.Tensor) -> None:
    """Some elements of a floating tensor of a checkpoint.

    Raises:
        ValueError: they hold NaN or Inf.
    """
    if not finite(part):
        raise ValueError(f"{checkpoint.home(name).path}: tensor {name!r} holds NaN or Inf")


def finite(x: torch.Tensor) -> bool:
    """Whether a floating tensor holds neither NaN nor Inf."""
    wide = x if x.element_size() > 1 else x.float()  # the narrow dtypes lack arithmetic
    # A sum is many times faster than isfinite, but it may overflow.
    return math.isfinite(wide.sum().item()) or bool(wide.to(compute_dtype(x.dtype)).isfinite().all())
