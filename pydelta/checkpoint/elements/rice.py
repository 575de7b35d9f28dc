"""The places of stored elements: Golomb-Rice codes of the gaps between them.

S. W. Golomb, "Run-length encodings" (1966); R. F. Rice, "Some practical universal noiseless coding
techniques" (1979). A gap g, the number of elements left out before one, is coded as its ``r`` low bits and
``g >> r`` in unary, that many zeros and a one. The low bits of all gaps come first; then, from a new byte on,
all that is unary; then zeros up to a multiple of 8 bytes. Bit i of a stream is bit i mod 8 of byte i div 8.
With ``r = 0`` the stream is a bitmap.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]


def encode(mask: Mask) -> tuple[int, Bytes]:
    """The parameter with the shortest code of the places where ``mask`` is true, and that code.

    Args:
        mask: (N,) bool, true somewhere.
    """
    count = int(np.count_nonzero(mask))
    if 2 * count >= mask.size:
        return 0, _padded(np.packbits(mask[: mask.size - int(mask[::-1].argmax())], bitorder="little"))
    gaps = np.diff(np.flatnonzero(mask), prepend=-1) - 1
    r = _parameter(gaps, mask.size)
    ones = np.cumsum((gaps >> r) + 1) - 1
    unary = np.zeros(int(ones[-1]) + 1, dtype=np.bool_)
    unary[ones] = True
    low = np.empty((count, r), dtype=np.bool_)
    for bit in range(r):
        low[:, bit] = gaps >> bit & 1
    parts = [np.packbits(bits, axis=None, bitorder="little") for bits in (low, unary)]
    return r, _padded(np.concatenate(parts))


def decode(code: Bytes, r: int, count: int, size: int) -> Mask:
    """The mask of an untrusted code.

    Args:
        code: (bytes,) uint8.
        r: the parameter.
        count: the number of places.
        size: N, the number of elements they lie in.

    Returns:
        (N,) bool with ``count`` true.

    Raises:
        ValueError: the code is not sound, or not of these numbers.
    """
    # The gaps that a shortest code has: this also keeps the sums below far from 2**63.
    if not 1 <= count <= size or r < 0 or count > 2 * size >> r:
        raise ValueError(f"{count} places among {size} have no code with parameter {r}")
    split = (count * r + 7) // 8
    if code.size - split > ((size >> r) + count) // 8 + 8:
        raise ValueError(f"the code takes {code.size} bytes, more than {count} places among {size} can")
    unary = np.unpackbits(code[split:], bitorder="little")
    ones = int(np.count_nonzero(unary))
    if ones != count:
        raise ValueError(f"the code has {ones} places, but {count} values are there")
    last = unary.size - 1 - int(unary[::-1].argmax())
    if code.size != _rounded(split + last // 8 + 1):
        raise ValueError(f"the code must take {_rounded(split + last // 8 + 1)} bytes, got {code.size}")
    if r == 0:
        places = None
        end = last
    else:
        places = _places(unary, code[:split], r, count)
        end = int(places[-1])
    if end >= size:
        raise ValueError(f"a place must lie below {size}, got {end}")
    mask = np.zeros(size, dtype=np.bool_)
    if places is None:
        mask[: end + 1] = unary[: end + 1]
    else:
        mask[places] = True
    return mask


def _places(unary: Bytes, low: Bytes, r: int, count: int) -> Places:
    gaps = (np.diff(np.flatnonzero(unary), prepend=-1) - 1) << r
    bits = np.unpackbits(low, count=count * r, bitorder="little").reshape(count, r)
    for bit in range(r):
        gaps |= bits[:, bit].astype(np.int64) << bit
    return np.cumsum(gaps + 1) - 1


def _parameter(gaps: Places, size: int) -> int:
    """The parameter with the shortest code, the smallest of equals.

    From r to r + 1 the code grows by one bit a gap and shrinks by at most sum(g >> r) <= (N - count) >> r.
    """
    best, shortest, r = 0, int(gaps.sum()), 0
    while gaps.size << r < size - gaps.size:
        r += 1
        bits = gaps.size * r + int((gaps >> r).sum())
        if bits < shortest:
            best, shortest = r, bits
    return best


def _padded(code: Bytes) -> Bytes:
    return np.pad(code, (0, _rounded(code.size) - code.size))


def _rounded(size: int) -> int:
    return -(-size // 8) * 8
