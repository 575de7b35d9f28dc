"""Tensors cut into parts that stay in a core's cache from one file to the other."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING

from pydelta.checkpoint.workspace import PART_BYTES
from pydelta.superposition.format.rules import Rule

if TYPE_CHECKING:
    from pydelta.core.masks import KernelMask


@dataclasses.dataclass(frozen=True)
class Part:
    """Part of one tensor of the store.

    Attributes:
        slot: that tensor.
        sources: model -> the tensor whose delta it puts there.
        rule: theirs.
        start, shape: see :func:`cut`.
        masks: model -> what of its delta is summed; none where all is.
    """

    slot: str
    sources: Mapping[str, str]
    rule: Rule
    start: int
    shape: tuple[int, ...]
    masks: Mapping[str, Future[KernelMask]] = dataclasses.field(default_factory=dict)


def cut(rule: Rule, bytes_per_element: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(index of the first element, shape) of the parts of a superposed tensor, in the order of its bytes.

    The transforms act on one index of the axes before the input axis at a time, so cutting there changes no
    bit. A part has its input axis at 1. Where the input axis is the first there is one part, the whole.
    """
    if not rule.dim:
        yield 0, rule.shape
        return
    inner = rule.shape[rule.dim :]
    size = math.prod(inner)
    rows = max(1, PART_BYTES // (bytes_per_element * size))
    total = math.prod(rule.shape[: rule.dim])
    for first in range(0, total, rows):
        yield first * size, (min(rows, total - first), *inner)


def input_axis(rule: Rule) -> int:
    """Of a part that :func:`cut` gave."""
    return 1 if rule.dim else 0
