"""Which model each row of a batch belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from pydelta.superposition.serving.plan import Plan
    from pydelta.superposition.serving.probe import Probe


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

    def repeated(self, rows: int) -> Batch:
        """The batch of so many rows: each name stands for a run of them, as ``generate`` expands prompts into
        beams and into several sequences.

        Raises:
            ValueError: ``rows`` is no multiple of the names.
        """
        if rows == len(self):
            return self
        if not len(self) or rows % len(self):
            raise ValueError(
                f"[models] names must have one model for each row of the batch ({rows}), got {len(self)}"
            )
        return Batch([k for k in self.models for _ in range(rows // len(self))])

    def each(self, run: Callable[[int, torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """run(model, its rows) for every model, the results in the order of the batch."""
        parts = [run(k, rows) for k, rows in self.groups.items()]
        order = torch.argsort(torch.cat(list(self.groups.values())))
        with torch.autocast(parts[0].device.type, enabled=False):
            return torch.cat(parts)[order.to(parts[0].device)]


def group(keys: Sequence[int]) -> dict[int, torch.Tensor]:
    """Value -> the indices where it stands."""
    indices: dict[int, list[int]] = {}
    for i, k in enumerate(keys):
        indices.setdefault(k, []).append(i)
    return {k: torch.tensor(rows) for k, rows in indices.items()}


class Current:
    """What runs, shared by the layers of a module.

    Attributes:
        batch: whose rows these are; None outside of a batch, and while a module has one model's tensors.
        plan: of the outermost module's call; None outside of one.
        probe: records the calls instead.
        called: the layers that were called since the plan was set.
    """

    def __init__(self) -> None:
        self.batch: Batch | None = None
        self.plan: Plan | None = None
        self.probe: Probe | None = None
        self.called: set[str] = set()

    @contextmanager
    def set(
        self, batch: Batch | None, plan: Plan | None = None, probe: Probe | None = None
    ) -> Iterator[None]:
        before = self.batch, self.plan, self.probe, self.called
        self.batch, self.plan, self.probe, self.called = batch, plan, probe, set()
        try:
            yield
        finally:
            self.batch, self.plan, self.probe, self.called = before

    def off(self, probe: Probe | None = None) -> AbstractContextManager[None]:
        """Within the block layers are what the module holds."""
        return self.set(None, probe=probe)
