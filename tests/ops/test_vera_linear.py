"""The linear layer with VeRA adapters: formula, gradients, mixed batches, both ways to the matrices."""

import math

import pytest
import torch
from tensors import FLOATS, SINGLES, against_reference, assert_same_bits, normal, raises
from tolerance import UNIT

import pydelta
from pydelta import reference
from pydelta.native.vera import times
from pydelta.ops.vera_linear import MATRICES
from pydelta.products import vera

KEY = pydelta.key(42, "vera")
R, N, M = 6, 40, 24


@pytest.fixture(autouse=True)
def _nothing_kept():
    vera.forget()
    yield
    vera.forget()


def vector_dtype(dtype):
    return torch.float64 if dtype is torch.float64 else torch.float32


def layer(*batch, dtype=torch.float32, n=N, m=M, r=R, adapters=0):
    """x, weight, d, b, bias; adapter."""
    few = (adapters,) if adapters else ()
    x, weight = normal(*batch, n, dtype=dtype), normal(m, n, dtype=dtype, seed=1)
    d = normal(*few, r, dtype=vector_dtype(dtype), seed=2)
    b = normal(*few, m, dtype=vector_dtype(dtype), seed=3)
    index = torch.randint(adapters, batch, generator=torch.Generator().manual_seed(4)) if adapters else None
    return (x, weight, d, b), {"bias": normal(m, dtype=dtype, seed=5), "adapter": index}


def on(device, tensors, options):
    moved = {name: x if x is None else x.to(device) for name, x in options.items()}
    return [x.to(device) for x in tensors], moved


def truth_of(tensors, options):
    """The formula in float64, with the matrices in x's dtype; and the sum of its terms' magnitudes."""
    x, weight, d, b = tensors
    adapter, (m, n), r = options["adapter"], weight.shape, d.shape[-1]
    a_matrix = math.sqrt(6 / n) * pydelta.vera_matrix(KEY, "A", (r, n), dtype=x.dtype).double()
    b_matrix = math.sqrt(6 / r) * pydelta.vera_matrix(KEY, "B", (m, r), dtype=x.dtype).double()
    d, b = (v.double() if adapter is None else v.double()[adapter] for v in (d, b))
    x, weight, bias = x.double(), weight.double(), options["bias"].double()
    y = x @ weight.mT + bias + b * ((d * (x @ a_matrix.mT)) @ b_matrix.mT)
    inner = d.abs() * (x.abs() @ a_matrix.abs().mT)
    return y, x.abs() @ weight.abs().mT + bias.abs() + b.abs() * (inner @ b_matrix.abs().mT)


def assert_near(y, truth, magnitude, depth):
    """The magnitude bounds every sum on the way, so each rounding adds at most a unit of it.

    ``depth`` counts the additions and products in fp32; a narrow dtype rounds x A, its product with d, the
    product with B, W x, and y: five times.
    """
    compute = torch.float64 if y.dtype is torch.float64 else torch.float32
    unit = UNIT[compute] * depth + (5 * UNIT[y.dtype] if y.dtype is not compute else 0)
    tiny = torch.finfo(y.dtype).tiny
    assert bool(((y.cpu().double() - truth).abs() <= unit * magnitude + tiny).all())


DEPTH = N + R + 10


