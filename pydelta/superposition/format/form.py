"""How a store keeps its sums: in full, in fixed point, or in low-bit codes. No torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from pydelta.checkpoint import TensorInfo
from pydelta.core.levels import DISTORTIONS, MAGNITUDES, code_shapes
from pydelta.superposition.format.rules import SUPERPOSED, Rule, input_axis_last

BITS = tuple(MAGNITUDES)
DTYPES = {"bf16": "BF16", "fp32": "F32"}
CODES, SCALES = "codes/", "scales/"
VALUES, PLACES = "values/", "places/"
RATES: dict[float, int | None] = {16: None, 4: 4, 2: 2, 1: 1, 0.5: 1, 0.25: 1, 0.125: 1}
"""Bits per parameter and model -> bits of the codes.

From 1 on every model has codes of its own; below, 1 / rate models share one bit. 16 is one sum in full.
"""

EXACT_ROOM = 64
"""Models that a fixed-point sum holds unless more are asked for."""


@dataclasses.dataclass(frozen=True)
class StorageForm:
    """How sums are kept.

    Attributes:
        dtype: "fp32" or "bf16", of sums in full.
        bits: of codes, or None for sums in full.
        group: "row", or the number of elements of a row that share a scale.
        exact: sums are int32 multiples of a power of two.
        room: models that one sum may hold, or None for any number.
    """

    dtype: str = "fp32"
    bits: int | None = None
    group: str | int = "row"
    exact: bool = False
    room: int | None = None

    @property
    def transform(self) -> str:
        """What is chosen for sums of this form unless something else is asked for."""
        return "sign" if self.bits is None else "hadamard"

    @property
    def noise(self) -> float:
        """The relative squared error that unbiased codes add to a Gaussian sum: D / (1 - D)."""
        distortion = DISTORTIONS[self.bits] if self.bits else 0.0
        return distortion / (1 - distortion)

    def total(self, name: str, rule: Rule) -> TensorInfo:
        """A sum in full: what a store without codes holds, and an open bucket beside its codes."""
        if self.exact:
            return TensorInfo(name, "I32", rule.shape)
        return TensorInfo(name, "F64" if rule.dtype == "F64" else DTYPES[self.dtype], rule.shape)

    def kept(self, name: str, rule: Rule) -> list[TensorInfo]:
        """The stored tensors that one superposed tensor becomes."""
        if self.bits is None:
            return [self.total(name, rule)]
        codes, scales = code_shapes(
            input_axis_last(rule.shape, rule.dim or 0),
            self.bits,
            0 if self.group == "row" else int(self.group),
        )
        return [TensorInfo(CODES + name, "U8", codes), TensorInfo(SCALES + name, "BF16", scales)]

    def tensors(self, rules: Mapping[str, Rule], *, total: bool = False) -> Iterator[TensorInfo]:
        """All stored tensors of a bucket, or those of its sums in full."""
        for name, rule in rules.items():
            if rule.rule == SUPERPOSED:
                yield from [self.total(name, rule)] if total else self.kept(name, rule)
