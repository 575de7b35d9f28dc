"""VeRA merged into the weight: the formula, in place, equal to the layer unmerged, in little memory."""

import math

import pytest
import torch
from tensors import FLOATS, LAYOUTS, assert_same_bits, laid_out, normal, poisoned
from tolerance import UNIT

import pydelta
from pydelta.products import vera

KEY = pydelta.key(42, "vera")


def adapted(m, n, r, dtype):
    vectors = torch.float64 if dtype is torch.float64 else torch.float32
    return normal(m, n, dtype=dtype), normal(r, dtype=vectors, seed=1), normal(m, dtype=vectors, seed=2)


def truth_of(weight, d, b):
    """W + diag(b) B diag(d) A in float64, and the sum of its terms' magnitudes."""
    (m, n), r = weight.shape, len(d)
    a_matrix = math.sqrt(6 / n) * pydelta.vera_matrix(KEY, "A", (r, n), dtype=weight.dtype).double()
    b_matrix = math.sqrt(6 / r) * pydelta.vera_matrix(KEY, "B", (m, r), dtype=weight.dtype).double()
    left, right = b.double()[:, None] * b_matrix, d.double()[:, None] * a_matrix
    return weight.double() + left @ right, weight.double().abs() + left.abs() @ right.abs()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("m", "n", "r"), [(1, 1, 1), (24, 40, 6), (70, 300, 3), (33, 20, 64), (9, 600, 64)])
def test_the_formula(backend, device, dtype, m, n, r, monkeypatch):
    """Also where strips and blocks are small: rank 64 makes strips of 256 columns at least."""
    monkeypatch.setitem(vera.TILE, "cpu", 256)
    weight, d, b = adapted(m, n, r, dtype)
    truth, magnitude = truth_of(weight, d, b)
    merged = pydelta.vera_merge(*(x.to(device) for x in (weight, d, b)), KEY, backend=backend)
    compute = torch.float64 if dtype is torch.float64 else torch.float32
    bound = (r + 6) * UNIT[compute] * magnitude + (UNIT[dtype] * truth.abs() if dtype is not compute else 0)
    assert merged.dtype is dtype
    assert bool(((merged.cpu().double() - truth).abs() <= bound + torch.finfo(dtype).tiny).all())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_into_out_and_in_place(backend, device, dtype, layout):
    weight, d, b = (x.to(device) for x in adapted(24, 40, 6, dtype))
    truth = pydelta.vera_merge(weight, d, b, KEY, backend=backend)
    out = poisoned(24, 40, dtype=dtype, device=device, layout=layout)
    assert pydelta.vera_merge(weight, d, b, KEY, out=out, backend=backend) is out
    assert_near = torch.testing.assert_close
    assert_near(out, truth, rtol=2 * UNIT[dtype], atol=1e-5)
    own = laid_out(weight, layout, device)
    pydelta.vera_merge(own, d, b, KEY, out=own, backend=backend)
    assert_near(own, truth, rtol=2 * UNIT[dtype], atol=1e-5)


@pytest.mark.parametrize("dtype", FLOATS)
def test_merged_equals_unmerged(backend, device, dtype):
    """In norm: sums of n + r terms in the compute dtype, and five roundings to a narrow one."""
    m, n, r = 48, 64, 16
    weight, d, b = (x.to(device) for x in adapted(m, n, r, dtype))
    x = normal(32, n, dtype=dtype, seed=3).to(device)
    unmerged = pydelta.vera_linear(x, weight, d, b, KEY, backend=backend).cpu().double()
    merged = (x @ pydelta.vera_merge(weight, d, b, KEY, backend=backend).mT).cpu().double()
    compute = torch.float64 if dtype is torch.float64 else torch.float32
    bound = (n + r) * UNIT[compute] + (5 * UNIT[dtype] if dtype is not compute else 0)
    assert float((merged - unmerged).norm()) <= bound * float(unmerged.norm())


def test_a_zero_b_gives_the_weight_back(backend, device):
    weight, d, b = (x.to(device) for x in adapted(24, 40, 6, torch.bfloat16))
    assert_same_bits(pydelta.vera_merge(weight, d, 0 * b, KEY, backend=backend), weight)


def test_no_memory_of_the_weights_size():
    """What torch allocates at the most on the way, in place."""
    weight, d, b = adapted(2048, 2048, 16, torch.float32)
    with torch.profiler.profile(profile_memory=True) as profile:
        pydelta.vera_merge(weight, d, b, KEY, out=weight)
    most = max(event.cpu_memory_usage for event in profile.events())
    assert most < weight.nbytes / 4


@pytest.mark.parametrize("backend", ["reference", "cpu"], indirect=True)
def test_opcheck(backend):
    weight, d, b = adapted(6, 5, 3, torch.float32)
    for name, more in (("vera_merge", ()), ("vera_merge_out", (weight.clone(),))):
        torch.library.opcheck(getattr(torch.ops.pydelta, name).default, (weight, d, b, 1, -2, backend, *more))


def test_compiled():
    weight, d, b = adapted(6, 5, 3, torch.float32)

    def merge(weight):
        return pydelta.vera_merge(2 * weight, d, b, KEY) + 1

    assert_same_bits(torch.compile(merge, fullgraph=True, backend="aot_eager")(weight), merge(weight))
