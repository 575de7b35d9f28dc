"""What only a GPU can show: streams, CUDA graphs, compiled code, sizes beyond 32 bits, the CPU's bits."""

import pytest
import torch
from tensors import KEY, KEYS, OPS, assert_same_bits, call, expected, normal, operands

import pydelta

pytestmark = pytest.mark.parametrize("backend", ["cuda", "triton"], indirect=True)
SHAPE = (70, 1024)


@pytest.fixture
def gpu(backend, device):
    """The backend's name, where its tensors are on a GPU."""
    if device.type != "cuda":
        pytest.skip(f"backend {backend} is not present on a GPU")
    return backend


def on_gpu(op, **options):
    return [x.cuda() for x in operands(op, *SHAPE, **options)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("op", OPS)
def test_a_stream_of_ones_own(gpu, op, dtype):
    """The kernel waits for what its stream does before it, and for nothing else."""
    tensors, later = on_gpu(op, dtype=dtype), on_gpu(op, dtype=dtype, seed=9)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)
        for x, y in zip(tensors, later, strict=True):
            x.copy_(y)
        found = call(op, tensors, backend=gpu)
    stream.synchronize()
    assert_same_bits(found.cpu(), expected(op, [x.cpu() for x in later]))


@pytest.mark.parametrize("op", OPS)
def test_two_streams_at_once(gpu, op):
    inputs, found = [on_gpu(op, seed=seed) for seed in range(2)], []
    streams = [torch.cuda.Stream() for _ in inputs]
    for stream in streams:
        stream.wait_stream(torch.cuda.current_stream())
    for _ in range(5):
        for stream, tensors in zip(streams, inputs, strict=True):
            with torch.cuda.stream(stream):
                found.append(call(op, tensors, backend=gpu))
    torch.cuda.synchronize()
    for i, result in enumerate(found):
        assert_same_bits(result.cpu(), expected(op, [x.cpu() for x in inputs[i % 2]]))


@pytest.mark.parametrize("op", OPS)
def test_capture_and_replay(gpu, op):
    """A graph's replay works on what its inputs hold by then."""
    tensors, later = on_gpu(op), on_gpu(op, seed=9)
    call(op, tensors, backend=gpu)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = call(op, tensors, backend=gpu)
    for x, y in zip(tensors, later, strict=True):
        x.copy_(y)
    graph.replay()
    torch.cuda.synchronize()
    assert_same_bits(found.cpu(), expected(op, [x.cpu() for x in later]))


@pytest.mark.filterwarnings("ignore:TensorFloat32")
@pytest.mark.parametrize("op", OPS)
def test_compiled_by_inductor(gpu, op):
    tensors = on_gpu(op)

    def around(*xs):
        return call(op, [x + 0.5 for x in xs], backend=gpu) * 2

    assert_same_bits(torch.compile(around, fullgraph=True)(*tensors), around(*tensors))


def test_more_than_32_bits_of_elements(gpu):
    """Rows beyond element 2^31 are what they would be alone."""
    n = 1 << 15
    x = torch.empty((1 << 31) // n + 3, n, dtype=torch.bfloat16, device="cuda")
    rows = [0, 1, x.shape[0] - 2, x.shape[0] - 1]
    for i in rows:
        x[i] = normal(n, dtype=torch.bfloat16, seed=i)
    some = x[rows]
    for transform in ("sign", "hadamard"):
        options = {"transform": transform, "backend": gpu}
        found = pydelta.retrieve(x, x, KEY, **options)
        assert_same_bits(found[rows], pydelta.retrieve(some, some, KEY, **options))
        found = pydelta.superpose(x, [found], [KEY], out_dtype=torch.bfloat16, **options)
        alone = pydelta.retrieve(some, some, KEY, **options)
        truth = pydelta.superpose(some, [alone], [KEY], out_dtype=torch.bfloat16, **options)
        assert_same_bits(found[rows], truth)
    mask = pydelta.RandomMask(0.5, KEY)
    found = pydelta.merge_into(x, [x * 2], masks=[mask], backend=gpu)
    for i in rows:
        row = x[i : i + 1].cpu()
        truth = pydelta.merge_into(row, [row * 2], masks=[mask], start=i * n, backend="reference")
        assert_same_bits(found[i : i + 1].cpu(), truth)


def test_a_store_of_the_gpu_is_the_cpus(gpu):
    """A superposition of eight, and what is retrieved of it."""
    base, *tuned = (normal(256, 4096, dtype=torch.bfloat16, seed=seed) for seed in range(9))
    options = {"transform": "hadamard", "out_dtype": torch.float32}
    there = pydelta.superpose(base.cuda(), [x.cuda() for x in tuned], KEYS[:8], backend=gpu, **options)
    here = pydelta.superpose(base, tuned, KEYS[:8], **options)
    assert_same_bits(there.cpu(), here)
    found = pydelta.retrieve(base.cuda(), there, KEYS[3], transform="hadamard", backend=gpu)
    assert_same_bits(found.cpu(), pydelta.retrieve(base, here, KEYS[3], transform="hadamard"))


def test_a_call_starts_one_kernel(gpu):
    """Element-wise ops and transforms: no copy, no fill, nothing beside the kernel."""
    for op in ("hadamard", "sign_flip", "rotate", "retrieve"):
        tensors = on_gpu(op)
        out = call(op, tensors, backend=gpu)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            call(op, tensors, backend=gpu, out=out)
            torch.cuda.synchronize()
        kinds = [event.device_type for event in profile.events()]
        assert kinds.count(torch.autograd.DeviceType.CUDA) == 1, op
