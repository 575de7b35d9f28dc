"""Every Triton kernel is compiled ahead of time for sm_80 and sm_90, which takes no GPU.

Run as a script it compiles for one architecture and prints what came out, as JSON. The tests run it so,
because a process that has imported Triton for its interpreter can no longer compile.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from triton_calls import call, call_coded, call_list, call_masked, call_product, call_vera

CASES = [
    # op, transform, dtype, shape, dim
    ("sign_flip", "sign", torch.bfloat16, (64, 4096), -1),
    ("sign_flip", "sign", torch.float32, (64, 11008), -1),
    ("hadamard", "hadamard", torch.bfloat16, (64, 256), -1),
    ("hadamard", "hadamard", torch.float32, (4, 4096), -1),
    ("hadamard", "hadamard", torch.float32, (1, 32768), -1),
    ("rotate", "hadamard", torch.float32, (64, 256), -1),
    ("rotate", "hadamard", torch.float32, (4, 4096), -1),
    ("rotate", "hadamard", torch.bfloat16, (1, 32768), -1),
    ("retrieve", "sign", torch.bfloat16, (64, 4096), -1),
    ("retrieve", "hadamard", torch.bfloat16, (64, 256), -1),
    ("retrieve", "hadamard", torch.float32, (4, 4096), -1),
    ("retrieve", "hadamard", torch.bfloat16, (1, 32768), -1),
    ("superpose", "sign", torch.bfloat16, (64, 4096), -1),
    ("superpose", "sign", torch.float32, (200, 96), 0),
    ("superpose", "hadamard", torch.float32, (64, 256), -1),
    ("superpose", "hadamard", torch.bfloat16, (4, 4096), -1),
]
MASKED_CASES = [
    # op, mask or group, dtype, shape, dim
    ("merge_into", "none", torch.bfloat16, (64, 4096), -1),
    ("merge_into", "none", torch.float32, (3, 100), -1),
    ("merge_into", "random", torch.bfloat16, (64, 4096), -1),
    ("merge_into", "tensor", torch.float32, (64, 4096), -1),
    ("merge_into", "all", torch.float16, (64, 4096), -1),
    ("mask_rescale", "row", torch.bfloat16, (64, 4096), -1),
    ("mask_rescale", "della", torch.float32, (64, 4096), -1),
    ("magnitude_threshold", "row", torch.bfloat16, (64, 4096), -1),
    ("magnitude_threshold", "row", torch.float32, (8, 8192), -1),
    ("magnitude_threshold", "tensor", torch.bfloat16, (64, 4096), -1),
    ("magnitude_threshold", "tensor", torch.float32, (64, 4096), -1),
]
CODED_CASES = [
    # op, bits and transform, dtype, shape, group (-1: a row)
    ("quantize", "1", torch.bfloat16, (64, 4096), -1),
    ("quantize", "4", torch.float32, (64, 4096), 64),
    ("quantize", "8", torch.bfloat16, (64, 4096), -1),
    ("dequantize", "2", torch.bfloat16, (64, 4096), -1),
    ("superpose_codes", "1-sign", torch.bfloat16, (64, 4096), -1),
    ("retrieve_codes", "1-sign", torch.bfloat16, (64, 4096), -1),
    ("retrieve_codes", "4-sign", torch.float32, (64, 11008), 64),
    ("retrieve_codes", "1-hadamard", torch.bfloat16, (4, 4096), -1),
    ("retrieve_codes", "8-hadamard", torch.bfloat16, (64, 256), -1),
]
VERA_CASES = [
    # op, rank, dtype, (rows, n, m), start
    ("vera_matrix", 0, torch.float32, (64, 4096), 0),
    ("vera_matrix", 0, torch.bfloat16, (64, 4096), 0),
    ("vera_matrix", 0, torch.float16, (3, 100), 1),
    ("vera_forward", 256, torch.bfloat16, (16, 4096, 4096), 0),
    ("vera_forward", 1024, torch.float16, (1, 4096, 14336), 0),
    ("vera_forward", 256, torch.float32, (16, 4096, 4096), 0),
]
PRODUCT_CASES = [
    # op, bits, dtype, (rows, n, m), group (-1: a row)
    ("superposed_linear", 1, torch.bfloat16, (8, 4096, 4096), -1),
    ("superposed_linear", 1, torch.float32, (8, 4096, 4096), -1),
    ("superposed_linear", 4, torch.bfloat16, (32, 4096, 11008), -1),
    ("superposed_linear", 8, torch.float16, (3, 100, 37), 20),
]
LIST_CASES = [
    # op, form, dtype of the parameters, shape of each, dim
    ("square_sums", "plain", torch.bfloat16, (64, 4096), -1),
    ("square_sums", "weighted", torch.float32, (64, 4096), -1),
    ("sam_perturb_", "plain", torch.float32, (64, 4096), -1),
    ("sam_perturb_", "weighted", torch.bfloat16, (64, 4096), -1),
    ("sam_restore_", "plain", torch.float32, (64, 4096), -1),
    ("sam_restore_", "weighted", torch.bfloat16, (64, 4096), -1),
    ("adamr_step_", "plain", torch.float32, (64, 4096), -1),
    ("adamr_step_", "weighted", torch.bfloat16, (64, 4096), -1),
]
KERNELS = [
    ("launch", "walk"),
    ("quantize", "scale_groups"),
    ("quantize", "pack_codes"),
    ("superpose", "fill"),
    ("masks", "fill_models"),
    ("merge_into", "merge"),
    ("vera_matrix", "fill_matrix"),
    ("vera_linear", "into_rank"),
    ("vera_linear", "onto_outputs"),
    ("superposed_linear", "code_product"),
    ("lists", "sum_parts"),
    ("square_sums", "sum_squares"),
    ("sam_perturb_", "perturb"),
    ("sam_restore_", "restore"),
    ("adamr_step_", "step_chunks"),
    *(("magnitude_threshold", name) for name in ("select_rows", "count_digits", "count_ties", "find_tie")),
]
ARCHITECTURES = (80, 90)

Launch = tuple[Any, tuple[Any, ...], dict[str, Any]]


def name_of(case: tuple[Any, ...]) -> str:
    op, transform, dtype, shape, dim = case
    return f"{op}-{transform}-{str(dtype).removeprefix('torch.')}-{'x'.join(map(str, shape))}-dim{dim}"


class Recorder:
    """Stands in for a kernel and keeps the arguments of its launches."""

    def __init__(self, kernel: Any, launches: list[Launch]) -> None:
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *args, **options: self.launches.append((self.kernel, args, options))


def launches_of(
    op: str, transform: str, dtype: torch.dtype, shape: tuple[int, ...], dim: int
) -> list[Launch]:
    """What the op would launch, in full, for a tensor of this shape."""
    launches: list[Launch] = []
    with ExitStack() as stack:
        for module, name in KERNELS:
            home = importlib.import_module(f"pydelta.triton_kernels.{module}")
            recorder = Recorder(getattr(home, name), launches)
            stack.enter_context(mock.patch.object(home, name, recorder))
        kernels = importlib.import_module("pydelta.triton_kernels")
        if op in ("merge_into", "mask_rescale", "magnitude_threshold"):
            call_masked(kernels, op, transform, dtype, shape)
        elif "quantize" in op or op.endswith("_codes"):
            call_coded(kernels, op, transform, dtype, shape, dim)
        elif op.startswith("vera"):
            call_vera(kernels, op, transform, dtype, shape, dim)
        elif op == "superposed_linear":
            call_product(kernels, transform, dtype, shape, dim)
        elif any(op == case[0] for case in LIST_CASES):
            call_list(kernels, op, transform == "weighted", dtype, shape)
        else:
            call(kernels, op, transform, dtype, shape, dim)
    return launches


def type_of(value: Any) -> Any:
    """The type that Triton's launcher gives an argument."""
    from triton.runtime.jit import mangle_type

    return tuple(map(type_of, value)) if isinstance(value, tuple) else mangle_type(value)


