"""The contract once more, without torch: Philox in Python's integers, transforms as matrix products."""

import functools
import math

import numpy as np
import scipy.linalg

OUTER_SIGNS = 2**40


def philox4x32(counter, key):
    """Philox4x32-10 of four counter words and two key words."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 % 2**32, (p0 >> 32) ^ c3 ^ k1, p0 % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c0, c1, c2, c3


@functools.lru_cache
def _block(key, block):
    counter = block % 2**32, block >> 32, key.stream % 2**32, key.stream >> 32
    return philox4x32(counter, (key.seed % 2**32, key.seed >> 32))


def u32(key, i):
    """Draw ``i``: word i mod 4 of block i div 4."""
    return _block(key, i // 4)[i % 4]


@functools.cache
def signs(key, start, count):
    """Signs ``start .. start + count - 1``: bit i mod 32 of draw i div 32; 1 means minus."""
    values = [1 - 2 * (u32(key, i // 32) >> i % 32 & 1) for i in range(start, start + count)]
    return np.array(values, dtype=np.int8)


def default_block(n):
    return math.gcd(n, 32768) if n else 1


def hadamard(x, block=None, scale=None):
    """scale * (I kron H) x along the last axis, in the precision of ``x``."""
    block = default_block(x.shape[-1]) if block is None else block
    scale = 1 / np.sqrt(x.dtype.type(block)) if scale is None else x.dtype.type(scale)
    matrix = scipy.linalg.hadamard(block).astype(x.dtype)
    return (x.reshape(-1, block) @ matrix * scale).reshape(x.shape)


def hadamard_row(j, n):
    """The first n entries of row j of the Sylvester matrix: entry i is -1 to the bits that i and j share."""
    shared = np.arange(n) & j
    for shift in (16, 8, 4, 2, 1):
        shared ^= shared >> shift
    return 1 - 2 * (shared & 1)


def rotate(x, key, block=None, inverse=False):
    """D H D' x along the last axis; inverse D' H D x."""
    inner, outer = (signs(key, start, x.shape[-1]) for start in (0, OUTER_SIGNS))
    first, last = (outer, inner) if inverse else (inner, outer)
    return last * hadamard(first * x, block)


def transform(x, key, name, axis, inverse=False):
    """T x or T^-1 x along ``axis``."""
    if name == "none":
        return x
    y = np.moveaxis(x, axis, -1)
    y = y * signs(key, 0, y.shape[-1]) if name == "sign" else rotate(y, key, inverse=inverse)
    return np.moveaxis(y, -1, axis)


def superpose(base, tuned, keys, weights=None, name="sign", axis=-1):
    weights = [1.0] * len(tuned) if weights is None else weights
    terms = zip(tuned, keys, weights, strict=True)
    return sum(transform(weight * (theta - base), key, name, axis) for theta, key, weight in terms)


def retrieve(base, superposed, key, lam=1.0, name="sign", axis=-1):
    return base + lam * transform(superposed, key, name, axis, inverse=True)
