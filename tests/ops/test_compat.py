"""fast_hadamard_transform's function: zero padding to a power of two, on every device and in every dtype."""

import numpy as np
import oracles
import pytest
import scipy.linalg
import torch
from tensors import FLOATS, integers, normal
from tolerance import assert_accurate, exact

from pydelta.compat import hadamard_transform

WIDTHS = [1, 2, 3, 5, 64, 96, 100, 127, 129, 768, 1000]


def oracle(x, scale=1.0):
    n = x.shape[-1]
    size = 1 << (n - 1).bit_length()
    return scale * (x @ scipy.linalg.hadamard(size).astype(x.dtype)[:n, :n])


def depth_and_magnitude(x, scale):
    """The butterflies run over the padded row, whose outputs all have its norm."""
    n = x.shape[-1]
    log = (n - 1).bit_length()
    return log + 1, abs(scale) * float(np.sqrt((x**2).sum(-1).mean()))


@pytest.mark.parametrize("n", WIDTHS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_padded_transform(dtype, n):
    x = normal(4096 // n, n, dtype=dtype)
    for scale in (1.0, n**-0.5, -0.3):
        y = hadamard_transform(x, scale=scale)
        assert y.dtype is dtype
        depth, magnitude = depth_and_magnitude(exact(x), scale)
        assert_accurate(y, oracle(exact(x), exact(x).dtype.type(scale)), depth, magnitude)


@pytest.mark.parametrize("n", WIDTHS)
def test_integers_are_exact(n):
    x = integers(3, n)
    assert torch.equal(hadamard_transform(x).double(), torch.from_numpy(oracle(x.double().numpy())))


@pytest.mark.parametrize("shape", [(5,), (1, 5), (2, 3, 5), (2, 1, 3, 6), (0, 5)])
def test_leading_shapes(shape):
    x = integers(*shape)
    y = hadamard_transform(x)
    assert y.shape == shape
    assert torch.equal(y.double(), torch.from_numpy(oracle(x.double().numpy())))


def test_a_row_longer_than_any_default_block():
    """60000 pads to 65536: one block, not two."""
    x = torch.zeros(60000)
    x[40001] = 1
    row = torch.from_numpy(oracles.hadamard_row(40001, 60000))
    assert torch.equal(hadamard_transform(x), row.float())


def test_non_contiguous_input():
    x = integers(6, 10).T
    assert torch.equal(hadamard_transform(x), hadamard_transform(x.contiguous()))


@pytest.mark.parametrize("n", [1, 3, 4, 6])
def test_gradient(n):
    x = normal(2, n, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: hadamard_transform(x, scale=0.7), x)
    assert torch.autograd.gradgradcheck(lambda x: hadamard_transform(x, scale=0.7), x)


def test_gradient_is_the_transform_of_the_gradient():
    """The padded matrix is a corner of a symmetric one, so it is symmetric itself."""
    x, grad = integers(4, 100).requires_grad_(), integers(4, 100, seed=1)
    hadamard_transform(x).backward(grad)
    assert torch.equal(x.grad, hadamard_transform(grad))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradient_of_half_precision(dtype):
    x = integers(3, 12, dtype=dtype).requires_grad_()
    hadamard_transform(x).sum().backward()
    ones = oracle(np.ones((3, 12)))
    assert x.grad.dtype is dtype
    assert torch.equal(x.grad.double(), torch.from_numpy(ones))


def test_compiles_without_graph_breaks():
    x = normal(3, 100)
    compiled = torch.compile(lambda x: hadamard_transform(x, scale=0.5), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), hadamard_transform(x, scale=0.5))
