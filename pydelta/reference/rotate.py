"""The randomised Hadamard transform D H D'."""

from __future__ import annotations

import torch

from pydelta.core.random import OUTER_SIGNS, Key
from pydelta.reference.hadamard import hadamard
from pydelta.reference.sign_flip import flip


def rotate(x: torch.Tensor, key: Key, *, block: int | None = None, inverse: bool = False) -> torch.Tensor:
    """y = D H D' x along the last dimension, H orthonormal; inverse D' H D.

    D' takes the signs 0, 1, ... of the key, D those from 2**40 on. Both are needed: one H after
    per-model signs would be undone by the sum's own H and leave signs alone.
    """
    first, last = (OUTER_SIGNS, 0) if inverse else (0, OUTER_SIGNS)
    y = hadamard(flip(x, key, -1, first), block=block)
    return flip(y, key, -1, last)
