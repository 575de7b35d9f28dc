"""``pydelta.vera_matrix``: a part of one of VeRA's random matrices."""

from __future__ import annotations

import torch

from pydelta import _dispatch
from pydelta.core import check
from pydelta.core.random import Key
from pydelta.ops._library import define, key_of, to_int64

_MOST = 1 << 31
"""An element's draw is row 2^32 + column, and B's draws start at 2^63: more rows would run into them."""


def _empty(
    seed: int,
    stream: int,
    which: str,
    shape: list[int],
    start: list[int],
    dtype: torch.dtype,
    device: torch.device,
    backend: str,
) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device=device)


def _new(
    seed: int,
    stream: int,
    which: str,
    shape: list[int],
    start: list[int],
    dtype: torch.dtype,
    device: torch.device,
    backend: str,
) -> torch.Tensor:
    out = torch.empty(shape, dtype=dtype, device=device)
    kernel = _dispatch.kernel("vera_matrix", out, backend)
    rectangle = (shape[0], shape[1]), (start[0], start[1])
    kernel(key_of(seed, stream), which, rectangle[0], start=rectangle[1], dtype=dtype, device=device, out=out)
    return out


_operator = define(
    "vera_matrix",
    "int seed, int stream, str which, int[] shape, int[] start, ScalarType dtype, Device device, str backend",
    "Tensor",
    _new,
    _empty,
)


def vera_matrix(
    key: Key,
    which: str,
    shape: tuple[int, int],
    *,
    start: tuple[int, int] = (0, 0),
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """A rectangle of VeRA's "A" or "B" before the bound: uniform in [-1, 1), by key, row and column alone.

    VeRA's frozen matrices are ``sqrt(6 / in_features) * A`` of shape (rank, in_features) and
    ``sqrt(6 / rank) * B`` of shape (out_features, rank) (arXiv 2310.11454, section 3.3). Element (i, j) is
    2 u - 1 with u = (draw >> 8) 2**-24 of the draw i 2**32 + j of the key for A, 2**63 + i 2**32 + j for B:
    no shape plays a part. float32 and float64 hold it exactly, bfloat16 and float16 rounded once. Every
    backend gives the same bits.

    Args:
        key: the random stream; modules use ``pydelta.key(seed, "vera")``.
        which: "A" or "B".
        shape: rows and columns.
        start: the row and column of the rectangle's first element.
        dtype: float32, bfloat16, float16 or float64.
        device: where the result is made; default: the CPU.
        backend: "reference", "cpu", "cuda" or "triton" instead of the dispatcher's choice.

    Returns:
        A tensor of that shape, dtype and device.

    Raises:
        TypeError: ``key`` is no Key, a size is no int, or ``dtype`` is no real floating dtype.
        ValueError: ``which`` is neither "A" nor "B", or a size is negative or reaches beyond 2**31.
        RuntimeError: ``backend`` is not there.
    """
    key = check.key("vera_matrix", "key", key)
    which = check.choice("vera_matrix", "which", which, ("A", "B"))
    rows, columns = _sizes("shape", shape)
    top, left = _sizes("start", start)
    if rows + top > _MOST or columns + left > _MOST:
        raise ValueError(
            f"[vera_matrix] the rectangle must end at 2**31 at most, got {(rows + top, columns + left)}"
        )
    if dtype not in check.FLOATS:
        raise TypeError(f"[vera_matrix] dtype must be float32, bfloat16, float16 or float64, got {dtype!r}")
    target = torch.device("cpu" if device is None else device)
    seeds = to_int64(key.seed), to_int64(key.stream)
    entries: torch.Tensor = _operator(
        *seeds, which, [rows, columns], [top, left], dtype, target, check.backend("vera_matrix", backend)
    )
    return entries


def _sizes(name: str, value: object) -> tuple[int, int]:
    pair = check.sequence("vera_matrix", name, value)
    if len(pair) != 2:
        raise ValueError(f"[vera_matrix] {name} must be two integers, got {value!r}")
    return check.index("vera_matrix", name, pair[0]), check.index("vera_matrix", name, pair[1])
