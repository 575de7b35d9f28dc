"""The CUDA extension built ahead of time, which takes nvcc and no GPU, and what ptxas says of each kernel.

Run as a script it prints what the kernels take on each architecture, as JSON.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pybind11
from paths import ROOT

SOURCES = ROOT / "csrc" / "cuda"
# On the walk; rotate runs hadamard's.
WALKS = ("hadamard", "sign_flip", "superpose", "retrieve", "retrieve_codes", "dequantize")
# mask_rescale runs merge_into's, superpose_codes runs superpose's and quantize's.
OTHERS = ("merge_into", "magnitude_threshold", "quantize", "vera_matrix", "superposed_linear")
LISTS = ("square_sums", "sam_perturb_", "sam_restore_", "adamr_step_")
ARCHITECTURES = ("80", "90")
# Targets and flags as in setup.py; ptxas reports, and PTX is kept beside the machine code.
TARGETS = [f"-gencode=arch=compute_{sm},code=sm_{sm}" for sm in ARCHITECTURES]
TARGETS.append(f"-gencode=arch=compute_{ARCHITECTURES[-1]},code=compute_{ARCHITECTURES[-1]}")
FLAGS = ["-std=c++17", "-O3", "-fmad=false", "-Xcompiler=-fPIC,-fvisibility=hidden", "-Xptxas=-v", "--keep"]


class Compiled(NamedTuple):
    """An object file; what ptxas reports of it, and its PTX, for each architecture."""

    path: Path
    reports: dict[str, str]
    ptx: dict[str, str]


def find_nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return shutil.which("nvcc") or shutil.which("nvcc", path=os.path.join(home, "bin"))


def compile_all(nvcc: str, folder: Path) -> dict[str, Compiled]:
    """Every source of the extension by its name, as many at once as there are processors."""
    sources = [SOURCES.parent / "bindings_cuda.cpp", *sorted(SOURCES.glob("*.cu"))]
    include = [f"-I{path}" for path in (pybind11.get_include(), sysconfig.get_path("include"))]

    def one(source: Path) -> Compiled:
        kept, target = folder / source.stem, folder / f"{source.stem}.o"
        kept.mkdir()
        output = [f"--keep-dir={kept}", "-c", str(source), "-o", str(target)]
        done = subprocess.run([nvcc, *FLAGS, *TARGETS, *include, *output], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        entries = done.stderr.split("Compiling entry function")[1:]
        reports = {sm: "".join(x for x in entries if f"'sm_{sm}'" in x) for sm in ARCHITECTURES}
        ptx = {path.suffixes[0].removeprefix(".compute_"): path.read_text() for path in kept.glob("*.ptx")}
        return Compiled(target, reports, ptx)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip((source.stem for source in sources), pool.map(one, sources), strict=True))


def link(nvcc: str, objects: Iterable[Path], folder: Path) -> ModuleType:
    """The extension, imported."""
    library = folder / "_cuda.so"
    command = [nvcc, "-shared", "-cudart=static", "-Xlinker=--exclude-libs=ALL", *TARGETS]
    subprocess.run([*command, *map(str, objects), "-o", str(library)], check=True)
    # pybind11 keeps one module of a name, and the emulator has an extension too.
    spec = importlib.util.spec_from_file_location("ahead._cuda", library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def entries(report: str) -> dict[str, dict[str, int]]:
    """Mangled name of a kernel -> registers, and bytes of stack, spills and static shared memory."""
    found = {}
    for entry in re.split(r"(?= '\w+' for 'sm_)", report)[1:]:
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


def build() -> dict[str, Any]:
    """The compiler's version; by architecture, of every kernel its op, its mangled name and what it takes."""
    nvcc = find_nvcc()
    if nvcc is None:
        sys.exit("nvcc is neither on PATH nor in CUDA_HOME")
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        compiled = compile_all(nvcc, Path(folder))
    kernels: dict[str, list[dict[str, Any]]] = {sm: [] for sm in ARCHITECTURES}
    for sm in ARCHITECTURES:
        for op in (*WALKS, *OTHERS, *LISTS):
            threads = threads_of(compiled[op].ptx[sm])
            for name, used in entries(compiled[op].reports[sm]).items():
                kernels[sm].append({"op": op, "kernel": name, "threads": threads.get(name, 32), **used})
    return {"nvcc": re.findall(r"V([\d.]+)", version)[0], "kernels": kernels}


if __name__ == "__main__":
    print(json.dumps(build()))
