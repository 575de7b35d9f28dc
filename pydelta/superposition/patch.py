"""A model's exact residual: elements of its tuned tensors that take the place of what is retrieved."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from pydelta import _rice
from pydelta._elements import bits
from pydelta.checkpoint import Checkpoint
from pydelta.checkpoint.workspace import check_part
from pydelta.superposition.form import PLACES, VALUES
from pydelta.superposition.rules import Rule


class Patch(NamedTuple):
    """Elements of one tensor.

    Attributes:
        places: (k,) int64, ascending indices in C order.
        values: (k,) of the tensor's dtype.
    """

    places: torch.Tensor
    values: torch.Tensor

    def to(self, device: torch.device) -> Patch:
        return Patch(self.places.to(device), self.values.to(device))

    def put(self, x: torch.Tensor, start: int = 0) -> None:
        """Writes the elements that lie in a part of the tensor, or in all of it, bit for bit.

        Args:
            x: contiguous where it is a part.
            start: the index of its first element in the whole.
        """
        if not x.is_contiguous():
            x[torch.unravel_index(self.places, x.shape)] = self.values
            return
        ends = torch.tensor([start, start + x.numel()], device=self.places.device)
        first, last = torch.searchsorted(self.places, ends).tolist()
        bits(x)[self.places[first:last] - start] = bits(self.values[first:last])


def read_patch(file: Checkpoint, tensor: str, rule: Rule) -> Patch | None:
    """What a file of a store, whose header has been checked, keeps of one tensor; None if nothing.

    Raises:
        ValueError: the places are not sound, or a value is not finite.
    """
    if VALUES + tensor not in file.tensors:
        return None
    values, code = file.tensor(VALUES + tensor), file.tensor(PLACES + tensor).numpy()
    check_part(file, VALUES + tensor, values)
    try:
        mask = _rice.decode(code[1:], int(code[0]), len(values), math.prod(rule.shape))
    except ValueError as error:
        raise ValueError(f"{file.path}: tensor {PLACES + tensor!r}: {error}") from None
    return Patch(torch.from_numpy(np.flatnonzero(mask)), values)
