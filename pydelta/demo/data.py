"""Handwritten digits and eight views of them: eight tasks that differ and look alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

PIXELS = 32
"""Side of the pictures that the network sees; scikit-learn's are 8 x 8 block counts of 32 x 32 scans."""

VIEWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "plain": lambda x: x,
    "inverted": lambda x: 1 - x,
    "rotated": lambda x: torch.rot90(x, 1, (-2, -1)),
    "mirrored": lambda x: x.flip(-1),
    "transposed": lambda x: x.mT,
    "upside-down": lambda x: torch.rot90(x, 2, (-2, -1)),
    "rolled": lambda x: x.roll((4, 4), (-2, -1)),
    "binarised": lambda x: (x >= 0.5).to(x.dtype),
}
"""Each maps pictures (n, 8, 8) with values in [0, 1] to pictures of the same shape."""


@dataclasses.dataclass(frozen=True)
class Split:
    """Pictures (n, 8, 8) fp32 in [0, 1] and their digits (n) int64."""

    pictures: torch.Tensor
    digits: torch.Tensor

    def view(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """What a network is given for one task: features (n, PIXELS**2) and digits (n)."""
        return features(VIEWS[name](self.pictures)), self.digits


@dataclasses.dataclass(frozen=True)
class Digits:
    """``train`` is for training, ``validation`` for choosing merge coefficients, ``test`` for the tables."""

    train: Split
    validation: Split
    test: Split


def load(seed: int, validation: int = 150, test: int = 450) -> Digits:
    """scikit-learn's 1797 bundled digits, split at random by ``seed``."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pictures = torch.tensor(bunch.images, dtype=torch.float32) / 16
    digits = torch.tensor(bunch.target, dtype=torch.int64)
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(seed))
    held_out = validation + test
    parts = (order[held_out:], order[:validation], order[validation:held_out])
    return Digits(*(Split(pictures[part], digits[part]) for part in parts))


def features(pictures: torch.Tensor) -> torch.Tensor:
    """Enlarges 8 x 8 pictures to PIXELS x PIXELS and maps [0, 1] to [-1, 1]: (n, 8, 8) -> (n, PIXELS**2)."""
    scale = PIXELS // pictures.shape[-1]
    enlarged = pictures.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    return (2 * enlarged - 1).flatten(1)
