"""``pydelta compress`` and ``pydelta retrieve`` on a synthetic bf16 checkpoint, in a process of their own.

Beside them the same bytes go through plain reads and writes. Peak memory is the process's whole resident set,
Python and torch included.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from harness import ALL_THREADS, MIB
from pytest_benchmark.fixture import BenchmarkFixture
from safetensors import safe_open
from safetensors.torch import save_file
from summary import Result

MODELS = 4
ROUNDS = 3  # whole commands take seconds: it bounds the run's time
# Runs one command after the imports; prints its seconds and the process's peak resident set in bytes.
# (getrusage would count the parent's memory at the fork.)
CHILD = """
import json, sys, time
import torch, pydelta.cli
start = time.perf_counter()
try:
    code = pydelta.cli.main()
except SystemExit as stop:
    code = stop.code
seconds = time.perf_counter() - start
if code:
    sys.exit(code)
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([seconds, 1024 * int(peak)]))
"""


def shapes(width: int, layers: int, vocabulary: int) -> dict[str, tuple[int, ...]]:
    """A language model's tensors, gated MLP and tied embedding."""
    inner = 11 * width // 4
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, width)}
    for i in range(layers):
        for name in ("q", "k", "v", "o"):
            found[f"model.layers.{i}.self_attn.{name}_proj.weight"] = (width, width)
        for name, shape in (("gate", (inner, width)), ("up", (inner, width)), ("down", (width, inner))):
            found[f"model.layers.{i}.mlp.{name}_proj.weight"] = shape
        found[f"model.layers.{i}.input_layernorm.weight"] = (width,)
    return found


@pytest.fixture(scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """``base`` and ``model0`` ... as Hugging Face folders, about 140 MB each."""
    root = tmp_path_factory.mktemp("checkpoints")
    layout = shapes(512, 2, 4000) if request.config.option.quick else shapes(1024, 4, 16000)
    torch.manual_seed(0)
    base = {name: 0.02 * torch.randn(shape) for name, shape in layout.items()}
    for model in ("base", *(f"model{i}" for i in range(MODELS))):
        step = 0.0 if model == "base" else 1e-3
        tensors = {name: (x + step * torch.randn_like(x)).bfloat16() for name, x in base.items()}
        (root / model).mkdir()
        save_file(tensors, root / model / "model.safetensors", metadata={"format": "pt"})
        (root / model / "config.json").write_text(json.dumps({"model_type": "synthetic"}))
    yield root
    shutil.rmtree(root)


def pydelta_command(arguments: list[str]) -> tuple[float, int]:
    """Seconds and peak bytes of one command."""
    command = [sys.executable, "-c", CHILD, *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    seconds, peak = json.loads(run.stdout.splitlines()[-1])
    return seconds, peak


def plain_copy(inputs: list[Path], outputs: list[Path], scratch: Path) -> float:
    """Seconds to read every byte of ``inputs`` and to write as many bytes as ``outputs`` hold."""
    buffer = memoryview(bytearray(8 * MIB))
    start = time.perf_counter()
    for path in inputs:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    for number, path in enumerate(outputs):
        with open(scratch / str(number), "wb", buffering=0) as file:
            for left in range(path.stat().st_size, 0, -len(buffer)):
                file.write(buffer[:left])
    return time.perf_counter() - start


def files(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]


def measure(
    benchmark: BenchmarkFixture, command: Callable[[], tuple[float, int]], sources: list[Path], output: Path
) -> Result:
    """Times ``command``, which writes ``output``, and the plain copy, turn about."""
    command()
    copies, runs = [], []

    def before() -> None:
        outputs = files(output)
        scratch = output.with_name("scratch")
        scratch.mkdir()
        copies.append(plain_copy(sources, outputs, scratch))
        shutil.rmtree(scratch)
        shutil.rmtree(output)

    benchmark.pedantic(lambda: runs.append(command()), setup=before, rounds=ROUNDS)
    seconds, copied = statistics.median(run[0] for run in runs), statistics.median(copies)
    peak, largest = max(run[1] for run in runs), largest_tensor(sources)
    return {
        "dtype": "bf16",
        "threads": ALL_THREADS,
        "models": MODELS,
        "size": sum(path.stat().st_size for path in sources),
        "seconds": seconds,
        "over_copy": seconds / copied,
        "peak_mib": peak / MIB,
        "over_memory": peak / (300 * MIB + 2 * (MODELS + 1) * largest),
        "peers": {"plain copy": copied},
    }


def largest_tensor(sources: list[Path]) -> int:
    """Bytes of the largest tensor of the base, whose files come first."""
    with safe_open(next(path for path in sources if path.suffix == ".safetensors"), "pt") as file:
        return max(2 * file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118


def compress(folder: Path, transform: str) -> list[str]:
    models = [f"--model=model{i}={folder / f'model{i}'}" for i in range(MODELS)]
    where = ["--base", str(folder / "base"), "-o", str(folder / transform)]
    return ["compress", *where, *models, "--transform", transform, "--quiet"]


@pytest.mark.parametrize("transform", ["sign", "hadamard"])
def test_compress(transform: str, folder: Path, benchmark: BenchmarkFixture, results: list[Result]) -> None:
    arguments = compress(folder, transform)
    sources = files(*(folder / name for name in ("base", *(f"model{i}" for i in range(MODELS)))))
    result = measure(benchmark, lambda: pydelta_command(arguments), sources, folder / transform)
    results.append({"op": "compress", "transform": transform, **result})


@pytest.mark.parametrize("transform", ["sign", "hadamard"])
def test_retrieve(transform: str, folder: Path, benchmark: BenchmarkFixture, results: list[Result]) -> None:
    store, output = folder / transform, folder / "retrieved"
    if not store.exists():
        pydelta_command(compress(folder, transform))
    where = ["--base", str(folder / "base"), "-o", str(output)]
    arguments = ["retrieve", str(store), "model0", *where, "--quiet"]
    sources = files(folder / "base", store)
    result = measure(benchmark, lambda: pydelta_command(arguments), sources, output)
    results.append({"op": "retrieve files", "transform": transform, **result})
    shutil.rmtree(output)
