"""Lists of tensors for the benchmarks of ops on lists: few large ones, many small ones."""

from __future__ import annotations

import torch
from harness import ALL_THREADS, Bench, Case

LARGE, SMALL = (64, 1 << 20), (10_000, 1000)
"""(tensors, elements of each)"""


def cases(dtypes: tuple[torch.dtype, ...] = (torch.float32,)) -> list[Case]:
    """``row``: elements of a tensor; ``size``: bytes of all parameters."""
    return [
        Case(elements, count * elements * dtype.itemsize, dtype, threads, inplace=True)
        for count, elements in (LARGE, SMALL)
        for dtype in dtypes
        for threads in sorted({1, ALL_THREADS})
    ]


def tensors(bench: Bench, name: str, case: Case, dtype: torch.dtype | None = None) -> list[torch.Tensor]:
    """As many as the case has, of its dtype by default."""
    count = case.size // case.row // case.dtype.itemsize
    return list(bench.normal(name, (count, case.row), dtype or case.dtype).unbind())
