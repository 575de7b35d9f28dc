"""The backend as a parameter of every kernel test, and a header that says which backends are there."""

import os

import pytest
import torch

from pydelta import _dispatch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is first imported, which is later

pytest.register_assert_rewrite("tensors", "tolerance")

from tensors import ISAS  # noqa: E402  (after its asserts are rewritten)

NAMES = ("reference", "cpu", "cuda", "triton")


def pytest_configure(config):
    config.addinivalue_line("markers", "large: too much work for Triton's interpreter")
    config.addinivalue_line("markers", "kernel_of(op): for backends that have a kernel of this op")


def pytest_report_header():
    present = [name for name in NAMES if not _dispatch.missing(name)]
    absent = [f"{name} ({reason})" for name in NAMES if (reason := _dispatch.missing(name))]
    triton = " (triton under its interpreter)" if "triton" in present and _dispatch.interpreted() else ""
    return [
        f"torch {torch.__version__}, {torch.get_num_threads()} threads",
        f"backends present: {', '.join(present)}{triton}",
        f"backends absent: {', '.join(absent) or 'none'}",
    ]


def pytest_collection_modifyitems(config, items):
    """Leaves out what a backend does not promise: float64 on a GPU, large sizes in the interpreter."""
    promised = [item for item in items if _promised(item)]
    config.hook.pytest_deselected(items=[item for item in items if not _promised(item)])
    items[:] = promised


def _promised(item):
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    backend = parameters.get("backend")
    if backend in ("cuda", "triton") and torch.float64 in parameters.values():
        return False
    return not (backend == "triton" and _dispatch.interpreted() and item.get_closest_marker("large"))


@pytest.fixture(scope="session", params=NAMES)
def backend(request):
    """The name of a backend that is there."""
    if reason := _dispatch.missing(request.param):
        pytest.skip(f"backend {request.param} is not present: {reason}")
    return request.param


@pytest.fixture(autouse=True)
def _kernel_there(request):
    """Leaves out backends without a kernel of the op: there the reference does the work."""
    marker = request.node.get_closest_marker("kernel_of")
    if marker and "backend" in request.fixturenames:
        name = request.getfixturevalue("backend")
        if _dispatch._load(name, *marker.args) is None:
            pytest.skip(f"backend {name} has no {marker.args[0]}")


@pytest.fixture(scope="session")
def device(backend):
    """Where the backend's tensors live."""
    real = backend == "cuda" or (backend == "triton" and not _dispatch.interpreted())
    return torch.device("cuda" if real else "cpu")


@pytest.fixture(scope="session")
def extension():
    if reason := _dispatch.missing("cpu"):
        pytest.skip(f"backend cpu is not present: {reason}")
    from pydelta import _cpu

    return _cpu


@pytest.fixture(scope="session")
def kernels(tmp_path_factory):
    """pydelta's functions on CUDA kernels that run on the CPU: see emulator/cuda_emulator.h."""
    import emulated

    return emulated.functions(emulated.build(tmp_path_factory.mktemp("emulated")))


@pytest.fixture(params=ISAS)
def isa(request, extension):
    """Forces one instruction set for a test."""
    if request.param not in extension.isas():
        pytest.skip(f"instruction set {request.param} is not present")
    chosen = extension.isa()
    extension.set_isa(request.param)
    yield request.param
    extension.set_isa(chosen)


@pytest.fixture
def threads():
    """torch.set_num_threads, undone after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def pytest_make_parametrize_id(val):
    """Dtypes stand in a test's id by name."""
    return str(val).removeprefix("torch.") if isinstance(val, torch.dtype) else None
