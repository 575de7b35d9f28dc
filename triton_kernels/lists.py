"""Lists of tensors in one launch in Triton: a table of addresses, a program for each chunk, sums in lanes."""
# ruff: noqa: N803 - compile-time constants are capitals, as in Triton's own kernels.

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, NamedTuple

import numpy
import torch
import triton
import triton.language as tl

from pydelta.core.interpreter import interpreted
from pydelta.core.lists import CHUNK as _CHUNK
from pydelta.core.lists import LANES as _LANES
from pydelta.core.lists import chunks

CHUNK = tl.constexpr(_CHUNK)
LANES = tl.constexpr(_LANES)
STAGES = tl.constexpr(_LANES.bit_length() - 1)
WARPS = 4

Tensors = Sequence[torch.Tensor]


class Table(NamedTuple):
    """What a launch is told, all int64 on the device.

    ``chunks``: (tensor, number in it) of each; ``addresses``: one row per list; ``first``: of each tensor the
    first chunk, and behind the last tensor their number.
    """

    chunks: torch.Tensor
    addresses: torch.Tensor
    numels: torch.Tensor
    first: torch.Tensor
    count: int
    options: dict[str, Any]


def table_of(*lists: Tensors) -> Table:
    """One copy to the device, out of pinned memory: the host does not wait for it."""
    numels = [x.numel() for x in lists[0]]
    places = [(t, start // _CHUNK) for t, start in chunks(numels)]
    addresses = [x.data_ptr() for xs in lists for x in xs]
    firsts, total = [0], 0
    for numel in numels:
        firsts.append(total := total + -(-numel // _CHUNK))
    parts = [[i for place in places for i in place], addresses, numels, firsts]
    rows = [part + [0] * (len(part) % 2) for part in parts]  # each begins at a multiple of 16 bytes
    device = lists[0][0].device
    flat = [i for row in rows for i in row]
    host = torch.tensor(flat, dtype=torch.int64, pin_memory=device.type == "cuda")
    views = host.to(device, non_blocking=True).split([len(row) for row in rows])
    options = {
        "ALIGNED": all(address % 16 == 0 for address in addresses),
        "EVEN": all(numel % 16 == 0 for numel in numels),
        "INTERPRETED": interpreted(),
        "num_warps": WARPS,
        "enable_fp_fusion": False,
    }
    return Table(*views, len(places), options)


def launching(x: torch.Tensor) -> AbstractContextManager[Any]:
    """On the device of ``x``. Triton's interpreter computes with numpy, which would warn of inf - inf."""
    stack = ExitStack()
    stack.enter_context(torch.cuda.device_of(x))
    stack.enter_context(numpy.errstate(all="ignore"))
    return stack


@triton.jit
def place(chunks, numels, EVEN: tl.constexpr):
    """This program's tensor, the chunk's first element, and how many elements there are from it on."""
    tensor, start = tl.load(chunks + 2 * tl.program_id(0)), tl.load(chunks + 2 * tl.program_id(0) + 1) * CHUNK
    numel = tl.load(numels + tensor)
    if EVEN:
        numel = tl.multiple_of(numel, 16)
    return tensor, start, numel - start


@triton.jit
def pointer(addresses, row, tensors, tensor, start, like, ALIGNED: tl.constexpr):
    """Where the chunk begins in the tensor of list ``row``; its elements are like those of ``like``."""
    found = tl.load(addresses + row * tensors + tensor).to(like.dtype)
    if ALIGNED:
        found = tl.multiple_of(found, 16)
    return found + start


@triton.jit
def halve(lanes):
    """The sum of the lanes: lane l takes lane l + 512, then l + 256, and so on."""
    for stage in tl.static_range(STAGES):
        lanes = tl.sum(tl.reshape(lanes, (2, LANES >> (stage + 1))), 0)
    return tl.sum(lanes, 0)


@triton.jit
def sum_parts(sums, partial, first):
    """A tensor's sum from its chunks'."""
    start, end = tl.load(first + tl.program_id(0)), tl.load(first + tl.program_id(0) + 1)
    lanes = tl.zeros((LANES,), tl.float64)
    for i in range(start, end, LANES):
        at = i + tl.arange(0, LANES)
        lanes += tl.load(partial + at, mask=at < end, other=0.0)
    tl.store(sums + tl.program_id(0), halve(lanes))


def sum_chunks(sums: torch.Tensor, partial: torch.Tensor, table: Table) -> None:
    with launching(sums):
        sum_parts[(sums.numel(),)](sums, partial, table.first, num_warps=WARPS, enable_fp_fusion=False)
