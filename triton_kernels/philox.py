"""Philox4x32-10 in Triton, and the random signs that it gives: the same bits as ``pydelta.random``."""
# ruff: noqa: N803, N806 - compile-time constants are capitals, as in Triton's own kernels.

from __future__ import annotations

import triton
import triton.language as tl

from pydelta.core.random import Key

Packed = tuple[int, int, int, int]


def pack(key: Key) -> Packed:
    """Seed low and high, stream low and high, as kernels take them.

    Triton compiles a kernel anew for a 1, for multiples of 16 and for integers of another size. Odd numbers
    beyond 2**40 that hold one 32-bit word each keep all keys in one kernel.
    """
    a, b, c, d = (
        1 << 40 | (half & 0xFFFFFFFF) << 1 | 1
        for half in (key.seed, key.seed >> 32, key.stream, key.stream >> 32)
    )
    return a, b, c, d


@triton.jit
def unpack(low, high):
    """The 64-bit integer that two packed words hold."""
    return (low >> 1).to(tl.uint32).to(tl.int64) | ((high >> 1).to(tl.uint32).to(tl.int64) << 32)


@triton.jit
def philox4x32(seed, stream, block):
    """The four words of the blocks ``block``; all arguments are 64-bit integers."""
    k0, k1 = seed.to(tl.uint32), (seed >> 32).to(tl.uint32)
    c0, c1 = block.to(tl.uint32), (block >> 32).to(tl.uint32)
    c2, c3 = tl.zeros_like(c0) + stream.to(tl.uint32), tl.zeros_like(c0) + (stream >> 32).to(tl.uint32)
    for _ in tl.static_range(10):
        p0, p1 = c0.to(tl.uint64) * 0xD2511F53, c2.to(tl.uint64) * 0xCD9E8D57
        c0, c1 = (p1 >> 32).to(tl.uint32) ^ c1 ^ k0, p1.to(tl.uint32)
        c2, c3 = (p0 >> 32).to(tl.uint32) ^ c3 ^ k1, p0.to(tl.uint32)
        k0, k1 = k0 + 0x9E3779B9, k1 + 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def sign_mask(seed, stream, block, COUNT: tl.constexpr):
    """(COUNT,) uint32: the signs from 128 ``block`` on as sign bits of fp32, a power of two of them.

    One block gives 128 signs: the words are made once and then spread over their bits.
    """
    BLOCKS: tl.constexpr = (COUNT + 127) // 128
    WIDTH: tl.constexpr = COUNT if COUNT < 32 else 32
    w0, w1, w2, w3 = philox4x32(seed, stream, block + tl.arange(0, BLOCKS))
    if COUNT <= 32:
        words = w0
    elif COUNT == 64:
        words = tl.reshape(tl.join(w0, w1), (2,))
    else:
        words = tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), (4 * BLOCKS,))
    spread = words[:, None] << (31 - tl.arange(0, WIDTH)).to(tl.uint32)[None, :]
    return tl.reshape(spread & 0x80000000, (COUNT,))