def integers(*shape, dtype, seed=0):
    """-2 to 2: products, and sums of 1100 of them, are exact in fp32."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-2, 3, shape, generator=generator).to(dtype)


@pytest.mark.parametrize("matrices", MATRICES)
@pytest.mark.parametrize("adapters", [0, 3])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("batch", [(), (1,), (7,), (2, 5)])
def test_the_formula(backend, device, dtype, batch, adapters, matrices):
    tensors, options = layer(*batch, dtype=dtype, adapters=adapters)
    given, moved = on(device, tensors, options)
    y = pydelta.vera_linear(*given, KEY, **moved, matrices=matrices, backend=backend)
    assert y.shape == (*batch, M)
    assert y.dtype is dtype
    assert_near(y, *truth_of(tensors, options), DEPTH)


@pytest.mark.parametrize("adapters", [0, 2])
@pytest.mark.parametrize("backend", ["reference", "cpu"], indirect=True)
def test_gradients_by_finite_differences(backend, adapters):
    tensors, options = layer(3, dtype=torch.float64, n=5, m=4, r=3, adapters=adapters)
    inputs = [x.requires_grad_() for x in (*tensors, options["bias"])]

    def call(x, weight, d, b, bias):
        return pydelta.vera_linear(
            x, weight, d, b, KEY, bias=bias, adapter=options["adapter"], backend=backend
        )

    assert torch.autograd.gradcheck(call, inputs)


def gradients(function, tensors, options, grad, **more):
    given = [x.clone().requires_grad_() for x in (*tensors, options["bias"])]
    y = function(*given[:4], KEY, bias=given[4], adapter=options["adapter"], **more)
    return torch.autograd.grad(y, given, grad)


def test_the_references_gradients_are_torchs_own():
    for adapters in (0, 3):
        tensors, options = layer(2, 5, dtype=torch.float64, adapters=adapters)
        grad = normal(2, 5, M, dtype=torch.float64, seed=9)
        truth = gradients(reference.vera_linear, tensors, options, grad)
        found = gradients(pydelta.vera_linear, tensors, options, grad, backend="reference")
        torch.testing.assert_close(found, truth, rtol=1e-12, atol=1e-12)


@against_reference
@pytest.mark.parametrize("matrices", MATRICES)
@pytest.mark.parametrize("adapters", [0, 3])
@pytest.mark.parametrize("dtype", SINGLES)
def test_gradients_are_the_references(backend, device, dtype, adapters, matrices):
    """In norm: some ten roundings of the dtype stand between the two, and none is systematic."""
    tensors, options = layer(2, 9, dtype=dtype, adapters=adapters)
    grad = normal(2, 9, M, dtype=dtype, seed=9)
    wide = [x.double() for x in tensors], {**options, "bias": options["bias"].double()}
    truth = gradients(reference.vera_linear, *wide, grad.double())
    given, moved = on(device, tensors, options)
    found = gradients(pydelta.vera_linear, given, moved, grad.to(device), matrices=matrices, backend=backend)
    for mine, true, source in zip(found, truth, (*tensors, options["bias"]), strict=True):
        assert mine.dtype is source.dtype
        assert mine.shape == true.shape
        assert float((mine.cpu().double() - true).norm()) <= 10 * UNIT[dtype] * float(true.norm())


@pytest.mark.parametrize("dtype", FLOATS)
def test_many_tiles(backend, device, dtype, monkeypatch):
    """Two rows of A at a time and some of B, for more rows than one tile of the Triton kernels takes."""
    monkeypatch.setitem(vera.TILE, "cpu", 2 * N)
    tensors, options = layer(20, dtype=dtype, adapters=3)
    given, moved = on(device, tensors, options)
    y = pydelta.vera_linear(*given, KEY, **moved, matrices="regenerated", backend=backend)
    assert_near(y, *truth_of(tensors, options), DEPTH)


@against_reference
@pytest.mark.parametrize("dtype", FLOATS)
def test_gradients_of_many_tiles(backend, device, dtype, monkeypatch):
    monkeypatch.setitem(vera.TILE, "cpu", 2 * N)
    tensors, options = layer(20, dtype=dtype)
    grad = normal(20, M, dtype=dtype, seed=9)
    given, moved = on(device, tensors, options)
    ways = [
        gradients(pydelta.vera_linear, given, moved, grad.to(device), matrices=way, backend=backend)
        for way in MATRICES
    ]
    for a, b in zip(*ways, strict=True):
        assert float((a - b).double().norm()) <= 10 * UNIT[dtype] * float(b.double().norm())


def test_zero_b_leaves_the_layer_alone(backend, device):
    (x, weight, d, b), options = layer(3)
    given, moved = on(device, (x, weight, d, torch.zeros_like(b)), options)
    y = pydelta.vera_linear(*given, KEY, **moved, backend=backend)
    plain = torch.nn.functional.linear(given[0], given[1], moved["bias"])
    torch.testing.assert_close(y, plain, rtol=0, atol=N * UNIT[torch.float32] * 100)


@pytest.mark.parametrize("matrices", MATRICES)
def test_a_mixed_batch_is_its_rows(backend, device, matrices):
    tensors, options = layer(8, adapters=3)
    (x, weight, d, b), moved = on(device, tensors, options)
    y = pydelta.vera_linear(x, weight, d, b, KEY, **moved, matrices=matrices, backend=backend)
    for row, k in enumerate(options["adapter"].tolist()):
        alone = pydelta.vera_linear(x[row], weight, d[k], b[k], KEY, bias=moved["bias"], backend=backend)
        torch.testing.assert_close(y[row], alone, rtol=1e-5, atol=1e-4)


def test_views_and_transposed_weights(backend, device):
    tensors, options = layer(4, 3)
    (x, weight, d, b), moved = on(device, tensors, options)
    truth = pydelta.vera_linear(x, weight, d, b, KEY, **moved, backend=backend)
    views = x.mT.contiguous().mT, weight.mT.contiguous().mT, d.repeat_interleave(2)[::2], b
    assert not any(view.is_contiguous() for view in views[:3])
    torch.testing.assert_close(
        pydelta.vera_linear(*views, KEY, **moved, backend=backend), truth, rtol=1e-5, atol=1e-4
    )


def test_the_adapters_part_alone(backend, device):
    tensors, options = layer(2, 3)
    (x, weight, d, b), moved = on(device, tensors, options)
    x.requires_grad_()
    whole = pydelta.vera_linear(x, torch.zeros_like(weight), d, b, KEY, backend=backend)
    part = pydelta.vera_linear(x, None, d, b, KEY, backend=backend)
    torch.testing.assert_close(part, whole, rtol=1e-5, atol=1e-5)
    grad = torch.ones_like(part)
    torch.testing.assert_close(
        torch.autograd.grad(part, x, grad), torch.autograd.grad(whole, x, grad), rtol=1e-5, atol=1e-5
    )
    with raises(ValueError, "[vera_linear] bias must not be given without a weight, got both"):
        pydelta.vera_linear(x, None, d, b, KEY, bias=moved["bias"])


def test_no_rows(backend, device):
    tensors, options = layer(0)
    given, moved = on(device, tensors, options)
    given = [x.requires_grad_() for x in given]
    y = pydelta.vera_linear(*given, KEY, **moved, backend=backend)
    assert y.shape == (0, M)
    y.sum().backward()
    assert [x.grad.abs().sum().item() for x in given] == [0, 0, 0, 0]


def test_one_kept_matrix_serves_layers_of_every_width():
    backend = "cpu" if pydelta.backends()["cpu"] else "reference"
    first = [pydelta.vera_linear(*layer(2, n=n, r=r)[0], KEY, backend=backend) for n, r in ((40, 6), (24, 9))]
    if backend == "cpu":
        assert vera.kept_bytes() == 4 * (9 * 40 + 24 * 9)
    again = [pydelta.vera_linear(*layer(2, n=n, r=r)[0], KEY, backend=backend) for n, r in ((40, 6), (24, 9))]
    torch.testing.assert_close(first, again, rtol=1e-6, atol=1e-5)
    vera.forget()
    assert vera.kept_bytes() == 0


def test_regenerating_keeps_nothing():
    pydelta.vera_linear(*layer(2)[0], KEY, matrices="regenerated")
    assert vera.kept_bytes() == 0


def test_matrices_kept_under_inference_mode_serve_training():
    with torch.inference_mode():
        pydelta.vera_linear(*layer(2)[0], KEY)
    tensors = [x.requires_grad_() for x in layer(2)[0]]
    pydelta.vera_linear(*tensors, KEY).sum().backward()
    assert tensors[2].grad is not None


def test_only_what_needs_a_gradient_gets_one_and_x_is_not_kept():
    (x, weight, d, b), _ = layer(3)
    y = pydelta.vera_linear(x, weight, d.requires_grad_(), b, KEY)
    assert all(saved is None or saved.shape != x.shape for saved in y.grad_fn.saved_tensors)
    y.sum().backward()
    assert d.grad is not None
    assert x.grad is weight.grad is b.grad is None


@pytest.mark.parametrize("matrices", MATRICES)
def test_the_product_with_b_is_kept_where_b_is(matrices):
    for trained in (False, True):
        x, weight, d, b = layer(3)[0]
        y = pydelta.vera_linear(
            x, weight, d.requires_grad_(), b.requires_grad_(trained), KEY, matrices=matrices
        )
        kept = sum(saved is not None and saved.shape == y.shape for saved in y.grad_fn.saved_tensors)
        assert kept == (trained and matrices == "cached")


def test_a_gradient_of_a_gradient_is_refused():
    x, weight, d, b = (tensor.requires_grad_() for tensor in layer(2)[0])
    (grad,) = torch.autograd.grad(pydelta.vera_linear(x, weight, d, b, KEY).sum(), d, create_graph=True)
    message = "[vera_linear] is differentiable once, got a gradient of its gradient"
    with raises(RuntimeError, message):
        grad.sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_casts_as_for_a_linear_layer(dtype):
    tensors, options = layer(4)
    (x, weight, d, b), bias = tensors, options["bias"]
    with torch.autocast("cpu", dtype):
        y = pydelta.vera_linear(x, weight, d.requires_grad_(), b, KEY, bias=bias)
    narrow = x.to(dtype), weight.to(dtype), d, b
    assert_same_bits(y, pydelta.vera_linear(*narrow, KEY, bias=bias.to(dtype)))
    y.float().sum().backward()
    assert d.grad.dtype is torch.float32


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("depth", "width"), [(0, 5), (1, 1), (7, 5), (33, 130), (1100, 37), (9, 1100)])
def test_products_of_few_rows(isa, extension, depth, width, dtype, threads):
    """Of small integers, whose sums are exact, on either side of a tile, onto what is there too."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    for rows in (1, 2, 3, 4, 5):
        x, there = integers(rows, depth, dtype=dtype), integers(rows, width + 3, dtype=dtype, seed=1)
        for w in (integers(width, depth + 2, dtype=dtype)[:, :depth], integers(depth, width, dtype=dtype).mT):
            for add in (False, True):
                out = there.clone()
                times(extension, x, w, out[:, :width], add)
                truth = x.double() @ w.double().mT + there[:, :width].double() * add
                assert_same_bits(out[:, :width], truth.to(dtype))
                assert_same_bits(out[:, width:], there[:, width:])
    torch.set_num_threads(before)


