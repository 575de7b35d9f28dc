"""``pydelta env``: what a bug report needs."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
from typing import Any

from pydelta.cli.arguments import Commands
from pydelta.core.version import __version__


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "env", help="versions, instruction set, backends", description="Print what a bug report needs."
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    facts = environment()
    if args.json:
        print(json.dumps(facts, indent=1))
        return 0
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name.replace('_', ' ').ljust(width)}  {_text(value)}")
    return 0


def environment() -> dict[str, Any]:
    """Versions, machine, what was compiled, and each backend: True, or why it is not there."""
    import torch

    from pydelta import _dispatch

    here = _dispatch.backends()
    return {
        "pydelta": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "instruction_set": _ask("_cpu", "isa"),
        "instruction_sets_built": _ask("_cpu", "isas"),
        "cuda_targets": _ask("_cuda", "targets"),
        "backends": {name: present or _dispatch.missing(name) for name, present in here.items()},
    }


def _ask(extension: str, question: str) -> Any:
    """What a compiled extension says; None where it was not built."""
    try:
        module = importlib.import_module(f"pydelta.{extension}")
    except ModuleNotFoundError:
        return None
    return getattr(module, question)()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(name if there is True else f"no {name} ({there})" for name, there in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)
