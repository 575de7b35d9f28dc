"""VeRA's products over matrices that are made tile by tile or kept for all layers.

Entries of the matrices lie in [-1, 1) and are of the input's dtype; the bounds sqrt(6 / fan_in) go into the
vectors, so that one matrix serves layers of every width.
"""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable, Iterator
from typing import Protocol

import torch

from pydelta.core.check import compute_dtype
from pydelta.core.random import Key

Make = Callable[..., None]
"""A backend's ``vera_matrix``: writes a part of "A" or "B" into ``out``."""

Times = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, bool], None]
"""times(x, w, out, add): x w^T into ``out``, or added to what is there. All of one dtype, any strides."""

_Place = tuple[Key, str, torch.dtype, torch.device]
_Three = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

TILE = {"cpu": 1 << 18}
"""Elements made at once: a second-level cache holds them on the CPU."""
_LARGE_TILE = 1 << 24
"""The same on a GPU: it bounds memory, and few launches make a matrix."""

_KEPT: dict[_Place, torch.Tensor] = {}
_LOCK = threading.Lock()


def kept_bytes() -> int:
    """Bytes of the matrices that this process keeps."""
    with _LOCK:
        return sum(matrix.nbytes for matrix in _KEPT.values())


def forget() -> None:
    """Drops the matrices that this process keeps; they are made anew when they are next needed."""
    with _LOCK:
        _KEPT.clear()


def bound(fan_in: int) -> float:
    return math.sqrt(6 / max(fan_in, 1))


