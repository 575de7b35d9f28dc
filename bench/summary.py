"""The table at the end of a run and the JSON file."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

Result = dict[str, Any]

MIB, GIB = 1 << 20, 1 << 30
PACKAGES = ("torch", "numpy", "scipy", "fht-cpu", "triton", "pytest-benchmark")


def where(r: Result) -> str:
    parts = [r["op"], r.get("transform"), r.get("dtype"), r.get("row"), text(r["size"])]
    return " ".join(str(part) for part in [*parts, f"{r['threads']}t", place(r), r.get("backend")] if part)


def place(r: Result) -> str:
    return "in place" if r.get("inplace") else ""


def text(size: int) -> str:
    return f"{size // MIB} MiB" if size >= MIB else f"{size // 1024} KiB"


def table(results: list[Result]) -> list[str]:
    """One line per result: GB/s by the bytes that must move, beside the copy of as many bytes."""
    head = f"{'op':<40} {'time':>10} {'GB/s':>7} {'copy':>7} {'of copy':>8}  peers: their time over ours"
    return [head, *(line(r) for r in results)]


def line(r: Result) -> str:
    peers = ", ".join(f"{name} {value / r['seconds']:.3g}x" for name, value in r.get("peers", {}).items())
    gbps = [f"{r[name]:.4g}" if name in r else "" for name in ("gbps", "copy_gbps")]
    share = f"{r['fraction']:.2f}" if "fraction" in r else ""
    return f"{where(r):<40} {duration(r['seconds']):>10} {gbps[0]:>7} {gbps[1]:>7} {share:>8}  {peers}"


def duration(seconds: float) -> str:
    for unit, name in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds * 1e6:.3g} us"


def write(path: Path, results: list[Result]) -> None:
    """One result a line, so that two runs can be compared with diff."""
    path.parent.mkdir(exist_ok=True)
    rows = ",\n".join("  " + json.dumps(rounded(r)) for r in results)
    head = json.dumps({"machine": machine(), "versions": versions(), "commit": commit()}, indent=1)
    path.write_text(head.removesuffix("\n}") + f',\n "results": [\n{rows}\n ]\n}}\n')


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def machine() -> dict[str, Any]:
    import torch

    import pydelta

    cpu = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        facts = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((fact.split(":", 1)[1].strip() for fact in facts if fact.startswith("model name")), cpu)
    found = {
        "cpu": cpu,
        "isa": isa(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "system": platform.platform(),
        "backends": [name for name, present in pydelta.backends().items() if present],
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def isa() -> str:
    """The instruction set whose kernels run here."""
    import pydelta
    from pydelta import native

    return str(native.extension("cpu").isa()) if pydelta.backends()["cpu"] else "none"


def versions() -> dict[str, str]:
    import pydelta

    found = {"python": platform.python_version(), "pydelta": pydelta.__version__}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit that was measured; "-dirty" where files differ from it."""
    here = Path(__file__).parent
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    run = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    return run.stdout.strip() or "unknown"
