"""Builds the compiled extensions. Neither links to torch, so building needs only a compiler and pybind11.

PYDELTA_CUDA=0|1|auto: whether to build the CUDA extension; auto (the default) builds it where nvcc is found.
PYDELTA_SANITIZE=address,undefined: builds the CPU extension with these sanitizers, for tests.
"""

from __future__ import annotations

import glob
import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SANITIZE = os.environ.get("PYDELTA_SANITIZE", "")
CUDA_TARGETS = ("80", "90")

# One copy of every CPU kernel per instruction set; the best one that the processor has is chosen at load.
BASELINE: list[str] = []
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"]
VARIANTS = {"baseline": BASELINE}
if platform.machine().lower() in ("x86_64", "amd64"):
    # Under the sanitizers, which compile slowly, the narrowest and the widest vectors.
    VARIANTS |= {"avx512": AVX512} if SANITIZE else {"avx2": AVX2, "avx512": AVX512}

# Bits must agree between backends, so the compiler may not fuse a product and a sum by itself.
CXX_FLAGS = [
    "-std=c++17",
    "-O3",
    "-g0",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fvisibility=hidden",
    "-fopenmp",
]
CXX_FLAGS += ["-Wall", "-Wextra", "-Wno-psabi", "-Wno-unknown-pragmas", "-Wno-maybe-uninitialized"]
if SANITIZE:
    CXX_FLAGS += [f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all", "-g1", "-O1"]
    # What these find, a wild pointer, stops at AddressSanitizer once it is read or written; without them the
    # kernels compile in half the time.
    CXX_FLAGS.append("-fno-sanitize=null,object-size,pointer-overflow")


def nvcc() -> str | None:
    """The CUDA compiler to use, or None."""
    wish = os.environ.get("PYDELTA_CUDA", "auto")
    if wish not in ("0", "1", "auto"):
        sys.exit(f"PYDELTA_CUDA must be 0, 1 or auto, got {wish!r}")
    if wish == "0":
        return None
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    found = shutil.which("nvcc") or shutil.which("nvcc", path=os.path.join(home, "bin"))
    if found is None and wish == "1":
        sys.exit("PYDELTA_CUDA=1 but nvcc is neither on PATH nor in CUDA_HOME")
    return found


class BuildKernels(build_ext):
    def build_extension(self, ext: Extension) -> None:
        os.makedirs(os.path.dirname(self.get_ext_fullpath(ext.name)), exist_ok=True)
        if ext.name == "pydelta._cuda":
            self.build_cuda(ext)
        else:
            self.build_cpu(ext)

    def build_cpu(self, ext: Extension) -> None:
        kernels = sorted(s for s in ext.sources if s.startswith("csrc/cpu/"))
        bindings = [s for s in ext.sources if s not in kernels]
        macros = [(f"PYDELTA_HAS_{isa.upper()}", "1") for isa in VARIANTS]
        jobs = [(source, "bindings", [pybind11.get_include()], BASELINE, macros) for source in bindings]
        for isa, flags in VARIANTS.items():
            namespace = [("PYDELTA_NAMESPACE", f"pydelta_{isa}")]
            jobs += [(source, isa, [], flags, namespace) for source in kernels]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(lambda job: self.compile(*job), jobs))
        link = ["-fopenmp", *([f"-fsanitize={SANITIZE}"] if SANITIZE else [])]
        target = self.get_ext_fullpath(ext.name)
        self.compiler.link_shared_object(objects, target, extra_postargs=link, target_lang="c++")

    def compile(
        self, source: str, part: str, include: list[str], flags: list[str], macros: list[tuple[str, str]]
    ) -> str:
        (target,) = self.compiler.compile(
            [source],
            output_dir=os.path.join(self.build_temp, part),
            include_dirs=[*include, *self.compiler.include_dirs, *self.include_dirs],
            macros=macros,
            extra_postargs=[*CXX_FLAGS, *flags],
            depends=sorted(glob.glob("csrc/**/*.h", recursive=True) + glob.glob("csrc/cpu/*.inc")),
        )
        return target

    def build_cuda(self, ext: Extension) -> None:
        compiler = nvcc()
        assert compiler is not None
        targets = [f"-gencode=arch=compute_{sm},code=sm_{sm}" for sm in CUDA_TARGETS]
        targets.append(f"-gencode=arch=compute_{CUDA_TARGETS[-1]},code=compute_{CUDA_TARGETS[-1]}")
        include = [
            f"-I{path}" for path in [pybind11.get_include(), *self.compiler.include_dirs, *self.include_dirs]
        ]
        # No fused multiply-adds unless a kernel asks for them: bits must agree between backends.
        flags = ["-std=c++17", "-O3", "-fmad=false", "-Xcompiler=-fPIC,-fvisibility=hidden"]
        os.makedirs(self.build_temp, exist_ok=True)

        def one(source: str) -> str:
            target = os.path.join(self.build_temp, os.path.basename(source) + ".o")
            command = [compiler, *flags, *targets, *include, "--threads=0", "-c", source, "-o", target]
            subprocess.run(command, check=True)
            return target

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(one, ext.sources))
        # The runtime comes along, and keeps its symbols to itself: torch brings another.
        link = [compiler, "-shared", "-cudart=static", "-Xlinker=--exclude-libs=ALL", *targets, *objects]
        subprocess.run([*link, "-o", self.get_ext_fullpath(ext.name)], check=True)


extensions = [Extension("pydelta._cpu", ["csrc/bindings.cpp", *sorted(glob.glob("csrc/cpu/*.cpp"))])]
if nvcc() and not SANITIZE:
    extensions.append(
        Extension("pydelta._cuda", ["csrc/bindings_cuda.cpp", *sorted(glob.glob("csrc/cuda/*.cu"))])
    )

setup(ext_modules=extensions, cmdclass={"build_ext": BuildKernels})
