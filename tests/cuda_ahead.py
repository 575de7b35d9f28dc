"""The CUDA kernels compiled ahead of time, which takes nvcc and no GPU, and what ptxas says of each.

Run as a script it compiles for one architecture, one file after the other, and prints what came out, as JSON.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).parents[1] / "csrc" / "cuda"
# On the walk; rotate runs hadamard's.
WALKS = ("hadamard", "sign_flip", "superpose", "retrieve", "retrieve_codes", "dequantize")
# mask_rescale runs merge_into's, superpose_codes runs superpose's and quantize's.
OTHERS = ("merge_into", "magnitude_threshold", "quantize", "vera_matrix", "superposed_linear")
LISTS = ("square_sums", "sam_perturb_", "sam_restore_", "adamr_step_")
ARCHITECTURES = ("80", "90")
# Flags as in setup.py; PTX is kept beside the machine code.
FLAGS = ("-std=c++17", "-O3", "-fmad=false", "-cubin", "-Xptxas=-v", "--keep")


def find_nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return shutil.which("nvcc") or shutil.which("nvcc", path=os.path.join(home, "bin"))


def compile_op(nvcc: str, op: str, architecture: str, folder: Path) -> tuple[str, str]:
    """What ptxas reports, and the PTX."""
    output = ["-o", str(folder / f"{op}.cubin"), f"--keep-dir={folder}"]
    command = [nvcc, *FLAGS, f"-arch=sm_{architecture}", *output, str(SOURCES / f"{op}.cu")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr, (folder / f"{op}.ptx").read_text()


def entries(report: str) -> dict[str, dict[str, int]]:
    """Mangled name of a kernel -> registers, and bytes of stack, spills and static shared memory."""
    found = {}
    for entry in report.split("Compiling entry function")[1:]:
        name = re.findall(r"'(\w+)'", entry)[0]
        stack, stores, loads = map(int, re.findall(r"(\d+) bytes (?:stack|spill)", entry))
        found[name] = {
            "registers": int(re.findall(r"Used (\d+) registers", entry)[0]),
            "stack": stack,
            "spilled": stores + loads,
            "shared": sum(map(int, re.findall(r"(\d+) bytes smem", entry))),
        }
    return found


def threads_of(ptx: str) -> dict[str, int]:
    """Mangled name of a kernel -> threads of a block, as its launch bounds say."""
    bounds = re.findall(r"\.entry (\w+)\([^)]*\)\s*\.maxntid (\d+)", ptx)
    return {name: int(threads) for name, threads in bounds}


def build(architecture: str) -> dict[str, Any]:
    """The compiler's version, and of every kernel its op, its mangled name and what it takes."""
    nvcc = find_nvcc()
    if nvcc is None:
        sys.exit("nvcc is neither on PATH nor in CUDA_HOME")
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    kernels = []
    for op in (*WALKS, *OTHERS, *LISTS):
        with tempfile.TemporaryDirectory() as folder:
            report, ptx = compile_op(nvcc, op, architecture, Path(folder))
        threads = threads_of(ptx)
        for name, used in entries(report).items():
            kernels.append({"op": op, "kernel": name, "threads": threads.get(name, 32), **used})
    return {"nvcc": re.findall(r"V([\d.]+)", version)[0], "kernels": kernels}


if __name__ == "__main__":
    print(json.dumps(build(sys.argv[1])))
