"""superpose into codes, retrieve from codes: the bits of doing one thing after the other."""

import importlib
import itertools

import pytest
import torch
from tensors import CODE_WIDTHS, FLOATS, KEYS, SINGLES, TRANSFORMS, assert_same_bits, normal

import pydelta
from pydelta import _dispatch, reference
from pydelta.core.quantized import BITS

pytestmark = pytest.mark.kernel_of("superpose_codes")


def models(count, *shape, dtype=torch.float32):
    base = normal(*shape, dtype=dtype)
    deltas = [normal(*shape, seed=i + 1) * 2.0**-6 for i in range(count)]
    return base, [(base.float() + delta).to(dtype) for delta in deltas]


def check(
    backend, device, base, tuned, *, transform, bits, group="row", dim=-1, out_dtypes=SINGLES, **options
):
    keys, whole = KEYS[: len(tuned)], {"transform": transform, "dim": dim}
    given = [x.to(device) for x in tuned]
    codes = pydelta.superpose(
        base.to(device), given, keys, bits=bits, group=group, backend=backend, **whole, **options
    )
    total = reference.superpose(base, tuned, keys, **whole, **options).movedim(dim, -1)
    truth = reference.quantize(total, bits=bits, group=group)
    assert torch.equal(codes.codes.cpu(), truth.codes)
    assert_same_bits(codes.scales, truth.scales)
    assert (codes.shape, codes.dtype) == (truth.shape, truth.dtype)
    values = reference.dequantize(truth, dtype=torch.float32).to(total.dtype).movedim(-1, dim)
    for out_dtype in [torch.float64] if base.dtype is torch.float64 else out_dtypes:
        model = reference.retrieve(base, values, keys[0], lam=0.7, out_dtype=out_dtype, **whole)
        rest = {"lam": 0.7, "out_dtype": out_dtype, "backend": backend, **whole}
        assert_same_bits(pydelta.retrieve(base.to(device), codes, keys[0], **rest), model)


@pytest.mark.parametrize("n", CODE_WIDTHS)
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_bits_of_widths(backend, device, dtype, transform, n):
    base, tuned = models(2, 3, n, dtype=dtype)
    for bits in BITS:
        out_dtypes = SINGLES if bits == 1 else [dtype]
        check(backend, device, base, tuned, transform=transform, bits=bits, out_dtypes=out_dtypes)


@pytest.mark.parametrize("group", [1, 12, 32, 96])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_bits_of_groups(backend, device, transform, group):
    base, tuned = models(3, 4, 96, dtype=torch.bfloat16)
    for bits in BITS:
        options = {"group": group, "weights": [0.5, 1, 2], "out_dtypes": [base.dtype]}
        check(backend, device, base, tuned, transform=transform, bits=bits, **options)


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_codes_run_along_the_input_axis(backend, device, transform, dim):
    base, tuned = models(2, 8, 24, 40)
    check(backend, device, base, tuned, transform=transform, bits=2, dim=dim, out_dtypes=[base.dtype])


@pytest.mark.large
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("bits", BITS)
def test_bits_of_many_rows(backend, device, bits, transform):
    base, tuned = models(2, 300, 1025, dtype=torch.bfloat16)
    check(backend, device, base, tuned, transform=transform, bits=bits)


@pytest.mark.parametrize("shape", [(0, 8), (8, 0), (1,), (7,)], ids=str)
def test_bits_of_small_shapes(backend, device, shape):
    base, tuned = models(2, *shape)
    for transform, bits in itertools.product(TRANSFORMS, BITS):
        check(backend, device, base, tuned, transform=transform, bits=bits, out_dtypes=[base.dtype])


@pytest.mark.parametrize("rows", [1, 3])
def test_triton_superposes_block_by_block(monkeypatch, rows):
    if reason := _dispatch.missing("triton"):
        pytest.skip(f"backend triton is not present: {reason}")
    kernels = importlib.import_module("pydelta.triton_kernels.superpose_codes")
    monkeypatch.setattr(kernels, "ROOM", rows * 96)
    base, tuned = models(2, 2, 4, 96, dtype=torch.bfloat16)
    device = torch.device("cpu" if _dispatch.interpreted() else "cuda")
    check("triton", device, base, tuned, transform="sign", bits=4, group=32, out_dtypes=[base.dtype])


def test_in_place_and_into_out(backend, device):
    base, tuned = models(2, 6, 64, dtype=torch.bfloat16)
    base, tuned = base.to(device), [x.to(device) for x in tuned]
    codes = pydelta.superpose(base, tuned, KEYS[:2], bits=1, backend=backend)
    truth = pydelta.retrieve(base, codes, KEYS[1], backend=backend)
    out = torch.full_like(base, float("nan"))
    assert pydelta.retrieve(base, codes, KEYS[1], out=out, backend=backend) is out
    assert_same_bits(out, truth)
    assert pydelta.retrieve(base, codes, KEYS[1], out=base, backend=backend) is base
    assert_same_bits(base, truth)


def test_the_error_is_the_theorys():
    """n / (1 - D) - 1 for a bucket of n models of equal norm, within 3 per cent."""
    base = torch.zeros(64, 4096)
    for count, bits in ((1, 1), (2, 1), (4, 1), (1, 2), (7, 4)):
        tuned = [normal(64, 4096, seed=i + 1) for i in range(count)]
        codes = pydelta.superpose(base, tuned, KEYS[:count], bits=bits)
        back = pydelta.retrieve(base, codes, KEYS[0])
        error = float((back - tuned[0]).double().square().sum() / tuned[0].double().square().sum())
        distortion = {1: 0.36338, 2: 0.117482, 4: 0.009501}[bits]
        assert error == pytest.approx(count / (1 - distortion) - 1, rel=0.03)


def test_opcheck(backend, device):
    base, tuned = models(2, 3, 32)
    base, tuned = base.to(device), [x.to(device) for x in tuned]
    pydelta.superpose(base, tuned, KEYS[:2])
    lists = [1, 2], [3, 4], [1.0, 0.5]
    operator = torch.ops.pydelta.superpose_codes.default
    torch.library.opcheck(operator, (base, tuned, *lists, "sign", 1, 0, backend))
    codes, scales = operator(base, tuned, *lists, "sign", 1, 0, backend)
    operator = torch.ops.pydelta.retrieve_codes.default
    torch.library.opcheck(operator, (base, codes, scales, 1, 3, 1.0, "sign", 1, 0, torch.float32, backend))


def test_compiled():
    def there_and_back(base, x):
        codes = pydelta.superpose(base, [2 * x], KEYS[:1], bits=1)
        return pydelta.retrieve(base, codes, KEYS[0]) + 1

    torch._dynamo.reset()
    compiled = torch.compile(there_and_back, fullgraph=True, backend="aot_eager")
    pair = normal(4, 64), normal(4, 64, seed=1)
    assert_same_bits(compiled(*pair), there_and_back(*pair))
