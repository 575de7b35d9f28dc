"""Low-bit codes: the tables, the reference's bits, unbiasedness, and what each bit costs."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from tensors import (
    CODE_WIDTHS,
    FLOATS,
    HALVES,
    KEYS,
    against_reference,
    assert_same_bits,
    integers,
    laid_out,
    normal,
    poisoned,
    raises,
)

import pydelta
from pydelta import reference
from pydelta.core import levels
from pydelta.core.quantized import BITS, Quantized

pytestmark = pytest.mark.kernel_of("quantize")

EMPTY = [(0,), (0, 8), (8, 0), (3, 0, 5)]


def same(actual, truth):
    assert torch.equal(actual.codes.cpu(), truth.codes)
    assert_same_bits(actual.scales, truth.scales)
    assert (actual.bits, actual.group, actual.shape, actual.dtype) == (
        truth.bits,
        truth.group,
        truth.shape,
        truth.dtype,
    )


def on_cpu(q):
    return q.to("cpu")


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_levels_are_the_means_between_their_midpoints(bits):
    """Lloyd's condition: each level is E[X | X in its cell], for X ~ N(0, 1)."""
    table = np.array(levels.MAGNITUDES[bits])
    assert len(table) == 2 ** (bits - 1)
    edges = np.concatenate([[0], (table[1:] + table[:-1]) / 2, [np.inf]])
    mass = norm.sf(edges[:-1]) - norm.sf(edges[1:])
    means = (norm.pdf(edges[:-1]) - norm.pdf(edges[1:])) / mass
    np.testing.assert_allclose(means, table, rtol=2e-6)
    distortion = 1 - 2 * float(np.sum(mass * (2 * table * means - table**2)))
    assert distortion == pytest.approx(levels.DISTORTIONS[bits], rel=1e-5)
    assert np.array_equal(table.astype(np.float32).astype(np.float64), np.float32(table).astype(np.float64))


def test_the_distortion_of_a_sign():
    assert levels.DISTORTIONS[1] == pytest.approx(1 - 2 / math.pi, rel=1e-9)


@against_reference
@pytest.mark.parametrize("n", CODE_WIDTHS)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_bits_of_widths(backend, device, dtype, bits, n):
    x = normal(3, n, dtype=dtype)
    truth = reference.quantize(x, bits=bits)
    actual = pydelta.quantize(x.to(device), bits=bits, backend=backend)
    same(actual, truth)
    for out_dtype in FLOATS[:3]:
        values = pydelta.dequantize(actual, dtype=out_dtype, backend=backend)
        assert_same_bits(values, reference.dequantize(truth, dtype=out_dtype))


