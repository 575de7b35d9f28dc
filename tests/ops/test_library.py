"""torch.library: schemas, fakes, autograd, and torch.compile without graph breaks."""

import importlib

import pytest
import torch
from tensors import (
    EXTREME_KEYS,
    KEY,
    KEYS,
    LIST_OPS,
    MASKS,
    OPS,
    TRANSFORMS,
    assert_same_bits,
    call,
    normal,
    operands,
    poisoned,
)

import pydelta
from pydelta.ops import _masks

NARROW = torch.bfloat16


def signed(value):
    return value - 2**64 if value >= 2**63 else value


SEEDS = signed(KEY.seed), signed(KEY.stream)


def registered(op, tensors, backend):
    """The arguments of the registered operator, as its schema has them."""
    if op == "hadamard":
        return (*tensors, 16, 0.25, backend)
    if op == "sign_flip":
        return (*tensors, *SEEDS, 1, backend)
    if op == "rotate":
        return (*tensors, *SEEDS, 16, False, backend)
    if op == "retrieve":
        return (*tensors, *SEEDS, 0.5, "hadamard", 1, NARROW, backend)
    if op == "mask_rescale":
        return (*tensors, *_masks.pack(MASKS[:1]), backend)
    base, *tuned = tensors
    if op == "merge_into":
        options = [1.0, 0.5, 2.0], "ties", 0.5, True, 96, NARROW, backend
        return (base, tuned, *_masks.pack(MASKS), *options)
    seeds = [[signed(getattr(key, part)) for key in KEYS[: len(tuned)]] for part in ("seed", "stream")]
    return (base, tuned, *seeds, [1.0, 0.5, 2.0], "sign", 0, torch.float32, backend)


def result_dtype(op):
    return NARROW if op in ("retrieve", "merge_into") else torch.float32


def operator(name):
    importlib.import_module("pydelta.ops")
    return getattr(torch.ops.pydelta, name).default


@pytest.mark.parametrize("op", OPS)
def test_opcheck(backend, device, op):
    tensors = [x.to(device) for x in operands(op, 3, 48)]
    if op in ("hadamard", "sign_flip", "rotate"):
        tensors = [x.requires_grad_() for x in tensors]
    torch.library.opcheck(operator(op), registered(op, tensors, backend))


@pytest.mark.parametrize("op", OPS)
def test_opcheck_of_out(backend, device, op):
    tensors = [x.to(device) for x in operands(op, 3, 48)]
    out = torch.zeros(3, 48, dtype=result_dtype(op), device=device)
    torch.library.opcheck(operator(f"{op}_out"), (*registered(op, tensors, backend), out))


def registered_lists(device, backend):
    """The arguments of the registered operators on lists, as their schemas have them."""
    params, grads, moments, squares, wide = (
        [normal(3, 5, seed=seed + i).abs().to(device) for i in range(2)] for seed in range(0, 50, 10)
    )
    number = torch.tensor(0.1, dtype=torch.float64, device=device)
    step = [params[0], None], wide, number, 2, 0.1, [0.9, 0.99], 1e-8, True, True, backend
    return {
        "square_sums": (grads, params, 0.1, backend),
        "sam_perturb_": (params, grads, wide, moments, number, 0.5, True, 0.1, backend),
        "sam_restore_": (params, wide, backend),
        "adamr_step_": (params, grads, moments, squares, *step),
    }


@pytest.mark.parametrize("op", LIST_OPS)
def test_opcheck_of_lists(backend, device, op):
    torch.library.opcheck(operator(op), registered_lists(device, backend)[op])


def test_compiled_lists():
    """Compiled functions write into the same tensors and give the same bits."""

    def step(params, grads, moments, squares, backups):
        pydelta.sam_perturb_(params, grads, rho=0.5, backups=backups)
        pydelta.sam_restore_(params, backups)
        pydelta.adamr_step_(params, grads, moments, squares, step=1, lr=0.1)

    results = []
    for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        lists = [[normal(3, 5, seed=seed + i).abs() for i in range(2)] for seed in range(0, 50, 10)]
        function(*lists)
        results.append([x for xs in lists for x in xs])
    for a, b in zip(*results, strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize("op", OPS)
def test_fakes_know_shape_dtype_and_strides(op):
    from torch._subclasses import FakeTensorMode

    for shape in ((4, 32), (2, 3, 8), (0, 8)):
        real = call(op, operands(op, *shape))
        with FakeTensorMode() as mode:
            fake = call(op, [mode.from_tensor(x.mT.contiguous().mT) for x in operands(op, *shape)])
        assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())


DIFFERENTIABLE = {
    "hadamard": lambda x, **o: pydelta.hadamard(x, **o),
    "hadamard of block 2": lambda x, **o: pydelta.hadamard(x, block=2, scale=0.3, **o),
    "sign_flip": lambda x, **o: pydelta.sign_flip(x, KEY, **o),
    "sign_flip along 0": lambda x, **o: pydelta.sign_flip(x, KEY, dim=0, **o),
    "rotate": lambda x, **o: pydelta.rotate(x, KEY, **o),
    "inverse rotate": lambda x, **o: pydelta.rotate(x, KEY, inverse=True, block=2, **o),
}


