"""``pydelta merge`` and mergekit on the same recipes: four bf16 fine-tunes of about 350 million parameters.

Both run as commands, so the figures hold the start of Python and all imports. mergekit needs an environment
of its own: ``MERGEKIT_YAML`` names its executable ``mergekit-yaml``; otherwise it is looked for on the path.
``MERGE_MODELS`` names a folder of ``make_models.py`` that is used again.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from harness import ALL_THREADS, MIB
from make_models import NAMES, make
from pytest_benchmark.fixture import BenchmarkFixture
from summary import Result

from pydelta import load_checkpoint

ROUNDS = 3  # whole commands take seconds: it bounds the run's time
HALF = {"density": 0.5}
METHODS = {
    "linear": {},
    "task_arithmetic": {},
    "dare_linear": HALF,
    "dare_ties": HALF,
    "ties": HALF,
    "breadcrumbs": {**HALF, "gamma": 0.01},
    "della": {**HALF, "epsilon": 0.1},
}


@pytest.fixture(scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if "MERGE_MODELS" in os.environ:
        yield Path(os.environ["MERGE_MODELS"])
        return
    root = tmp_path_factory.mktemp("models")
    make(root, layers=1 if request.config.option.quick else 25)
    yield root
    shutil.rmtree(root)


def recipe(method: str) -> str:
    models = [
        {"model": name, "parameters": {"weight": 0.25 * (i + 1), **METHODS[method]}}
        for i, name in enumerate(NAMES[1:])
    ]
    content = {"merge_method": method, "models": models, "dtype": "bfloat16"}
    return yaml.safe_dump(content if method == "linear" else {**content, "base_model": "base"})


def command(words: list[str], folder: Path) -> tuple[float, int]:
    """Seconds and peak resident bytes, read from /proc while it runs."""
    start = time.perf_counter()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        words, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, resident(process.pid))
        time.sleep(0.02)
    seconds = time.perf_counter() - start
    assert process.stderr is not None
    message = process.stderr.read().decode()
    process.stderr.close()
    assert process.returncode == 0, message
    return seconds, peak


def resident(process: int) -> int:
    """The peak so far; 0 for a process that has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return next((1024 * int(x.split()[1]) for x in status.splitlines() if x.startswith("VmHWM")), 0)


def mergekit() -> str | None:
    return os.environ.get("MERGEKIT_YAML") or shutil.which("mergekit-yaml")


@pytest.mark.parametrize("method", METHODS)
def test_merge(method: str, folder: Path, benchmark: BenchmarkFixture, results: list[Result]) -> None:
    (folder / "recipe.yml").write_text(recipe(method))
    ours = [sys.executable, "-m", "pydelta", "merge", "recipe.yml", "ours", "--quiet"]
    runs = []

    def before() -> None:
        shutil.rmtree(folder / "ours", ignore_errors=True)

    benchmark.pedantic(lambda: runs.append(command(ours, folder)), setup=before, rounds=ROUNDS)
    inputs = sum((folder / name / "model.safetensors").stat().st_size for name in NAMES)
    peak = max(run[1] for run in runs)
    result = {
        "op": "merge models",
        "transform": method,
        "dtype": "bf16",
        "threads": ALL_THREADS,
        "models": len(NAMES) - 1,
        "size": inputs,
        "seconds": statistics.median(run[0] for run in runs),
        "peak_mib": peak / MIB,
        "peers": {},
    }
    results.append(result)
    executable = mergekit()
    if executable is None:
        pytest.skip("mergekit-yaml is neither named by MERGEKIT_YAML nor on the path")
    theirs = [executable, "recipe.yml", "theirs", "--no-write-model-card", "--no-copy-tokenizer"]
    seconds, memory = command([*theirs, "--allow-crimes"], folder)
    result |= {"peers": {"mergekit": seconds}, "over_memory": peak / memory, "mergekit_mib": memory / MIB}
    if method in ("linear", "task_arithmetic"):
        compare(folder / "ours", folder / "theirs")
    shutil.rmtree(folder / "ours")
    shutil.rmtree(folder / "theirs")


def compare(ours: Path, theirs: Path) -> None:
    """The two agree to the roundings that mergekit makes in bf16."""
    found, wanted = load_checkpoint(ours), load_checkpoint(theirs)
    for name, x in wanted.items():
        error = (found[name].float() - x.float()).abs()
        assert bool((error <= 2**-6 * x.float().abs() + 1e-3).all()), name
