"""A model's exact residual in a product: the few weights that its retrieved matrix would have wrong."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional

from pydelta.superposition.reading.residual import ResidualElements


class Difference(NamedTuple):
    """A sparse (out, in) matrix, tuned - retrieved where the tuned elements are known, row by row.

    Attributes:
        columns: (k,) int64.
        offsets: (out,) int64, where each row begins.
        values: (k,) fp32, or fp64 of float64 weights.
    """

    columns: torch.Tensor
    offsets: torch.Tensor
    values: torch.Tensor

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out) of the values' dtype; differentiable in x.

        A row of the matrix is a weighted bag of input features, and a bag's sum is taken in its order.
        """
        flat = x.reshape(-1, x.shape[-1]).T.to(self.values.dtype).contiguous()
        bags = functional.embedding_bag(
            self.columns, flat, self.offsets, mode="sum", per_sample_weights=self.values
        )
        return bags.T.reshape(*x.shape[:-1], len(self.offsets))


def difference(patch: ResidualElements, retrieved: torch.Tensor, *, input_first: bool) -> Difference:
    """What a patch adds to a product with a retrieved matrix.

    Args:
        retrieved: the unrounded matrix as a served product has it, (out, in); (in, out) if ``input_first``.
    """
    width = retrieved.shape[1]
    values = patch.values.to(retrieved.dtype) - retrieved.view(-1)[patch.places]
    rows, columns = patch.places // width, patch.places % width
    if input_first:
        order = columns.argsort(stable=True)
        rows, columns, values = columns[order], rows[order], values[order]
    outs = torch.arange(retrieved.shape[1 if input_first else 0], device=rows.device)
    return Difference(columns, torch.searchsorted(rows, outs), values)