@against_reference
@pytest.mark.parametrize(
    "group", [*(pytest.param(size, marks=pytest.mark.large) for size in (1, 4)), 32, 60, 96, 480]
)
@pytest.mark.parametrize("bits", BITS)
def test_bits_of_groups(backend, device, bits, group):
    x = normal(5, 480) * torch.logspace(-3, 3, 480)
    truth = reference.quantize(x, bits=bits, group=group)
    actual = pydelta.quantize(x.to(device), bits=bits, group=group, backend=backend)
    same(actual, truth)
    assert truth.scales.shape == (5, 480 // group)
    assert_same_bits(pydelta.dequantize(actual, backend=backend), reference.dequantize(truth))


@against_reference
@pytest.mark.parametrize("shape", [(1,), (7,), (2, 3, 40), (5, 1), *EMPTY], ids=str)
@pytest.mark.parametrize("bits", BITS)
def test_bits_of_shapes(backend, device, bits, shape):
    x = normal(*shape, dtype=torch.bfloat16)
    truth = reference.quantize(x, bits=bits)
    actual = pydelta.quantize(x.to(device), bits=bits, backend=backend)
    same(actual, truth)
    values = pydelta.dequantize(actual, backend=backend)
    assert values.shape == shape
    assert_same_bits(values, reference.dequantize(truth))


@against_reference
@pytest.mark.large
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("shape", [(300, 4096), (3, 200_000)], ids=str)
def test_bits_of_many_rows_and_of_long_ones(backend, device, bits, shape):
    x = normal(*shape, dtype=torch.bfloat16)
    same(pydelta.quantize(x.to(device), bits=bits, backend=backend), reference.quantize(x, bits=bits))


@pytest.mark.parametrize("bits", BITS)
def test_zeros_and_values_that_need_no_rounding(backend, device, bits):
    """A row of zeros is zeros; a constant magnitude and a single column come back as they are."""
    x = torch.zeros(4, 24, device=device)
    x[1] = 3
    x[2] = -0.25
    x[3, ::2], x[3, 1::2] = 8, -8
    back = pydelta.dequantize(pydelta.quantize(x, bits=bits, backend=backend), backend=backend)
    torch.testing.assert_close(back, x, rtol=2.0**-22, atol=0)
    column = normal(9, 1).to(device)
    back = pydelta.dequantize(pydelta.quantize(column, bits=bits, backend=backend), backend=backend)
    torch.testing.assert_close(back, column, rtol=2.0**-22, atol=0)


def test_one_bit_by_hand(backend, device):
    """Code 1 means minus, little-endian; the scale is ||x||_2^2 / ||x||_1 = 60 / 20."""
    x = torch.tensor([[1.0, -1, 1, 1, -5, 5, 1, -1, 1, -1, -1, 1]], device=device)
    q = pydelta.quantize(x, bits=1, backend=backend)
    assert q.codes.tolist() == [[0b10010010, 0b0110]]
    assert q.scales.tolist() == [[3.0]]


def test_codes_of_two_bits_by_hand(backend, device):
    """The sign is the upper bit of a code, the level the lower: rms 1, threshold 0.98."""
    x = torch.tensor([[0.5, -0.5, 1.5, -1.5] * 2], device=device)
    x /= x.square().mean().sqrt()
    q = pydelta.quantize(x, bits=2, backend=backend)
    assert q.codes.tolist() == [[0b11011000] * 2]


def test_an_element_at_a_threshold_takes_the_smaller_level(backend, device):
    """Elements of rms 1: the middle of the two levels itself, and the next number above it."""
    table = torch.tensor(levels.MAGNITUDES[2])
    middle = (table[0] + table[1]) / 2
    x = torch.stack([middle, middle.nextafter(torch.tensor(2.0))]).repeat(32)
    rest = math.sqrt(2 - float(middle) ** 2)
    x = torch.cat([x, torch.full((64,), rest)]).to(device)[None]
    rms = x.double().square().mean().sqrt().float()
    assert float(rms) == 1.0
    q = pydelta.quantize(x, bits=2, backend=backend)
    codes = reference.quantize(x.cpu(), bits=2)
    same(q, codes)
    assert q.codes[0, :16].tolist() == [0b01000100] * 16


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("group", ["row", 64])
def test_the_projection_on_x_is_kept(bits, group):
    """<x, q> = ||x||^2 in every group, up to the rounding of the scale."""
    x = normal(20, 256) ** 3
    back = pydelta.dequantize(pydelta.quantize(x, bits=bits, group=group))
    size = 256 if group == "row" else group
    a, b = (v.double().view(-1, size) for v in (x, back))
    torch.testing.assert_close((a * b).sum(1), a.square().sum(1), rtol=2.0**-22, atol=0)


@pytest.mark.parametrize("bits", BITS)
def test_the_error_is_the_theorys(bits):
    """D / (1 - D) on Gaussian data, within 3 per cent."""
    x = normal(64, 4096)
    back = pydelta.dequantize(pydelta.quantize(x, bits=bits)).double()
    error = float((back - x).square().sum() / x.double().square().sum())
    distortion = levels.DISTORTIONS[bits]
    assert error == pytest.approx(distortion / (1 - distortion), rel=0.03)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_reconstructions_under_many_seeds_average_to_the_data(bits):
    """x randomised by D H D', coded, and brought back: over 400 seeds the mean's error falls as 1 / 400.

    The mean of N independent unbiased errors of relative square e has relative square e / N; a bias b would
    leave b^2. The bound allows a bias of 1 per cent and five standard deviations of the estimate.
    """
    x, count = normal(4, 1024, seed=8) + 0.3, 400
    total = torch.zeros_like(x)
    for i in range(count):
        key = pydelta.key(i, "unbiased")
        coded = pydelta.quantize(pydelta.rotate(x, key), bits=bits)
        total += pydelta.rotate(pydelta.dequantize(coded), key, inverse=True)
    mean = total / count
    error = float((mean - x).double().square().sum() / x.double().square().sum())
    distortion = levels.DISTORTIONS[bits]
    expected = distortion / (1 - distortion) / count
    assert error < 1e-4 + expected * (1 + 5 * math.sqrt(2 / x.numel()))
    shrink = float((mean * x).sum() / x.square().sum())
    assert abs(shrink - 1) < 0.01


@pytest.mark.parametrize("layout", ["transposed", "strided", "unaligned"])
def test_any_layout(backend, device, layout):
    x = normal(6, 33, dtype=torch.bfloat16)
    actual = pydelta.quantize(laid_out(x, layout, device), bits=4, backend=backend)
    same(actual, reference.quantize(x, bits=4))
    out = poisoned(6, 33, dtype=torch.bfloat16, device=device, layout=layout)
    assert pydelta.dequantize(actual, out=out, backend=backend) is out
    assert_same_bits(out, reference.dequantize(on_cpu(actual)))


def test_out_is_written(backend, device):
    x, y = normal(4, 40).to(device), normal(4, 40, seed=1).to(device)
    q = pydelta.quantize(x, bits=4, backend=backend)
    assert pydelta.quantize(y, bits=4, out=q, backend=backend) is q
    same(q, reference.quantize(y.cpu(), bits=4))


def test_threads_do_not_matter():
    x, before = normal(200, 3000, dtype=torch.bfloat16), torch.get_num_threads()
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(pydelta.quantize(x, bits=2))
    torch.set_num_threads(before)
    same(found[1], found[0])
    same(found[2], found[0])


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_extreme_values(backend, device, dtype):
    """Squares of the smallest and of the largest numbers neither vanish nor overflow in fp64."""
    tiny, huge = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps, torch.finfo(dtype).max
    for factor in (tiny, huge / 8):
        x = (integers(3, 64).double() * factor).to(dtype)
        truth = reference.quantize(x, bits=4)
        assert truth.scales.isfinite().all()
        same(pydelta.quantize(x.to(device), bits=4, backend=backend), truth)


def test_bytes():
    q = pydelta.quantize(normal(10, 100), bits=1)
    assert (q.codes.nbytes, q.scales.nbytes, q.nbytes) == (130, 40, 170)


def test_opcheck(backend, device):
    pydelta.quantize(torch.ones(1), bits=1)
    x = normal(3, 48).to(device)
    q = pydelta.quantize(x, bits=2, group=16, backend=backend)
    torch.library.opcheck(torch.ops.pydelta.quantize.default, (x, 2, 16, backend))
    options = 2, 16, 48, torch.float32, backend
    torch.library.opcheck(torch.ops.pydelta.dequantize.default, (q.codes, q.scales, *options))


def test_compiled():
    def there_and_back(x):
        return pydelta.dequantize(pydelta.quantize(2 * x, bits=2)) + 1

    torch._dynamo.reset()
    x = normal(4, 64)
    compiled = torch.compile(there_and_back, fullgraph=True, backend="aot_eager")
    assert_same_bits(compiled(x), there_and_back(x))


X = torch.ones(2, 96)


def test_parts_that_do_not_belong_together_are_refused():
    q = pydelta.quantize(X, bits=1)
    wrong = "[Quantized] codes must be uint8 of shape (2, 12) on cpu, got uint8 of shape (2, 11) on cpu"
    with raises(ValueError, wrong):
        Quantized(q.codes[:, 1:], q.scales, 1, "row", (2, 96), X.dtype)
    wrong = "[Quantized] scales must be float32 of shape (2, 3) on cpu, got float32 of shape (2, 1) on cpu"
    with raises(ValueError, wrong):
        Quantized(q.codes, q.scales, 1, 32, (2, 96), X.dtype)
    with raises(ValueError, "[Quantized] shape must have at least one dimension, got ()"):
        Quantized(q.codes, q.scales, 1, "row", (), X.dtype)


def test_signs_pass_through_one_bit(backend, device):
    """Flipping signs and coding commute: retrieval from one bit only has to flip codes."""
    x = normal(5, 200).to(device)
    flipped = pydelta.quantize(pydelta.sign_flip(x, KEYS[0]), bits=1, backend=backend)
    plain = pydelta.quantize(x, bits=1, backend=backend)
    assert_same_bits(flipped.scales, plain.scales)
    back = pydelta.dequantize(flipped, backend=backend)
    assert_same_bits(pydelta.sign_flip(back, KEYS[0]), pydelta.dequantize(plain, backend=backend))
