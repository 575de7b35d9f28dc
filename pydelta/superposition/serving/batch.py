"""Which model each row of a batch belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch


class Batch:
    """The rows of a mixed batch.

    Attributes:
        models: the index of each row's model among the store's models, sorted.
        rows: the same, (B,) int64 on the CPU.
        groups: index of a model -> its rows.
    """

    def __init__(self, models: Sequence[int]) -> None:
        self.models = list(models)
        self.rows = torch.tensor(models, dtype=torch.int64)
        self.groups = group(models)

    def __len__(self) -> int:
        return len(self.rows)

    def check(self, x: torch.Tensor) -> None:
        if x.shape[0] != len(self):
            raise ValueError(
                f"[models] names must have one model for each row of the batch ({x.shape[0]}), "
                f"got {len(self)}"
            )

    def each(self, run: Callable[[int, torch.Tensor], Any]) -> Any:
        """run(model, its rows) for every model, the results (a tensor, or a tuple of tensors) in the order of
        the batch."""
        parts = [run(k, rows) for k, rows in self.groups.items()]
        order = torch.argsort(torch.cat(list(self.groups.values())))
        if isinstance(parts[0], tuple):
            return tuple(_joined(part, order) for part in zip(*parts, strict=True))
        return _joined(parts, order)


def _joined(parts: Sequence[torch.Tensor], order: torch.Tensor) -> torch.Tensor:
    return torch.cat(list(parts))[order.to(parts[0].device)]


def group(keys: Sequence[int]) -> dict[int, torch.Tensor]:
    """Value -> the indices where it stands."""
    indices: dict[int, list[int]] = {}
    for i, k in enumerate(keys):
        indices.setdefault(k, []).append(i)
    return {k: torch.tensor(rows) for k, rows in indices.items()}


class Current:
    """The batch that runs, None outside of one; shared by the layers of a module."""

    def __init__(self) -> None:
        self.batch: Batch | None = None

    @contextmanager
    def set(self, batch: Batch) -> Iterator[None]:
        before, self.batch = self.batch, batch
        try:
            yield
        finally:
            self.batch = before
