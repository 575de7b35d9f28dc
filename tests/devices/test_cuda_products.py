"""The CUDA kernel of products with low-bit codes on the CPU, thread by thread."""

import numpy
import pytest
import torch
from tensors import KEYS, SINGLES, assert_nothing_beside, normal, poisoned
from tolerance import assert_product

from pydelta import reference
from pydelta.core.quantized import BITS

MODELS = torch.arange(11) * 3 % 4


def check(kernels, dtype, n, m, *, bits, group="row", transform="sign"):
    """Eleven rows, of four models, are two launches."""
    x, weight = normal(11, n, dtype=dtype), torch.zeros(m, n, dtype=dtype)
    q = reference.quantize(normal(m, n, seed=1), bits=bits, group=group)
    options = {"lams": [1.0, 0.5, 2.0, -1.0], "bias": None, "transform": transform}
    out = poisoned(11, m, dtype=dtype, layout="unaligned")
    kernels.superposed_linear(x, weight, q, KEYS[:4], MODELS, out=out, **options)
    wide = x.double(), weight.double(), q, KEYS[:4], MODELS
    truth = reference.superposed_linear(*wide, **options).numpy()
    assert_product(out, numpy.zeros_like(truth), truth, n)
    assert_nothing_beside(out)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", SINGLES)
def test_products(kernels, dtype, bits):
    """Two stages of columns; 37 outputs are two blocks, the last one ragged."""
    check(kernels, dtype, 1100, 37, bits=bits)
    check(kernels, dtype, 1100, 37, bits=bits, group=50)


@pytest.mark.parametrize("n", [1, 31, 100, 257])
@pytest.mark.parametrize("bits", BITS)
def test_products_of_widths(kernels, bits, n):
    check(kernels, torch.float32, n, 130, bits=bits, transform="none")
