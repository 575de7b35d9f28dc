"""The files of the demo, and the processes that turn them into one another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pydelta
from pydelta.demo.data import PIXELS
from pydelta.demo.train import Weights


def write_model(weights: Weights, folder: Path) -> None:
    """A folder as of a Hugging Face model: config.json and model.safetensors."""
    folder.parent.mkdir(exist_ok=True)
    pydelta.save_checkpoint(weights, folder)
    hidden = len(weights["0.bias"])
    config = {
        "model_type": "digits-perceptron",
        "pixels": PIXELS,
        "hidden_size": hidden,
        "classes": 10,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def bytes_of(*paths: Path) -> int:
    """Bytes of all files under the paths."""
    return sum(file.stat().st_size for path in paths for file in path.rglob("*") if file.is_file())


def compress(models: Path, names: list[str], store: Path, flags: list[str], threads: int) -> None:
    """``pydelta compress`` of the folders ``models/<name>`` against ``models/base``."""
    model_flags = [f"--model={name}={models / name}" for name in names]
    arguments = ["compress", f"--base={models / 'base'}", *model_flags, "-o", str(store), *flags, "--quiet"]
    _python("pydelta", arguments, salt="1", threads=threads)


def retrieve(folder: Path, stores: list[str], threads: int) -> dict[str, dict[str, float]]:
    """Every model of ``store-<name>`` into ``retrieved-<name>/<model>``, by a new process that has the files.

    Returns:
        What :mod:`pydelta.demo.retrieve_all` reports: by store, median times.
    """
    printed = _python("pydelta.demo.retrieve_all", [str(folder), *stores], salt="2", threads=threads)
    times: dict[str, dict[str, float]] = json.loads(printed)
    return times


def _python(module: str, arguments: list[str], *, salt: str, threads: int) -> str:
    """What a new interpreter that runs a module writes to stdout; ``salt`` is that of Python's ``hash``."""
    environment = {**os.environ, "PYTHONHASHSEED": salt, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
