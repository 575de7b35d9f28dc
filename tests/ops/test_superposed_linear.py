"""Linear layers of mixed batches: exact answers, an fp64 truth, gradients, and what is refused."""

import pytest
import torch
from tensors import FLOATS, KEYS, SINGLES, TRANSFORMS, assert_same_bits, integers, laid_out, normal, raises
from tolerance import assert_product, exact

import pydelta
from pydelta import reference
from pydelta.core.quantized import BITS, Quantized

MODELS = [0, 2, 2, 1, 0, 3, 3, 3]
LAMS = [1.0, 0.5, 2.0, -0.25]


def layer(rows, n, m, dtype, *, bits=0, group="row"):
    """x, base, superposition."""
    x, weight = normal(rows, n, dtype=dtype), normal(m, n, dtype=dtype, seed=1)
    superposed = normal(m, n, dtype=torch.float64 if dtype is torch.float64 else torch.float32, seed=2)
    return x, weight, pydelta.quantize(superposed, bits=bits, group=group) if bits else superposed


def to(device, *values):
    return [v.to(device) for v in values]


def models(rows):
    return [MODELS[r % len(MODELS)] for r in range(rows)]


def parts_of(x, weight, superposed, *, transform, lams):
    """The base's and the superposition's part in fp64; the transform in the dtype of x's arithmetic."""
    wide = torch.float64 if x.dtype is torch.float64 else torch.float32
    values = superposed
    if isinstance(superposed, Quantized):
        values = reference.dequantize(superposed, dtype=torch.float32)
    turn = {"none": lambda row, key: row, "sign": reference.sign_flip, "hadamard": reference.rotate}[
        transform
    ]
    rows = [lams[k] * turn(row.to(wide), KEYS[k]).double() for row, k in zip(x, models(len(x)), strict=True)]
    base = exact(x) @ exact(weight).T
    return base, exact(torch.stack(rows)) @ exact(values).T


def check(backend, device, tensors, *, transform="sign", operands=0, layout="contiguous"):
    x, weight, superposed = tensors
    base, delta = parts_of(*tensors, transform=transform, lams=LAMS)
    given = laid_out(x, layout).to(device), laid_out(weight, layout).to(device), superposed.to(device)
    y = pydelta.superposed_linear(
        *given, KEYS[:4], models(len(x)), lam=LAMS, transform=transform, backend=backend
    )
    assert (y.dtype, y.device.type, y.is_contiguous()) == (x.dtype, device.type, True)
    assert_product(y, base, delta, x.shape[1], operands)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_float_superposition(backend, device, dtype, transform):
    # T x is rounded to 16 bits under a Hadamard transform; signs are exact.
    check(
        backend, device, layer(8, 96, 130, dtype), transform=transform, operands=int(transform == "hadamard")
    )


@pytest.mark.parametrize("rows", [1, 6, 15])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", SINGLES)
def test_codes(backend, device, dtype, bits, rows):
    check(backend, device, layer(rows, 129, 270, dtype, bits=bits))


@pytest.mark.parametrize(
    "n", [1, 31, 100, *(pytest.param(n, marks=pytest.mark.large) for n in (32, 257, 768))]
)
@pytest.mark.parametrize("bits", BITS)
def test_codes_of_widths(backend, device, bits, n):
    check(backend, device, layer(5, n, 70, torch.float32, bits=bits))


@pytest.mark.parametrize("group", [1, 32])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_codes_of_groups(backend, device, transform, group):
    for bits in (1, 4):
        tensors = layer(6, 96, 70, torch.bfloat16, bits=bits, group=group)
        check(backend, device, tensors, transform=transform, operands=int(transform == "hadamard"))


@pytest.mark.large
@pytest.mark.parametrize("dtype", FLOATS)
def test_many_rows_and_blocks(backend, device, dtype):
    """Beyond the rows that codes are multiplied with, blocks of values are; here some are ragged."""
    for bits in (1, 8):
        check(backend, device, layer(70, 100, 300, dtype, bits=bits), operands=1)


@pytest.mark.parametrize("bits", [0, 1])
@pytest.mark.parametrize("layout", ["transposed", "strided", "row_strided"])
def test_layouts(backend, device, layout, bits):
    check(backend, device, layer(8, 64, 70, torch.float32, bits=bits), layout=layout)


