"""Every Triton kernel compiled ahead of time, which takes no GPU.

Run as a script it compiles for one architecture and prints what came out, as JSON. A process that has
imported Triton for its interpreter can no longer compile, so tests run it as a script too.
"""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

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
ALL_CASES = [*CASES, *MASKED_CASES, *CODED_CASES, *VERA_CASES, *PRODUCT_CASES, *LIST_CASES]
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
    for case in ALL_CASES:
        for launch in launches_of(*case):
            kernel = compiled(launch, architecture)
            ptx = kernel.asm["ptx"]
            report[f"{name_of(case)}-{launch[0].__name__}"] = resources(kernel.asm["cubin"]) | {
                "shared": kernel.metadata.shared,
                "threads": 32 * kernel.metadata.num_warps,
                "fused": len(re.findall(r"\bfma\.", ptx)),
                "wide_loads": len(re.findall(r"ld\.global[.\w:]*\.v4\.", ptx)),
                "tensor_cores": len(re.findall(r"\bw?g?mma\.", ptx)),
            }
    return report


if __name__ == "__main__":
    print(json.dumps(build(int(sys.argv[1]))))
