"""The CUDA kernels without a GPU: they compile for every target within their registers, and load anywhere."""

import re

import cuda_ahead
import pytest
import torch
from cuda_ahead import ARCHITECTURES, LISTS, OTHERS, WALKS

# Registers a thread may use, by op and by how many elements it holds, so that enough threads fit.
REGISTERS = {
    "Map": {16: 64, 32: 64, 64: 128},
    "Retrieve": {16: 80, 32: 80, 64: 128},
    "Superpose": {16: 128, 32: 128, 64: 128},
    "Dequantize": {16: 64, 32: 64},
}
# The same for merge_into, by whether there is an election.
MERGE_REGISTERS = {"0": 64, "1": 80}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cuda")


@pytest.fixture(scope="module")
def nvcc():
    return cuda_ahead.find_nvcc() or pytest.skip("nvcc is not present")


@pytest.fixture(scope="module")
def compiled(nvcc, folder):
    return cuda_ahead.compile_all(nvcc, folder)


@pytest.fixture(scope="module")
def extension(nvcc, compiled, folder):
    return cuda_ahead.link(nvcc, (source.path for source in compiled.values()), folder)


def most_registers(name):
    """What a kernel's mangled name allows it."""
    if plan := re.search(r"PlanILi(\d+)ELi(\d+)E", name):
        return REGISTERS[re.search("|".join(REGISTERS), name)[0]][int(plan[1]) * int(plan[2])]
    if merge := re.search(r"5mergeI.*Lb[01]ELb([01])E", name):
        return MERGE_REGISTERS[merge[1]]
    if "8multiplyI" in name:
        return 96
    if "11code_groups" in name:
        return 128  # 512 threads of them, which hold 64 KiB on their way
    return 80 if "4stepI" in name else 64


@pytest.mark.parametrize("op", [*WALKS, *OTHERS, *LISTS])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_kernel_spills_or_takes_too_many_registers(compiled, architecture, op):
    entries = cuda_ahead.entries(compiled[op].reports[architecture])
    assert entries
    for name, used in entries.items():
        assert used["spilled"] == 0, name
        assert used["registers"] <= most_registers(name), name


@pytest.mark.parametrize("op", WALKS)
def test_arithmetic_is_rounded_step_by_step_and_keeps_denormals(compiled, op):
    """No fused multiply-add but the butterfly's between lanes, whose product is exact; no flush to zero."""
    for architecture in ARCHITECTURES:
        ptx = compiled[op].ptx[architecture]
        assert ".ftz" not in ptx
        for kernel in ptx.split(".entry")[1:]:
            blocks = re.search(r"PlanILi\d+ELi\d+ELi\d+ELb([01])E", kernel)[1] == "1"
            assert ("fma.rn.f32" in kernel) == blocks


@pytest.mark.parametrize("op", OTHERS)
def test_no_fp32_is_fused_or_flushed_in_other_kernels(compiled, op):
    for architecture in ARCHITECTURES:
        ptx = compiled[op].ptx[architecture]
        assert ".ftz" not in ptx
        assert ("fma.rn.f32" in ptx) == (op == "superposed_linear")  # held to a tolerance
        assert ("fma.rn.f64" in ptx) == (op == "quantize")  # of products that are exact in fp64
        assert ("div.rn.f32" in ptx) == (op == "merge_into")


@pytest.mark.parametrize("op", LISTS)
def test_lists_are_walked_in_whole_vectors_and_rounded_step_by_step(compiled, op):
    for architecture in ARCHITECTURES:
        ptx = compiled[op].ptx[architecture]
        assert ".ftz" not in ptx
        assert "fma." not in ptx
        for name in ("div.rn.f32", "sqrt.rn.f32"):
            assert (name in ptx) == (op == "adamr_step_")
        for kernel in ptx.split(".entry")[1:]:
            if "sum_parts" not in kernel[:200]:
                assert re.search(r"ld\.global\.v[24]\.(u32|b32)", kernel)


def test_other_kernels_read_whole_vectors(compiled):
    for op, names, count in (
        ("merge_into", "5merge", 15),
        ("magnitude_threshold", "count_level|count_ties|select_group", 9),
        ("quantize", "code_groups", 12),
    ):
        kernels = [
            kernel for kernel in compiled[op].ptx["90"].split(".entry")[1:] if re.search(names, kernel[:200])
        ]
        assert len(kernels) == count
        assert all(re.search(r"ld\.global\.v4\.(u32|b32)", kernel) for kernel in kernels)


