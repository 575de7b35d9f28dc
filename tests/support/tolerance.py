"""How far a result may lie from the truth: written once, derived from dtype and depth.

Model. An operation returns its exact result times (1 + d), |d| <= u, u = 2^-24 in fp32 (2^-53 in fp64). The d
are taken as independent, of mean zero and uniform, which is what round-to-nearest gives on random data; the
inputs are exact. ``depth`` counts the operations on the way from input to output. For a Hadamard block of
2^L it is L butterflies and the product with the scale.

Each operation adds an error u d times the value it rounded. A butterfly carries errors on as an orthogonal
matrix times sqrt(2), as it does the values themselves, so in units of the output every stage contributes an
error of variance at most u^2 magnitude^2 / 3, where ``magnitude`` is the root mean square of the largest
stage's values (by default that of the truth). One error is not random: the scale 1/sqrt(2^L) rounded to fp32
is off by the same factor (1 + d) everywhere, which adds u |truth|. Last, an output narrower than the
arithmetic is rounded once more: v |truth|, v = 2^-8 in bf16 and 2^-11 in fp16, or half the smallest
subnormal. Hence

  RMS      <= u magnitude sqrt(depth / 3) + u rms(truth) + v rms(truth) / sqrt(3)
  maximum  <= u magnitude sqrt(2 depth ln(2 N / p)) + u |truth| + v |truth|     for each element.

The maximum's first term is Hoeffding's bound for a sum of bounded, independent errors and the union bound
over N elements: it fails with probability p = 2^-40 at most.
The RMS is a mean over elements: it takes a thousand of them.
"""

import math

import numpy as np
import torch

UNIT = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
HALF_SUBNORMAL = {
    torch.float64: 0.0,
    torch.float32: 2.0**-150,
    torch.float16: 2.0**-25,
    torch.bfloat16: 2.0**-134,
}
FAILURE = 2.0**-40


def exact(x):
    """A tensor as numpy values that carry the truth: float64, and long double for float64."""
    values = x.detach().double().cpu().numpy()
    return values.astype(np.longdouble) if x.dtype is torch.float64 else values


def rms(values):
    return float(np.sqrt(np.mean(np.square(values))))


def assert_accurate(actual, truth, depth, magnitude=None):
    """Holds ``actual`` to the RMS and maximum bounds above."""
    assert actual.shape == truth.shape
    assert truth.size >= 1000
    narrow = actual.dtype in (torch.float16, torch.bfloat16)
    u = UNIT[torch.float64 if actual.dtype is torch.float64 else torch.float32]
    v = UNIT[actual.dtype] if narrow else 0.0
    error = np.abs(exact(actual) - truth)
    noise = u * (rms(truth) if magnitude is None else magnitude)

    assert rms(error) <= noise * math.sqrt(depth / 3) + (u + v / math.sqrt(3)) * rms(truth)
    sigmas = math.sqrt(2 * depth * math.log(2 * error.size / FAILURE))
    bound = noise * sigmas + (u + v) * np.abs(truth) + HALF_SUBNORMAL[actual.dtype]
    worst = int(np.argmax(error - bound))
    assert error.flat[worst] <= bound.flat[worst], f"element {worst}"


def assert_product(actual, base, delta, terms, operands=0):
    """Holds a sum of two matrix products, base + delta, to bounds of the same kind.

    Each is a sum of ``terms`` products, in an order that the backend chooses. On random data no partial sum
    is larger, in the root mean square, than the whole: 2 ``terms`` roundings of that magnitude. A 16-bit
    result is rounded three times, the parts and their sum; ``operands`` of the delta's factors are rounded to
    16 bits too, each an error v d times every product.
    """
    truth = base + delta
    assert actual.shape == truth.shape
    narrow = actual.dtype in (torch.float16, torch.bfloat16)
    u = UNIT[torch.float64 if actual.dtype is torch.float64 else torch.float32]
    v = UNIT[actual.dtype] if narrow else 0.0
    error, depth = np.abs(exact(actual) - truth), 2 * terms + 2
    noise = u * math.hypot(rms(base), rms(delta)) * math.sqrt(depth)
    noise = math.hypot(noise, v * rms(delta) * math.sqrt(operands))
    parts = np.abs(base) + np.abs(delta) + np.abs(truth)

    assert rms(error) <= noise / math.sqrt(3) + v / math.sqrt(3) * rms(parts) + u * rms(truth)
    bound = noise * math.sqrt(2 * math.log(2 * error.size / FAILURE)) + v * parts + u * np.abs(truth)
    worst = int(np.argmax(error - bound))
    assert error.flat[worst] <= bound.flat[worst], f"element {worst}"