@pytest.mark.parametrize("backend", ["reference", "cpu"], indirect=True)
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_by_finite_differences(backend, name):
    x = normal(3, 12, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: DIFFERENTIABLE[name](x, backend=backend), x)
    assert torch.autograd.gradgradcheck(lambda x: DIFFERENTIABLE[name](x, backend=backend), x)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_are_adjoint(backend, device, name):
    """<f(a), g> = <a, f'(g)>, and a second backward pass gives the same gradient again."""
    x, g = (normal(5, 64, seed=seed).to(device) for seed in range(2))
    x.requires_grad_()
    y = DIFFERENTIABLE[name](x, backend=backend)
    (grad,) = torch.autograd.grad(y, x, g, retain_graph=True)
    with torch.no_grad():
        forward, back = (float((a.double() * b.double()).sum()) for a, b in ((y, g), (x, grad)))
        assert forward == pytest.approx(back, abs=1e-6 * float(x.norm() * g.norm()))
    assert_same_bits(torch.autograd.grad(y, x, g.mT.contiguous().mT)[0], grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("op", ["hadamard", "sign_flip", "rotate"])
def test_gradients_keep_their_dtype(backend, device, op, dtype):
    x = normal(2, 16, dtype=dtype).to(device).requires_grad_()
    call(op, [x], backend=backend).sum().backward()
    assert x.grad.dtype is dtype


@pytest.mark.parametrize("op", ["hadamard", "sign_flip", "rotate"])
def test_forward_without_gradients(op):
    x = normal(2, 16).requires_grad_()
    out = poisoned(2, 16)
    with torch.no_grad():
        call(op, [x], out=out)
        assert_same_bits(out, call(op, [x]))
    assert not out.requires_grad


DEFAULTS = [{}, {"backend": "reference"}]
OF_DELTAS = [*DEFAULTS, {"dim": 0}, {"out_dtype": NARROW}, *({"transform": name} for name in TRANSFORMS)]
OPTIONS = {
    "hadamard": [*DEFAULTS, {"block": 4}, {"scale": 0.5}, {"block": None, "scale": None}],
    "sign_flip": [*DEFAULTS, {"dim": 0}, {"dim": -2}],
    "rotate": [*DEFAULTS, {"block": 2, "inverse": True}],
    "superpose": [*OF_DELTAS, {"weights": [0.5, 1, 2.0]}],
    "retrieve": [*OF_DELTAS, {"lam": 0.5}],
    "mask_rescale": [*DEFAULTS, *({"mask": mask} for mask in (MASKS[2], pydelta.BandMask(0.5, 0.1)))],
    "merge_into": [
        *DEFAULTS,
        {"masks": None, "weights": [1.0, 2.0, -0.5], "lam": 0.5, "out_dtype": NARROW},
        {"elect": "ties", "normalize": True, "start": 64},
        {"masks": [pydelta.MagnitudeMask(0.5, "row"), None, pydelta.BandMask(0.5, 0.1)]},
    ],
}


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()


def name_of(value):
    return value if isinstance(value, str) else " ".join(f"{k}={v}" for k, v in value.items()) or "defaults"


@pytest.mark.parametrize(
    ("op", "options"), [(op, options) for op in OPS for options in OPTIONS[op]], ids=name_of
)
def test_compiled(op, options):
    """As a user would call it in a compiled function: an operation of torch on each side, and twice."""

    def double(*tensors):
        return call(op, [2 * x for x in tensors], **options) + 1

    compiled = torch.compile(double, fullgraph=True, backend="aot_eager")
    for seed in range(2):
        tensors = operands(op, 6, 32, seed=seed)
        with torch._dynamo.config.patch(error_on_recompile=True):
            assert_same_bits(compiled(*tensors), double(*tensors))


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # torch warns of itself
@pytest.mark.parametrize("op", OPS)
def test_compiled_by_inductor_into_out(op):
    """``out`` is written, is what is returned, and is read again after."""
    (square,) = operands("hadamard", 64, 64)

    def into(out, *tensors):
        result = call(op, tensors, out=out)
        return result @ square, square @ out.mT

    compiled = torch.compile(into, fullgraph=True)
    for seed in range(2):
        tensors = operands(op, 4, 64, seed=seed)
        out, truth = poisoned(4, 64), poisoned(4, 64)
        products, truths = compiled(out, *tensors), into(truth, *tensors)
        assert_same_bits(out, truth)
        assert_same_bits(products[0], truths[0])
        assert_same_bits(products[1], truths[1])


@pytest.mark.parametrize("op", OPS)
def test_compiled_in_place(op):
    def in_place(first, *tensors):
        return call(op, [first, *tensors], out=first)

    compiled = torch.compile(in_place, fullgraph=True, backend="aot_eager")
    tensors, others = operands(op, 4, 64), operands(op, 4, 64)
    assert_same_bits(compiled(*tensors), in_place(*others))
    assert_same_bits(tensors[0], others[0])


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_compiled_gradients(name):
    def loss(x):
        return (DIFFERENTIABLE[name](x) ** 2 * torch.arange(16)).sum()

    gradients = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        x = normal(3, 16).requires_grad_()
        function(x).backward()
        gradients.append(x.grad)
    assert_same_bits(gradients[1], gradients[0])


@pytest.mark.parametrize("op", OPS)
def test_compiled_with_dynamic_rows(op):
    compiled = torch.compile(
        lambda *tensors: call(op, tensors), fullgraph=True, dynamic=True, backend="aot_eager"
    )
    for rows in (3, 5, 8):
        tensors = operands(op, rows, 32)
        assert_same_bits(compiled(*tensors), call(op, tensors))


@pytest.mark.parametrize("op", ["sign_flip", "rotate"])
def test_compiled_with_keys_as_arguments(op):
    """Seeds beyond the signed 64-bit range are values like any other."""
    compiled = torch.compile(getattr(pydelta, op), fullgraph=True, backend="aot_eager")
    x = normal(2, 32)
    for key in EXTREME_KEYS:
        assert_same_bits(compiled(x, key), getattr(pydelta, op)(x, key))
