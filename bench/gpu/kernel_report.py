"""What every CUDA and Triton kernel takes of a multiprocessor, compiled ahead of time: no GPU is needed.

python bench/gpu/kernel_report.py      writes bench/results/kernels.json and the table in docs/gpu.md

Registers are of a thread; stack, spilled (stored and loaded) and shared are bytes. Shared memory is what a
CUDA kernel declares, without what its launch adds, and all of a Triton kernel's. Every CUDA kernel is listed;
of a Triton kernel the forms that the tests compile.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULT, PAGE = ROOT / "bench" / "results" / "kernels.json", ROOT / "docs" / "gpu.md"
MARKS = "<!-- written by bench/gpu/kernel_report.py -->", "<!-- end -->"
ARCHITECTURES = ("80", "90")
HEAD = ("op", "kernel", "forms", "threads", "registers, sm_80", "sm_90", "shared KiB", "warps of 64")

Kernel = dict[str, Any]


def resident_warps(registers: int, threads: int) -> int:
    """Warps that a multiprocessor's registers leave room for, in whole blocks; 64 is all it holds.

    Each of its four parts has 16384 registers, and a warp takes them 256 at a time (sm_80, sm_90).
    """
    of_a_warp = -(-registers * 32 // 256) * 256
    warps, of_a_block = min(64, 4 * (16384 // of_a_warp)), -(-threads // 32)
    return min(warps // of_a_block, 32) * of_a_block


def printed(script: str, *arguments: str) -> Any:
    """What a script of the tests prints; without the interpreter, under which Triton cannot compile."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(ROOT / "tests" / "support" / script), *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def readable(names: list[str]) -> list[str]:
    """Mangled names of kernels as C++ has them, without namespaces, results and parameters."""
    done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    return [plain(name) for name in done.stdout.splitlines()]


def plain(name: str) -> str:
    """``void a::(anonymous namespace)::f<a::T, (bool)1>(a::T, int)`` -> ``f<T, 1>``."""
    name = re.sub(r"\(anonymous namespace\)::|\bpydelta::|^void |\((?:int|bool)\)", "", name)
    return name[: name.rindex(">(") + 1] if ">(" in name else name.split("(")[0]


def cuda() -> tuple[str, dict[str, list[Kernel]]]:
    found = printed("cuda_ahead.py")
    kernels = {f"sm_{sm}": named(kernels) for sm, kernels in found["kernels"].items()}
    return found["nvcc"], kernels


def named(kernels: list[Kernel]) -> list[Kernel]:
    names = readable([kernel["kernel"] for kernel in kernels])
    found = [kernel | {"kernel": name} for kernel, name in zip(kernels, names, strict=True)]
    return sorted(found, key=lambda kernel: (kernel["op"], kernel["kernel"]))


def triton(architecture: str) -> list[Kernel]:
    """The form's name (op, arguments, dtype, shape) ends with the kernel's."""
    kept = ("threads", "registers", "stack", "shared", "tensor_cores")
    return [
        {"op": form.split("-")[0], "kernel": form.rsplit("-", 1)[1], "form": form}
        | {fact: used[fact] for fact in kept}
        for form, used in printed("triton_ahead.py", architecture).items()
    ]


def report() -> dict[str, Any]:
    """The compilers' versions, then language -> architecture -> kernels."""
    nvcc, kernels = cuda()
    return {
        "versions": {"nvcc": nvcc, "triton": importlib.metadata.version("triton")},
        "cuda": kernels,
        "triton": {f"sm_{sm}": triton(sm) for sm in ARCHITECTURES},
    }


def rows(kernels: dict[str, list[Kernel]]) -> Iterator[tuple[Any, ...]]:
    """One for each op and kernel: the most that any of its forms takes."""

    def of(kernel: Kernel) -> tuple[str, str]:
        return kernel["op"], kernel["kernel"].split("<")[0]

    older = {key: [*group] for key, group in itertools.groupby(sorted(kernels["sm_80"], key=of), of)}
    for key, group in itertools.groupby(sorted(kernels["sm_90"], key=of), of):
        found = [*group]
        most = max(found, key=lambda kernel: (-warps_of(kernel), kernel["registers"]))
        registers = [max(kernel["registers"] for kernel in some) for some in (older[key], found)]
        shared = max(kernel["shared"] for kernel in found) / 1024
        yield (*key, len(found), most["threads"], *registers, f"{shared:.3g}", warps_of(most))


def warps_of(kernel: Kernel) -> int:
    return resident_warps(kernel["registers"], kernel["threads"])


def table(found: dict[str, Any]) -> str:
    lines = []
    for language, name in (("cuda", "CUDA"), ("triton", "Triton")):
        every = [kernel for kernels in found[language].values() for kernel in kernels]
        spilled = sum(kernel.get("spilled", 0) for kernel in every)
        stack = max(kernel["stack"] for kernel in every)
        lines += [
            f"**{name}**: {len(every)} kernels, {spilled} bytes spilled, largest stack {stack} bytes.",
            "",
        ]
        lines += [f"| {' | '.join(HEAD)} |", "|---|---|" + "---:|" * (len(HEAD) - 2)]
        ordered = sorted(rows(found[language]), key=lambda row: (row[-1], row[:2]))
        lines += [f"| {' | '.join(map(str, row))} |" for row in ordered] + [""]
    return "\n".join(lines)


def with_table(page: str, found: dict[str, Any]) -> str:
    before, after = page.split(MARKS[0])[0], page.split(MARKS[1])[1]
    return f"{before}{MARKS[0]}\n\n{table(found)}\n{MARKS[1]}{after}"


def text(found: dict[str, Any]) -> str:
    """One kernel a line, so that two reports can be compared with diff."""
    parts = [f'"versions": {json.dumps(found["versions"])}']
    for language in ("cuda", "triton"):
        lists = [
            f'"{sm}": [\n   ' + ",\n   ".join(map(json.dumps, kernels)) + "\n  ]"
            for sm, kernels in found[language].items()
        ]
        parts.append(f'"{language}": {{\n  ' + ",\n  ".join(lists) + "\n }")
    return "{\n " + ",\n ".join(parts) + "\n}\n"


if __name__ == "__main__":
    made = report()
    RESULT.write_text(text(made))
    PAGE.write_text(with_table(PAGE.read_text(), made))
