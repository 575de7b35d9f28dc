"""What a plan of a merge is made of. No torch."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping
from typing import Protocol

from pydelta.checkpoint.header import TensorInfo
from pydelta.merging.method import Values

VOCABULARIES = ("error", "common")


class Model(Protocol):
    """Named tensors: a checkpoint, or a state dict."""

    @property
    def path(self) -> object: ...

    @property
    def tensors(self) -> Mapping[str, TensorInfo]: ...


@dataclasses.dataclass(frozen=True)
class ModelTerm:
    """What one model adds to a tensor."""

    model: str
    values: Values


@dataclasses.dataclass(frozen=True)
class TensorPlan:
    """One tensor of the result.

    Attributes:
        info: its name, dtype and shape.
        shape: what is merged of it, its first rows; the others are the base's.
        terms: in the order of the models' names; none where the base's tensor is copied.
        axis: the input axis, counted from the front.
        values: the parameters that all models share.
    """

    info: TensorInfo
    shape: tuple[int, ...] = ()
    terms: tuple[ModelTerm, ...] = ()
    axis: int = 0
    values: Values = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.info.name


@dataclasses.dataclass(frozen=True)
class Mismatches:
    """What is allowed to differ.

    Attributes:
        vocabulary: "error", or "common": the first rows that all models have are merged.
        allow_missing: shell patterns of tensors that a model may lack or have alone.
        axes: shell patterns of tensor names -> input axis.
        mergekit: count as mergekit does where that departs from the papers.
        dequantize: read fp8 and MXFP4 weights as bf16.
    """

    vocabulary: str = "error"
    allow_missing: tuple[str, ...] = ()
    axes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    mergekit: bool = False
    dequantize: bool = False

    def allows(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.allow_missing)