def compiled(launch: Launch, architecture: int) -> Any:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel, args, options = launch
    given = dict(zip(kernel.arg_names, args, strict=False)) | options
    named = {name: given[name] for name in kernel.arg_names}
    constants = {name: value for name, value in named.items() if name.isupper() or value is None}
    constants |= {name: 1 for name, value in named.items() if type(value) is int and value == 1}
    signature = {
        name: "constexpr" if name in constants else type_of(named[name]) for name in kernel.arg_names
    }
    aligned = [
        i
        for i, name in enumerate(kernel.arg_names)
        if isinstance(named[name], torch.Tensor)
        or (name not in constants and type(named[name]) is int and named[name] % 16 == 0)
    ]
    source = ASTSource(kernel, signature, constants, {(i,): [["tt.divisibility", 16]] for i in aligned})
    flags = {"num_warps": options["num_warps"], "enable_fp_fusion": options.get("enable_fp_fusion", True)}
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=flags)


def resources(cubin: bytes) -> dict[str, int]:
    """Registers and bytes of stack of a compiled kernel; spilled registers go to the stack."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run(
            [tool, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    assert found is not None, text
    return {"registers": int(found[1]), "stack": int(found[2])}


def build(architecture: int) -> dict[str, Any]:
    report = {}
    for case in [*CASES, *MASKED_CASES, *CODED_CASES, *VERA_CASES, *PRODUCT_CASES, *LIST_CASES]:
        for launch in launches_of(*case):
            kernel = compiled(launch, architecture)
            ptx = kernel.asm["ptx"]
            report[f"{name_of(case)}-{launch[0].__name__}"] = resources(kernel.asm["cubin"]) | {
                "fused": len(re.findall(r"\bfma\.", ptx)),
                "wide_loads": len(re.findall(r"ld\.global[.\w:]*\.v4\.", ptx)),
                "tensor_cores": len(re.findall(r"\bw?g?mma\.", ptx)),
            }
    return report


@pytest.fixture(scope="module")
def reports() -> dict[int, dict[str, Any]]:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("the package triton is not installed")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    children = {
        architecture: subprocess.Popen(
            [sys.executable, __file__, str(architecture)], env=environment, stdout=subprocess.PIPE, text=True
        )
        for architecture in ARCHITECTURES
    }
    outputs = {architecture: child.communicate()[0] for architecture, child in children.items()}
    assert all(child.returncode == 0 for child in children.values())
    return {architecture: json.loads(output) for architecture, output in outputs.items()}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_compiles_without_spills_and_fusion(
    reports: dict[int, dict[str, Any]], case: tuple[Any, ...], architecture: int
) -> None:
    built = reports[architecture][f"{name_of(case)}-walk"]
    assert built["stack"] == 0, built
    assert built["fused"] == built["tensor_cores"] == 0, built
    assert built["wide_loads"] > 0, built


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("case", MASKED_CASES, ids=name_of)
def test_masked_ops_compile_without_spills_and_fusion(
    reports: dict[int, dict[str, Any]], case: tuple[Any, ...], architecture: int
) -> None:
    found = {name: built for name, built in reports[architecture].items() if name.startswith(name_of(case))}
    names = {name.removeprefix(name_of(case) + "-") for name in found}
    if case[0] != "magnitude_threshold":
        assert names == {"fill_models", "merge"}
    else:
        assert names == ({"select_rows"} if case[1] == "row" else {"count_digits", "count_ties", "find_tie"})
    for name, built in found.items():
        # A scan takes a stack of one byte, rounded up, which nothing uses.
        assert built["stack"] <= (8 if name.endswith("-find_tie") else 0), (name, built)
        assert built["fused"] == built["tensor_cores"] == 0, (name, built)
        assert built["wide_loads"] > 0 or "3x100" in name or name.endswith("-fill_models"), (name, built)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("case", CODED_CASES, ids=name_of)
def test_low_bit_ops_compile_without_spills_and_fusion(
    reports: dict[int, dict[str, Any]], case: tuple[Any, ...], architecture: int
) -> None:
    found = {name: built for name, built in reports[architecture].items() if name.startswith(name_of(case))}
    names = {name.removeprefix(name_of(case) + "-") for name in found}
    coding = {"scale_groups", "pack_codes"}
    assert names == {"quantize": coding, "superpose_codes": {"fill", "walk", *coding}}.get(case[0], {"walk"})
    for name, built in found.items():
        assert built["stack"] == 0, (name, built)
        assert built["fused"] == built["tensor_cores"] == 0, (name, built)
        reads = not name.endswith(("-fill", "-pack_codes")) and case[0] != "dequantize"
        assert built["wide_loads"] > 0 or not reads, (name, built)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("case", VERA_CASES, ids=name_of)
def test_vera_compiles_without_spills(
    reports: dict[int, dict[str, Any]], case: tuple[Any, ...], architecture: int
) -> None:
    """The products are on tensor cores; the matrices themselves are exact."""
    found = {name: built for name, built in reports[architecture].items() if name.startswith(name_of(case))}
    names = {name.removeprefix(name_of(case) + "-") for name in found}
    assert names == ({"fill_matrix"} if case[0] == "vera_matrix" else {"into_rank", "onto_outputs"})
    for name, built in found.items():
        assert built["stack"] == 0, (name, built)
        assert (built["tensor_cores"] > 0) == (case[0] == "vera_forward"), (name, built)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("case", PRODUCT_CASES, ids=name_of)
def test_products_compile_without_spills(
    reports: dict[int, dict[str, Any]], case: tuple[Any, ...], architecture: int
) -> None:
    """Codes are expanded in registers on their way to the tensor cores."""
    built = reports[architecture][f"{name_of(case)}-code_product"]
    assert built["stack"] == 0, built
    assert built["tensor_cores"] > 0, built


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("case", LIST_CASES, ids=name_of)
def test_lists_compile_without_spills_and_fusion(
    reports: dict[int, dict[str, Any]], case: tuple[Any, ...], architecture: int
) -> None:
    found = {name: built for name, built in reports[architecture].items() if name.startswith(name_of(case))}
    assert len(found) == (2 if case[0] in ("square_sums", "adamr_step_") else 1)
    for name, built in found.items():
        assert built["stack"] == 0, (name, built)
        assert built["fused"] == built["tensor_cores"] == 0, (name, built)
        assert built["wide_loads"] > 0 or case[2] is not torch.float32 or "sum_parts" in name, (name, built)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_table_of_models_compiles(reports: dict[int, dict[str, Any]], architecture: int) -> None:
    tables = {name: built for name, built in reports[architecture].items() if name.endswith("-fill")}
    assert len(tables) == sum("superpose" in case[0] for case in (*CASES, *CODED_CASES))
    assert all(built["stack"] == 0 for built in tables.values())


if __name__ == "__main__":
    print(json.dumps(build(int(sys.argv[1]))))
