"""The CUDA extension for the CPU: built with the emulator's headers in the place of CUDA's."""

import importlib.util
import os
import platform
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from paths import ROOT, TESTS

from pydelta import native

CSRC, EMULATOR = ROOT / "csrc", TESTS / "support" / "emulator"
FLAGS = ("-std=c++17", "-O1", "-fPIC", "-ffp-contract=off", "-fvisibility=hidden")


def missing():
    """Why the kernels cannot be built here, in words."""
    if platform.machine() != "x86_64":
        return "the emulator is for x86-64"
    if shutil.which("g++") is None:
        return "g++ is not present"
    version = subprocess.run(["g++", "-dumpversion"], capture_output=True, text=True, check=True).stdout
    if int(version.split(".")[0]) < 12:
        return "g++ is older than 12 and knows no _Float16"
    if importlib.util.find_spec("pybind11") is None:
        return "the package pybind11 is not installed"
    if not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        return "Python's headers are not installed"
    return None


def build(folder):
    """The extension, built in a folder. Skips the test where it cannot be built."""
    if reason := missing():
        pytest.skip(reason)
    import pybind11

    headers = [EMULATOR, pybind11.get_include(), sysconfig.get_paths()["include"]]
    include = [f"-I{path}" for path in headers]

    def compiled(source):
        target = folder / f"{source.name}.o"
        command = ["g++", *FLAGS, *include, "-include", "cuda_emulator.h", "-x", "c++", "-c", source]
        subprocess.run([*command, "-o", target], check=True)
        return target

    sources = [CSRC / "bindings_cuda.cpp", *(CSRC / "cuda").glob("*.cu"), EMULATOR / "cuda_emulator.cpp"]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, sources))
    library = folder / "_cuda.so"
    subprocess.run(["g++", "-shared", *objects, "-o", library], check=True)
    spec = importlib.util.spec_from_file_location("emulated._cuda", library)
    extension = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(extension)
    return extension


def on_stream(kernel):
    """A kernel that takes the threads, which tensors on the CPU come with, for its stream."""

    def run(*arguments, **named):
        if "threads" in named:
            named["stream"] = named.pop("threads")
        kernel(*arguments, **named)

    run.__doc__ = kernel.__doc__
    run.__name__ = kernel.__name__
    return run


def functions(extension):
    """Those of ``pydelta.native`` on an extension; they write into ``out``."""
    ops = [op for op in dir(extension) if op in native.__all__]
    emulated = SimpleNamespace(
        __name__=extension.__name__, **{op: on_stream(getattr(extension, op)) for op in ops}
    )
    return SimpleNamespace(**{op: partial(getattr(native, op), emulated) for op in ops})