@pytest.mark.parametrize("op", WALKS)
def test_memory_is_accessed_in_whole_vectors(compiled, op):
    ptx = compiled[op].ptx["90"]
    for kernel in ptx.split(".entry")[1:]:
        assert op == "dequantize" or re.search(r"ld\.global\.v[24]\.(u32|b32)", kernel)
        assert re.search(r"st\.global\.cs\.v[24]\.(u32|b32)", kernel)


def test_the_extension_loads_without_a_driver_and_says_what_is_missing(extension):
    reason = extension.missing()
    assert isinstance(reason, str)
    assert bool(reason) or torch.cuda.is_available()
    assert extension.targets()[-1] == "compute_" + extension.targets()[-2].removeprefix("sm_")


def test_empty_tensors_launch_nothing(extension):
    extension.hadamard(0, 0, 0, 0, 1, 1.0, 0)
    extension.sign_flip(0, 0, 1, 3, 0, 2, 1, 2, 0)
    extension.rotate(0, 0, 2, 0, 64, 64, False, 1, 2, 0)
    extension.superpose(0, [0] * 33, 0, 0, 0, 0, 8, 1, [1] * 33, [2] * 33, [1.0] * 33, 2, 0)
    extension.retrieve(0, 0, 0, 0, 0, 0, 4, 8, 0, 1, 2, 1.0, 2, 0)
    masks = [1] * 33, [2] * 33, [3] * 33, [1 << 32] * 33, [2.0] * 33, [0] * 165
    extension.merge_into(0, [0] * 33, 0, 1, 0, 0, 8, 5, *masks, [1.0] * 33, 1, 1.0, True, 0)
    extension.mask_rescale(0, 0, 0, 2, 0, 0, 4, 0, 0, 0, 1.0, [0] * 5, 0)
    extension.magnitude_threshold(0, 0, 0, 0, 0, 8, 4, 2, 0, 0, 0, 0, 0)
    extension.quantize(0, 0, 0, 1, 8, 0, 1, 0, 0, 0, 0)
    extension.dequantize(0, 0, 0, 2, 0, 8, 4, 8, 0, 0)
    extension.superpose_codes(0, [0] * 33, 0, 0, 0, 0, 8, [1] * 33, [2] * 33, [1.0] * 33, 2, 1, 8, 0, 0, 0)
    extension.retrieve_codes(0, 0, 0, 0, 0, 0, 8, 0, 1, 2, 1.0, 1, 1, 0, 0, 0)
    extension.square_sums([], [], [], 0, 0, 0, 0.0, 0)
    extension.sam_perturb_([0], [0], [0], [], [0], 0, 0, False, 0.0, 0)
    extension.sam_restore_([0, 0], [0, 0], [0, 0], 1, 0, 0)
    extension.adamr_step_([], *[[]] * 6, 0, 0, 0, 0, 1, 0.1, 0.9, 0.9, 0.0, False, 0)


def test_blocks_that_no_thread_block_holds_are_refused(extension):
    with pytest.raises(ValueError, match=r"^\[hadamard\] block must be at most 32768 on cuda, got 65536$"):
        extension.hadamard(0, 0, 0, 0, 65536, 1.0, 0)
    with pytest.raises(ValueError, match=r"^\[rotate\] block must be at most 32768 on cuda, got 65536$"):
        extension.rotate(0, 0, 0, 0, 65536, 65536, False, 1, 2, 0)


def test_float64_is_refused(extension):
    with pytest.raises(
        ValueError, match=r"^\[hadamard\] dtype must be float32, bfloat16 or float16 on cuda, got code 3$"
    ):
        extension.hadamard(0, 0, 3, 0, 1, 1.0, 0)


def test_a_launch_without_a_device_fails_in_words(extension):
    if not extension.missing():
        pytest.skip("a CUDA device is present")
    x = torch.ones(64)
    with pytest.raises(RuntimeError, match=r"^\[hadamard\] the CUDA kernel could not run: \w+"):
        extension.hadamard(x.data_ptr(), x.data_ptr(), 0, 64, 64, 1.0, 0)
    assert torch.equal(x, torch.ones(64))
