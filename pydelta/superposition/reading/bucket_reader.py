"""Sums as they lie in a store, whole or part by part: tensors, fixed-point numbers or codes."""

from __future__ import annotations

import math

import torch

from pydelta.checkpoint import Checkpoint
from pydelta.checkpoint.tensors import TORCH
from pydelta.checkpoint.workspace import Workspace, check_part
from pydelta.core.levels import code_shapes
from pydelta.core.quantized import Quantized
from pydelta.superposition.format.files import StoreFiles
from pydelta.superposition.format.form import CODES, SCALES
from pydelta.superposition.format.parts import input_axis
from pydelta.superposition.format.rules import Rule, input_axis_last


class BucketReader:
    """The sums of one bucket.

    Args:
        total: read the sums in full that lie beside codes.
    """

    def __init__(self, files: StoreFiles, bucket: int, *, total: bool = False) -> None:
        self._manifest = files.manifest
        self._files = (files.totals if total else files.sums)[bucket]
        self._coded = self._manifest.form.bits is not None and not total
        self._work = Workspace()

    def tensor(self, slot: str) -> torch.Tensor | Quantized:
        """A whole superposed tensor, mapped into memory."""
        rule = self._manifest.rules[slot]
        if not self._coded:
            return self._scaled(slot, rule, self._files[slot].tensor(slot))
        names = CODES + slot, SCALES + slot
        codes, scales = (self._files[name].tensor(name) for name in names)
        return self._quantized(slot, codes, scales, input_axis_last(rule.shape, rule.dim or 0))

    def part(self, slot: str, start: int, shape: tuple[int, ...]) -> torch.Tensor | Quantized:
        """One part, see :func:`cut`; it lives until the thread's next call."""
        rule = self._manifest.rules[slot]
        if not self._coded:
            return self._scaled(slot, rule, self.raw(slot, start, shape))
        turned = input_axis_last(shape, input_axis(rule))
        codes, scales = code_shapes(turned, *self._format)
        row = start // rule.shape[rule.dim or 0]
        return self._quantized(
            slot,
            self._read(self._files[CODES + slot], CODES + slot, codes, row * codes[-1]),
            self._read(self._files[SCALES + slot], SCALES + slot, scales, row * scales[-1]),
            turned,
        )

    def raw(self, slot: str, start: int, shape: tuple[int, ...]) -> torch.Tensor:
        """One part of a sum in full, as it is stored."""
        return self._read(self._files[slot], slot, shape, start)

    @property
    def _format(self) -> tuple[int, int]:
        form = self._manifest.form
        assert form.bits is not None
        return form.bits, 0 if form.group == "row" else int(form.group)

    def _read(self, file: Checkpoint, name: str, shape: tuple[int, ...], start: int) -> torch.Tensor:
        role = name.partition("/")[0] if self._coded else "sum"
        return file.read(name, self._work.get(role, shape, TORCH[file.dtype(name)]), start)

    def _quantized(
        self, slot: str, codes: torch.Tensor, scales: torch.Tensor, shape: tuple[int, ...]
    ) -> Quantized:
        form, rule = self._manifest.form, self._manifest.rules[slot]
        assert form.bits is not None
        check_part(self._files[SCALES + slot], SCALES + slot, scales)
        return Quantized(codes, scales.float(), form.bits, form.group, shape, compute(rule))

    def _scaled(self, slot: str, rule: Rule, stored: torch.Tensor) -> torch.Tensor:
        if not self._manifest.form.exact:
            return stored
        return stored.to(compute(rule)).mul_(math.ldexp(1.0, -self._manifest.exponents[slot]))


def compute(rule: Rule) -> torch.dtype:
    """The dtype that sums of such tensors are computed in."""
    return torch.float64 if rule.dtype == "F64" else torch.float32
