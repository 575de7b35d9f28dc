"""Prints, as JSON, the machine that run.py measures, its GPU and driver, the versions and the commit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # bench/: modules are named from there
from summary import commit, machine, versions


def printed(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"unknown: {error}"


def gpu() -> dict[str, Any]:
    if not torch.cuda.is_available():
        return {"gpu": "none"}
    found = torch.cuda.get_device_properties(0)
    return {
        "gpu": found.name,
        "capability": f"{found.major}.{found.minor}",
        "multiprocessors": found.multi_processor_count,
        "memory": found.total_memory,
        "l2": found.L2_cache_size,
        "driver": printed("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "clocks": printed("nvidia-smi", "--query-gpu=clocks.max.sm,clocks.max.mem", "--format=csv,noheader"),
    }


if __name__ == "__main__":
    cuda = {"cuda": str(torch.version.cuda), "nvcc": printed("nvcc", "--version").rsplit("\n", 1)[-1]}
    facts = {"machine": machine() | gpu(), "versions": versions() | cuda, "commit": commit()}
    print(json.dumps(facts))
