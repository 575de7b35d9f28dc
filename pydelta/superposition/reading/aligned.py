"""A fine-tune as a store sums it: with its base's names and shapes, whatever it has otherwise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch

from pydelta.checkpoint import Checkpoint
from pydelta.checkpoint.header import Header
from pydelta.checkpoint.tensors import NAMES, TORCH
from pydelta.checkpoint.workspace import Workspace
from pydelta.core.check import compute_dtype
from pydelta.superposition.format.departures import Departures
from pydelta.superposition.format.rules import BASE, TIED, Rule


class AlignedModel:
    """Has a checkpoint's way to be read. What the model lacks is the base's, so that its delta there is zero.

    A superposed tensor of another floating dtype than the base's is read in fp32 (fp64 over an F64 base).

    Args:
        base, tuned: the checkpoints.
        departs: in what they differ.
        rules: of the base's tensors.

    Raises:
        ValueError: they differ in something else; one sentence names every tensor.
    """

    def __init__(
        self, base: Checkpoint, tuned: Checkpoint, departs: Departures, rules: Mapping[str, Rule]
    ) -> None:
        self._base, self._tuned, self._departs = base, tuned, departs
        self._work = Workspace()
        self.path: Path = tuned.path
        self.names = base.names
        differ = [
            name for name in base.names if rules[name].rule not in (BASE, TIED) and not self._fits(name)
        ]
        if differ:
            names = ", ".join(differ)
            raise ValueError(f"{tuned.path} differs from the base in name, shape or dtype: {names}")

    def dtype(self, name: str) -> str:
        """The dtype in which elements are given."""
        own = self._base.dtype(name)
        return NAMES[compute_dtype(TORCH[own])] if name in self._departs.dtypes else own

    def home(self, name: str) -> Header:
        """The header of the file that an error in a tensor is of."""
        return (self._base if self._is_base(name) else self._tuned).home(name)

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor of the base's shape, as :meth:`Checkpoint.tensor`."""
        if not self._is_base(name) and name not in {**self._departs.rows, **self._departs.dtypes}:
            return self._tuned.tensor(name)
        whole = torch.empty(self._base.shape(name), dtype=TORCH[self.dtype(name)])
        return self.read(name, whole)

    def read(self, name: str, out: torch.Tensor, start: int = 0) -> torch.Tensor:
        """Consecutive elements of one tensor of the base's shape, as :meth:`Checkpoint.read`."""
        end = start + out.numel()
        bound = 0 if self._is_base(name) else end
        if name in self._departs.rows:
            common = min(self._departs.rows[name], self._base.shape(name)[0])
            bound = min(max(common * math.prod(self._base.shape(name)[1:]), start), end)
        flat = out.view(-1)
        if bound > start:
            self._read(self._tuned, name, flat[: bound - start], start)
        if bound < end:
            first = max(bound, start)
            self._read(self._base, name, flat[first - start :], first)
        return out

    def _read(self, checkpoint: Checkpoint, name: str, out: torch.Tensor, start: int) -> None:
        dtype = TORCH[checkpoint.dtype(name)]
        if dtype == out.dtype:
            checkpoint.read(name, out, start)
        else:
            out.copy_(checkpoint.read(name, self._work.get("narrow", out.shape, dtype), start))

    def _is_base(self, name: str) -> bool:
        return name in self._departs.own or name in self._departs.lacks

    def _fits(self, name: str) -> bool:
        mine, theirs = self._base.tensors[name], self._tuned.tensors.get(name)
        if theirs is None:
            return name in self._departs.lacks
        if self._is_base(name):
            return True
        rows = self._departs.rows.get(name)
        shape = mine.shape if rows is None else (rows, *mine.shape[1:])
        return theirs.shape == shape and theirs.dtype == self._departs.dtypes.get(name, mine.dtype)


Model = Checkpoint | AlignedModel
"""What is summed."""


def aligned(base: Checkpoint, tuned: Checkpoint, departs: Departures, rules: Mapping[str, Rule]) -> Model:
    """The fine-tune itself where it has its base's names, shapes and dtypes, else a view that has.

    Raises:
        ValueError: as :class:`AlignedModel`.
    """
    view = AlignedModel(base, tuned, departs, rules)
    return view if departs.in_tensors else tuned
