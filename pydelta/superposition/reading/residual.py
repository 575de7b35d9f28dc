"""A model's exact residual: elements of its tuned tensors that take the place of what is retrieved."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from pydelta.checkpoint import Checkpoint
from pydelta.checkpoint.elements import rice
from pydelta.checkpoint.elements.bits import bits
from pydelta.checkpoint.workspace import check_part
from pydelta.superposition.format.form import PLACES, VALUES
from pydelta.superposition.format.rules import Rule


class ResidualElements(NamedTuple):
    """Elements of one tensor.

    Attributes:
        places: (k,) int64, ascending indices in C order.
        values: (k,) of the tensor's dtype.
    """

    places: torch.Tensor
    values: torch.Tensor

    def to(self, device: torch.device) -> ResidualElements:
        return ResidualElements(self.places.to(device), self.values.to(device))

    def cast(self, dtype: torch.dtype) -> ResidualElements:
        """The same elements in another dtype."""
        return self if self.values.dtype is dtype else ResidualElements(self.places, self.values.to(dtype))

    def part(self, start: int, count: int) -> ResidualElements:
        """The elements that lie in a part of the tensor, as those of a tensor of its own.

        Args:
            start, count: the index of the part's first element, and their number.
        """
        first, last = torch.searchsorted(self.places, torch.tensor([start, start + count])).tolist()
        return ResidualElements(self.places[first:last] - start, self.values[first:last])

    def put(self, x: torch.Tensor) -> None:
        """Writes the elements into a tensor of any strides, bit for bit."""
        if x.is_contiguous():
            bits(x)[self.places] = bits(self.values)
        else:
            x[torch.unravel_index(self.places, x.shape)] = self.values

    def put_rows(self, matrix: torch.Tensor, rows: torch.Tensor) -> None:
        """As :meth:`put`, of some rows of a matrix.

        Args:
            matrix: (n, width), those rows.
            rows: (n,) int64, their indices; a row may come several times.
        """
        width = matrix.shape[1]
        first = torch.searchsorted(self.places, rows * width)
        counts = torch.searchsorted(self.places, (rows + 1) * width) - first
        own = torch.arange(len(rows), device=rows.device).repeat_interleave(counts)
        # Counts on from the first place of each row.
        at = torch.arange(len(own), device=rows.device) + (first - counts.cumsum(0) + counts)[own]
        matrix[own, self.places[at] - rows[own] * width] = self.values[at]


def read_residual(file: Checkpoint, tensor: str, rule: Rule) -> ResidualElements | None:
    """What a file of a store, whose header has been checked, keeps of one tensor; None if nothing.

    Raises:
        ValueError: the places are not sound, or a value is not finite.
    """
    if VALUES + tensor not in file.tensors:
        return None
    values, code = file.tensor(VALUES + tensor), file.tensor(PLACES + tensor).numpy()
    check_part(file, VALUES + tensor, values)
    try:
        mask = rice.decode(code[1:], int(code[0]), len(values), math.prod(rule.shape))
    except ValueError as error:
        raise ValueError(f"{file.path}: tensor {PLACES + tensor!r}: {error}") from None
    return ResidualElements(torch.from_numpy(np.flatnonzero(mask)), values)