SEEDS = 3, -7


@pytest.mark.parametrize("adapters", [0, 2])
def test_opcheck(backend, device, adapters):
    tensors, options = layer(2, 3, adapters=adapters)
    given, moved = on(device, tensors, options)
    given = [x.requires_grad_() for x in given]
    x, weight, d, b = given
    for keep in (False, True):
        arguments = keep, x, d, b, weight, moved["bias"], moved["adapter"], *SEEDS, True, backend
        torch.library.opcheck(torch.ops.pydelta.vera_linear.default, arguments)
    grad, inner, outer = (normal(2, 3, size).to(device) for size in (M, R, M))
    weight, d, b = (x.detach() for x in given[1:])
    for needs in ([True] * 3, [False, True, False]):
        arguments = N, needs, grad, d, b, inner, outer, weight, moved["adapter"], *SEEDS, False, backend
        torch.library.opcheck(torch.ops.pydelta.vera_linear_backward.default, arguments)


@pytest.mark.parametrize("adapters", [0, 2])
def test_compiled_with_gradients(adapters):
    tensors, options = layer(5, adapters=adapters)

    def loss(x, weight, d, b):
        return (pydelta.vera_linear(2 * x, weight, d, b, KEY, **options) ** 2).sum()

    found = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        given = [x.clone().requires_grad_() for x in tensors]
        function(*given).backward()
        found.append([x.grad for x in given])
    torch.testing.assert_close(found[1], found[0])
