"""What the process's environment asks for."""

from __future__ import annotations

import os


def interpreted() -> bool:
    """Whether Triton runs its kernels in Python, on CPU tensors: how they are tested without a GPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"