@pytest.mark.parametrize("bits", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_exact_answers(backend, device, dtype, bits):
    """Small integers and powers of two: every sum is representable, so every bit is known."""
    x, weight = (
        integers(9, 64, dtype=dtype, high=1, low=-1),
        integers(40, 64, dtype=dtype, high=1, low=0, seed=1),
    )
    superposed = torch.where(normal(40, 64, seed=3) < 0, -0.5, 0.5)
    rows = models(9)
    turned = torch.stack([reference.sign_flip(row.double(), KEYS[k]) for row, k in zip(x, rows, strict=True)])
    truth = x.double() @ weight.double().T + 2 * turned @ superposed.double().T
    coded = pydelta.quantize(superposed, bits=1) if bits else superposed.to(dtype)
    given = to(device, x, weight, coded)
    y = pydelta.superposed_linear(*given, KEYS[:4], rows, lam=2.0, backend=backend)
    assert_same_bits(y, truth.to(dtype))


@pytest.mark.parametrize("bits", [0, 1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_the_retrieved_model(backend, device, dtype, bits):
    """Rows of one model are a linear layer with its retrieved weights, up to their rounding."""
    x, weight, superposed = to(device, *layer(4, 128, 70, dtype, bits=bits))
    y = pydelta.superposed_linear(x, weight, superposed, KEYS[:2], [1] * 4, lam=0.5, backend=backend)
    model = pydelta.retrieve(weight, superposed, KEYS[1], lam=0.5, out_dtype=torch.float32)
    truth = x.float() @ model.T
    tolerance = 2**-6 if dtype is torch.bfloat16 else 2**-18
    assert float((y.float() - truth).abs().max()) < tolerance * float(truth.abs().max())


@pytest.mark.parametrize("bits", [0, 1, 4])
def test_a_mixed_batch_is_its_rows(backend, device, bits):
    x, weight, superposed = to(device, *layer(8, 96, 64, torch.float32, bits=bits))
    rows = models(8)
    mixed = pydelta.superposed_linear(x, weight, superposed, KEYS[:4], rows, backend=backend)
    for r, k in enumerate(rows):
        alone = pydelta.superposed_linear(x[r : r + 1], weight, superposed, KEYS[:4], [k], backend=backend)
        torch.testing.assert_close(mixed[r : r + 1], alone, rtol=0, atol=2e-5)


def test_rows_that_belong_together(backend, device):
    """One model for each of x's first dimensions; a bias; no rows, no columns."""
    x, weight, superposed = to(device, *layer(6, 32, 16, torch.float32, bits=1))
    bias = normal(16, seed=5).to(device)
    given = weight, superposed, KEYS[:3]
    flat = pydelta.superposed_linear(x, *given, [0, 0, 0, 2, 2, 2], bias=bias, backend=backend)
    for model in ([0, 2], torch.tensor([[0, 0, 0], [2, 2, 2]])):
        whole = pydelta.superposed_linear(x.view(2, 3, 32), *given, model, bias=bias, backend=backend)
        assert_same_bits(whole, flat.view(2, 3, 16))
    none = pydelta.superposed_linear(x[:0], *given, [], bias=bias, backend=backend)
    assert none.shape == (0, 16)
    empty = torch.zeros(16, 0).to(device)
    wide = pydelta.superposed_linear(x[:, :0], empty, empty, KEYS[:1], [0] * 6, bias=bias, backend=backend)
    assert_same_bits(wide, bias.expand(6, 16))


def test_without_a_base(backend, device):
    """No weight: what the superposition adds."""
    x, weight, superposed = to(device, *layer(5, 64, 48, torch.float32, bits=1))
    given = superposed, KEYS[:4], models(5)
    bias = normal(48, seed=5).to(device)
    part = pydelta.superposed_linear(x, None, *given, lam=LAMS, bias=bias, backend=backend)
    zero = pydelta.superposed_linear(x, weight * 0, *given, lam=LAMS, bias=bias, backend=backend)
    torch.testing.assert_close(part, zero)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("bits", [0, 2])
def test_gradients(bits, transform):
    x, weight, superposed = layer(5, 16, 6, torch.float64, bits=bits)
    bias = normal(6, dtype=torch.float64)

    def f(x):
        given = x, weight, superposed, KEYS[:4], models(5)
        return pydelta.superposed_linear(*given, lam=LAMS, transform=transform, bias=bias)

    assert torch.autograd.gradcheck(f, x.requires_grad_())


@pytest.mark.parametrize("bits", [0, 1])
def test_opcheck(backend, device, bits):
    x, weight, superposed = layer(3, 16, 8, torch.float32, bits=bits)
    codes = [superposed.codes, superposed.scales] if bits else [superposed, None]
    codes = [part if part is None else part.to(device) for part in codes]
    args = (x.to(device).requires_grad_(), weight.to(device), *codes, None, [1, 2], [3, 4])
    args += (torch.tensor([0, 1, 1]), [1.0, 0.5], "sign", bits, 0, backend)
    torch.library.opcheck(torch.ops.pydelta.superposed_linear.default, args)
    out = torch.zeros(3, 8, device=device)
    detached = (args[0].detach(), *args[1:])
    torch.library.opcheck(torch.ops.pydelta.superposed_linear_out.default, (*detached, out))


def test_compiles_without_breaks():
    x, weight, superposed = layer(3, 16, 8, torch.float32, bits=1)

    def f(x, model):
        return pydelta.superposed_linear(x, weight, superposed, KEYS[:3], model).relu()

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    for rows in ([0, 1, 2], [2, 2, 0]):
        model = torch.tensor(rows)
        assert_same_bits(compiled(x, model), f(x, model))


@pytest.mark.parametrize("bits", [1, 4])
def test_instruction_sets_and_threads(isa, threads, bits):
    """Threads change no bit; every instruction set keeps the bound."""
    tensors = layer(9, 384, 1500, torch.bfloat16, bits=bits)
    x, weight, superposed = tensors
    found = []
    for count in (1, 3):
        threads(count)
        y = pydelta.superposed_linear(x, torch.zeros_like(weight), superposed, KEYS[:4], models(9))
        found.append(y)
    assert_same_bits(*found)
    check("cpu", torch.device("cpu"), tensors)


def test_an_index_out_of_range():
    x, weight, superposed = layer(2, 8, 4, torch.float32)
    for rows, got in (([0, 2], "0 to 2"), ([-1, 1], "-1 to 1")):
        with raises(ValueError, f"[superposed_linear] model must lie in [0, 1], got {got}"):
            pydelta.superposed_linear(x, weight, superposed, KEYS[:2], rows)
