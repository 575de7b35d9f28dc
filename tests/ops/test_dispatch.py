"""Which backend runs: the default, ``backend=``, ``use_backend``, and what is refused."""

import threading

import pytest
import torch
from tensors import OPS, assert_same_bits, call, operands, raises

import pydelta
from pydelta import _dispatch, reference

NAMES = ["cpu", "cuda", "triton", "reference"]
SEVENS = torch.full((2, 8), 7.0)
X = torch.ones(2, 8)


@pytest.fixture
def present(monkeypatch):
    """Makes a set of backends the present ones, and the reference recognisable: its hadamard gives sevens."""
    monkeypatch.setattr(reference, "hadamard", lambda x, **options: torch.full_like(x, 7))
    _dispatch._kernel.cache_clear()

    def set_present(*names):
        monkeypatch.setattr(_dispatch, "missing", lambda name: "" if name in names else "it was left out")
        _dispatch._kernel.cache_clear()

    yield set_present
    _dispatch._kernel.cache_clear()


def runs_on_reference(**options):
    return torch.equal(pydelta.hadamard(X, **options), SEVENS)


def test_backends_are_listed_in_order_of_preference():
    found = pydelta.backends()
    assert list(found) == NAMES
    assert found["reference"] is True
    assert all(found[name] == (not _dispatch.missing(name)) for name in NAMES)


def test_the_reference_is_the_last_choice(present):
    present("reference")
    assert runs_on_reference()
    assert pydelta.backends() == {"cpu": False, "cuda": False, "triton": False, "reference": True}


def test_a_kernel_comes_before_the_reference(backend, device, present):
    if backend != "reference":
        present(backend, "reference")
        assert not torch.equal(pydelta.hadamard(X.to(device)).cpu(), SEVENS)
        assert torch.equal(pydelta.hadamard(X.to(device), backend="reference").cpu(), SEVENS)


def test_float64_on_a_gpu_runs_on_the_reference(present):
    present(*NAMES)
    kernel = _dispatch._kernel("hadamard", "cuda", torch.float64, "")
    out = torch.empty(2, 8)
    kernel(X, out=out, block=8, scale=1.0)
    assert torch.equal(out, SEVENS)


@pytest.mark.parametrize("op", OPS)
def test_an_argument_names_the_backend(backend, device, op):
    tensors = [x.to(device) for x in operands(op, 2, 64)]
    named = call(op, tensors, backend=backend)
    with pydelta.use_backend(backend):
        assert_same_bits(call(op, tensors), named)


def test_use_backend_ends_with_its_block(present):
    present(*(name for name, there in pydelta.backends().items() if there))
    default = runs_on_reference()
    with pydelta.use_backend("reference"):
        assert runs_on_reference()
    assert runs_on_reference() == default
    with pytest.raises(KeyError), pydelta.use_backend("reference"):
        raise KeyError
    assert runs_on_reference() == default


@pytest.mark.parametrize("backend", ["cpu"], indirect=True)
def test_the_argument_wins_over_use_backend(backend, present):
    present("reference", "cpu")
    with pydelta.use_backend("reference"):
        assert not runs_on_reference(backend="cpu")
        with pydelta.use_backend("cpu"):
            assert not runs_on_reference()
        assert runs_on_reference()


@pytest.mark.parametrize("backend", ["cpu"], indirect=True)
def test_use_backend_stays_in_its_thread(backend, present):
    present("reference", "cpu")
    found = []
    with pydelta.use_backend("reference"):
        thread = threading.Thread(target=lambda: found.append(runs_on_reference()))
        thread.start()
        thread.join()
    assert found == [False]


@pytest.mark.parametrize("name", ["fast", "CPU", "numpy"])
def test_unknown_backends(name):
    rule = f"backend must be one of cpu, cuda, reference, triton, got {name!r}"
    with raises(ValueError, f"[hadamard] {rule}"):
        pydelta.hadamard(X, backend=name)
    with raises(ValueError, f"[use_backend] {rule}"), pydelta.use_backend(name):
        pass


@pytest.mark.parametrize("name", ["cpu", "cuda", "triton"])
def test_missing_backends(present, name):
    present("reference")
    message = f"backend {name} must be there, got: it was left out"
    with raises(RuntimeError, f"[hadamard] {message}"):
        pydelta.hadamard(X, backend=name)
    with raises(RuntimeError, f"[use_backend] {message}"), pydelta.use_backend(name):
        pass


@pytest.mark.parametrize(("name", "x"), [("cuda", X), ("cuda", X.double()), ("triton", X.double())])
def test_backends_refuse_what_they_cannot_take(present, name, x):
    present(*NAMES)
    given = f"{str(x.dtype).removeprefix('torch.')} tensors on cpu, got backend={name!r}"
    with raises(ValueError, f"[hadamard] backend {name} must be able to take {given}"):
        pydelta.hadamard(x, backend=name)


def test_a_backend_without_the_op(backend, device):
    if backend != "reference":
        with raises(ValueError, f"[fourier] backend must be one that has this op, got {backend!r}"):
            _dispatch._kernel("fourier", device.type, torch.float32, backend)


@pytest.mark.parametrize("backend", ["cpu"], indirect=True)
def test_the_reference_serves_where_a_kernel_is_not_there_yet(backend, present, monkeypatch):
    present(backend, "reference")
    monkeypatch.delattr("pydelta._cpu.hadamard")
    assert runs_on_reference()


def test_reasons_for_missing_backends_are_sentences():
    for name in NAMES:
        assert isinstance(_dispatch.missing(name), str)
    assert _dispatch.missing("reference") == ""