def rows_at_once(device: torch.device, columns: int) -> int:
    """How many rows a tile holds."""
    return max(1, TILE.get(device.type, _LARGE_TILE) // max(columns, 1))


def blas(x: torch.Tensor, w: torch.Tensor, out: torch.Tensor, add: bool) -> None:
    """The product by torch's BLAS."""
    if add:
        out.addmm_(x, w.mT)
    else:
        torch.mm(x, w.mT, out=out)


@dataclasses.dataclass(frozen=True)
class Backend:
    """What a backend brings: the kernel that makes the matrices, and one for products."""

    make: Make
    times: Times = blas

    def product(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """x w^T, of x's dtype."""
        out = torch.empty((len(x), len(w)), dtype=x.dtype, device=x.device)
        self.times(x, w, out, False)
        return out


class Parts(Protocol):
    """Where the entries of A and B come from."""

    def part(self, which: str, shape: tuple[int, int], start: tuple[int, int]) -> torch.Tensor: ...


class Matrices:
    """A and B of a key, before their bounds: kept, one for a dtype and device, or made on demand."""

    def __init__(self, make: Make, key: Key, dtype: torch.dtype, device: torch.device, cached: bool) -> None:
        self.make, self.key, self.dtype, self.device, self.cached = make, key, dtype, device, cached

    def part(
        self, which: str, shape: tuple[int, int], start: tuple[int, int], out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The rectangle of a shape that starts at (row, column); made in ``out`` where it is not kept."""
        rows, columns = start[0] + shape[0], start[1] + shape[1]
        if self.cached:
            return self._kept(which, rows, columns)[start[0] : rows, start[1] : columns]
        if out is None:
            out = torch.empty(shape, dtype=self.dtype, device=self.device)
        self.make(self.key, which, shape, start=start, dtype=self.dtype, device=self.device, out=out)
        return out

    def tiles(self, which: str, rows: int, columns: int) -> Iterator[tuple[slice, torch.Tensor]]:
        """Blocks of rows, and which rows they are: one block where the matrix is kept."""
        step = rows if self.cached else min(rows, rows_at_once(self.device, columns))
        memory = None
        if not self.cached:
            memory = torch.empty((step, columns), dtype=self.dtype, device=self.device)
        for first in range(0, rows, max(step, 1)):
            count = min(step, rows - first)
            out = None if memory is None else memory[:count]
            yield slice(first, first + count), self.part(which, (count, columns), (first, 0), out)

    def _kept(self, which: str, rows: int, columns: int) -> torch.Tensor:
        """The kept matrix, made larger where it is too small: its elements do not depend on its shape."""
        entry = self.key, which, self.dtype, self.device
        with _LOCK:
            matrix = _KEPT.get(entry)
            if matrix is None or matrix.shape[0] < rows or matrix.shape[1] < columns:
                old = matrix.shape if matrix is not None else (0, 0)
                shape = max(rows, old[0]), max(columns, old[1])
                with torch.inference_mode(False):
                    matrix = torch.empty(shape, dtype=self.dtype, device=self.device)
                self.make(
                    self.key, which, shape, start=(0, 0), dtype=self.dtype, device=self.device, out=matrix
                )
                _KEPT[entry] = matrix
        return matrix


def forward(
    backend: Backend,
    x: torch.Tensor,
    weight: torch.Tensor | None,
    d: torch.Tensor,
    b: torch.Tensor,
    key: Key,
    *,
    bias: torch.Tensor | None,
    adapter: torch.Tensor | None,
    cached: bool,
    keep: bool,
    out: _Three,
) -> None:
    """y, the product with A and, if ``keep``, that with B, all of x's dtype, into ``out``."""
    m, n, rank, index = b.shape[-1], x.shape[-1], d.shape[-1], _index(adapter)
    y, t, kept = (part.view(-1, size) for part, size in zip(out, (m, rank, m), strict=True))
    matrices, rows = Matrices(backend.make, key, x.dtype, x.device, cached), x.reshape(-1, n)
    base_layer(backend.times, rows, weight, bias, y)
    for at, tile in matrices.tiles("A", rank, n):
        backend.times(rows, tile, t[:, at], False)
    inner = _scaled(t, _rows(d, bound(n), x.dtype, index))
    outer = b.to(compute_dtype(x.dtype)) * bound(rank)
    for at, tile in matrices.tiles("B", m, rank):
        if index is None and not keep and len(inner) >= rank and y.dtype is outer.dtype:
            # Where rows are many it is less work to scale the tile than the product.
            backend.times(inner, tile * outer[at, None], y[:, at], True)
        else:
            scale = outer[at] if index is None else outer[:, at][index]
            part = kept[:, at] if keep else inner.new_empty((len(inner), len(tile)))
            backend.times(inner, tile, part, False)
            y[:, at].addcmul_(part, scale)


def base_layer(
    times: Times,
    rows: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    out: torch.Tensor,
) -> None:
    """W x + bias into ``out``; zeros without a weight."""
    if weight is None:
        out.zero_()
        return
    if bias is not None:
        out.copy_(bias)
    times(rows, weight, out, bias is not None)


def backward(
    backend: Backend,
    grad: torch.Tensor,
    products: tuple[torch.Tensor, torch.Tensor],
    weight: torch.Tensor | None,
    d: torch.Tensor,
    b: torch.Tensor,
    key: Key,
    *,
    n: int,
    adapter: torch.Tensor | None,
    cached: bool,
    needs: tuple[bool, bool, bool],
    out: _Three,
) -> None:
    """The gradients by x, d and b that are needed, into ``out``; ``products`` are forward's."""
    m, rank, compute = b.shape[-1], d.shape[-1], compute_dtype(grad.dtype)
    g, t, kept = grad.reshape(-1, m), products[0].view(-1, rank), products[1].view(-1, m)
    index = _index(adapter)
    matrices = Matrices(backend.make, key, grad.dtype, grad.device, cached)
    chosen = _chosen(index, d, compute)
    d_rows = _rows(d, bound(n), grad.dtype, index)
    outer = b.to(compute) * bound(rank)
    inner = _scaled(t, d_rows)
    back = torch.zeros((len(g), rank), dtype=compute, device=g.device)
    for at, tile in matrices.tiles("B", m, rank):
        if needs[2]:
            part = kept[:, at] if len(kept) else backend.product(inner, tile)
            out[2][..., at] = (_summed(g[:, at].to(compute) * part, chosen) * bound(rank)).view_as(
                out[2][..., at]
            )
        if needs[0] or needs[1]:
            scale = outer[..., at] if index is None else outer[..., at][index]
            back += backend.product(_scaled(g[:, at], scale), tile.mT)
    if needs[1]:
        out[1].copy_((_summed(back * t, chosen) * bound(n)).view_as(out[1]))
    if needs[0]:
        grad_x = out[0].view(-1, n)
        base_layer(backend.times, g, None if weight is None else weight.mT, None, grad_x)
        inward = (back * d_rows).to(g.dtype)
        for at, tile in matrices.tiles("A", rank, n):
            backend.times(inward[:, at], tile.mT, grad_x, True)


def differentiated_twice(ctx: object, *grads: torch.Tensor) -> tuple[None, ...]:
    """The gradient of ``backward``, which there is none of."""
    raise RuntimeError("[vera_linear] is differentiable once, got a gradient of its gradient")


def merge(
    backend: Backend,
    weight: torch.Tensor,
    d: torch.Tensor,
    b: torch.Tensor,
    key: Key,
    *,
    out: torch.Tensor,
    cached: bool = False,
) -> None:
    """W + diag(b) B diag(d) A into ``out``, which may be the weight itself."""
    matrices = Matrices(backend.make, key, weight.dtype, weight.device, cached)
    merge_blocks(matrices, weight, d * bound(weight.shape[1]), b * bound(len(d)), out)


def merge_blocks(
    matrices: Parts, weight: torch.Tensor, d: torch.Tensor, b: torch.Tensor, out: torch.Tensor
) -> None:
    """Block by block, so that nothing of the weight's size is made: strips of A, and in each blocks of B.

    ``d`` and ``b`` hold the bounds already.
    """
    (m, n), rank, compute = weight.shape, len(d), compute_dtype(weight.dtype)
    d, b = d.to(compute)[:, None], b.to(compute)[:, None]
    width = min(n, max(256, 4 * TILE["cpu"] // max(rank, 1)))
    # Low blocks would pack the strip over and over; an eighth of the rows is still little memory.
    height = min(m, max(-(-m // 8), rows_at_once(weight.device, max(rank, width))))
    for left in range(0, n, max(width, 1)):
        columns = slice(left, min(left + width, n))
        strip = d * matrices.part("A", (rank, columns.stop - left), (0, left)).to(compute)
        for top in range(0, m, max(height, 1)):
            rows = slice(top, min(top + height, m))
            block = b[rows] * matrices.part("B", (rows.stop - top, rank), (top, 0)).to(compute)
            here, there = weight[rows, columns], out[rows, columns]
            if weight.dtype is compute:
                torch.addmm(here, block, strip, out=there)
            else:
                there.copy_(torch.addmm(here.to(compute), block, strip))


def _index(adapter: torch.Tensor | None) -> torch.Tensor | None:
    return None if adapter is None else adapter.flatten()


def _rows(
    vector: torch.Tensor, factor: float, dtype: torch.dtype, index: torch.Tensor | None
) -> torch.Tensor:
    """A vector times its matrix's bound, in the compute dtype; one for each row where adapters are mixed."""
    scaled = vector.to(compute_dtype(dtype)) * factor
    return scaled if index is None else scaled[index]


def _scaled(x: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    return (x * by).to(x.dtype)


def _chosen(index: torch.Tensor | None, d: torch.Tensor, dtype: torch.dtype) -> torch.Tensor | None:
    """(adapters, rows): 1 where a row is of an adapter. A product with it sums in a fixed order."""
    if index is None:
        return None
    return (index == torch.arange(len(d), device=index.device)[:, None]).to(dtype)


def _summed(products: torch.Tensor, chosen: torch.Tensor | None) -> torch.Tensor:
    """Over the rows, or over those of each adapter."""
    return products.sum(0) if chosen is None else chosen @ products
