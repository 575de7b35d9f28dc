"""Counter-based random numbers: every value is a pure function of (seed, stream, index).

The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as
1, 2, 3", SC 2011). This module is the contract in its slow and obvious form; the kernels of every
backend give the same bits. ``docs/numerics.md`` has it in words.
"""

from __future__ import annotations

import dataclasses
import hashlib

import torch

__all__ = ["Key", "key", "matrix_draw", "philox4x32", "shuffle", "sign_bits", "u32"]

_MASK32 = 0xFFFFFFFF
_MASK64 = 0xFFFFFFFFFFFFFFFF
_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85

OUTER_SIGNS = 1 << 40
"""``rotate``'s outer diagonal D takes its signs from this index on, the inner D' from 0."""

SECOND_MATRIX = 1 << 63
"""VeRA's A takes its draws from 0 on, its B from here on."""


@dataclasses.dataclass(frozen=True)
class Key:
    """One random stream.

    Attributes:
        seed: unsigned 64-bit integer, the user's seed.
        stream: unsigned 64-bit integer, what the numbers are for; see :func:`key`.
    """

    seed: int
    stream: int = 0

    def __post_init__(self) -> None:
        for name in ("seed", "stream"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"[Key] {name} must be an int, got {type(value).__name__}")
            if not 0 <= value <= _MASK64:
                raise ValueError(f"[Key] {name} must lie in [0, 2**64), got {value}")


def key(seed: int, *names: str) -> Key:
    """The stream that belongs to ``names`` under ``seed``, e.g. ``key(7, "signs", model, tensor)``.

    The stream is the first 8 bytes, little-endian, of SHA-256 over the names' UTF-8 bytes joined by
    a zero byte; no names give stream 0. Python's salted ``hash`` plays no part, so the same names
    give the same stream in every process.

    Raises:
        TypeError: the seed is not an int or a name is not a str.
        ValueError: the seed is outside [0, 2**64), or a name holds a zero byte.
    """
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"[key] names must be str, got {type(name).__name__}")
        if "\0" in name:
            raise ValueError(f"[key] names must not hold a zero byte, got {name!r}")
    if not names:
        return Key(seed)
    digest = hashlib.sha256(b"\0".join(name.encode() for name in names)).digest()
    return Key(seed, int.from_bytes(digest[:8], "little"))


def philox4x32(counter: torch.Tensor, seed: int) -> torch.Tensor:
    """Ten rounds of Philox4x32 over int64 tensors that hold unsigned 32-bit words.

    Args:
        counter: (..., 4) int64, each value in [0, 2**32).
        seed: unsigned 64-bit integer; its halves are the two key words.

    Returns:
        (..., 4) int64, the four output words.
    """
    c0, c1, c2, c3 = counter.unbind(-1)
    k0, k1 = seed & _MASK32, seed >> 32
    for _ in range(10):
        # A wrapped signed product has the bits of the unsigned one: mask after the shift.
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _MASK32) ^ c1 ^ k0,
            p1 & _MASK32,
            ((p0 >> 32) & _MASK32) ^ c3 ^ k1,
            p0 & _MASK32,
        )
        k0, k1 = (k0 + _W0) & _MASK32, (k1 + _W1) & _MASK32
    return torch.stack((c0, c1, c2, c3), dim=-1)


def u32(key: Key, start: int, count: int, device: torch.device | None = None) -> torch.Tensor:
    """Draws ``start .. start + count - 1`` of a stream.

    Draw i is word i mod 4 of the block i div 4, whose counter is (block low, block high, stream
    low, stream high).

    Returns:
        (count,) int64, each value in [0, 2**32).
    """
    first, last = start // 4, (start + count + 3) // 4
    block = torch.arange(first, last, dtype=torch.int64, device=device)
    low, high = block & _MASK32, (block >> 32) & _MASK32
    counter = torch.stack(
        (
            low,
            high,
            torch.full_like(low, key.stream & _MASK32),
            torch.full_like(low, key.stream >> 32),
        ),
        dim=-1,
    )
    return philox4x32(counter, key.seed).flatten()[start - 4 * first :][:count]


def matrix_draw(which: str, row: int, column: int) -> int:
    """The draw of one element of VeRA's "A" or "B"; rows are 2**32 apart, so that no shape plays a part."""
    return (SECOND_MATRIX if which == "B" else 0) + (row << 32) + column


def sign_bits(key: Key, start: int, count: int, device: torch.device | None = None) -> torch.Tensor:
    """Signs ``start .. start + count - 1`` of a stream: (count,) bool, True means minus.

    Sign i is bit (i mod 32) of word (i mod 128) div 32 of block i div 128, that is of draw i div 32.
    """
    first, last = start // 32, (start + count + 31) // 32
    words = u32(key, first, last - first, device)
    shifts = torch.arange(32, dtype=torch.int64, device=device)
    bits = (words[:, None] >> shifts) & 1
    return bits.flatten()[start - 32 * first :][:count].bool()


def shuffle(key: Key, n: int) -> list[int]:
    """A random permutation of ``range(n)``: Fisher-Yates from the top, j = floor(u32 (i + 1) / 2**32).

    Position i of the result holds the item that was drawn to i; draw n - 1 - i decides it.
    """
    slots = list(range(n))
    draws = u32(key, 0, max(n - 1, 0)).tolist()
    for draw, i in zip(draws, range(n - 1, 0, -1), strict=True):
        j = draw * (i + 1) >> 32
        slots[i], slots[j] = slots[j], slots[i]
    return slots
