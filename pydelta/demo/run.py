"""``pydelta demo``."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

MARK = "demo.json"
"""The file by which a folder is known to be a demo's."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """In one line."""
        self.exit(2, f"{self.prog}: {message}\n")


def main(argv: list[str] | None = None) -> int:
    """The command.

    Raises:
        ImportError: scikit-learn or matplotlib is not installed.
        OSError: ``--out`` exists and may not be replaced, or cannot be written.
        RuntimeError: one of the processes that it starts failed.
        SystemExit: bad usage (2).
    """
    arguments = _parser().parse_args(argv)
    if any(importlib.util.find_spec(name) is None for name in ("sklearn", "matplotlib")):
        raise ImportError("needs scikit-learn and matplotlib: pip install 'pydelta[demo]'")
    _make_folder(arguments.out, force=arguments.force)
    try:
        result = _run(arguments)
    except BaseException:
        shutil.rmtree(arguments.out)
        raise
    if arguments.json:
        print(json.dumps(result))
    elif arguments.vera:
        from pydelta.demo.vera import table as vera_table

        print(vera_table(result))
        print(f"numbers: {arguments.out / MARK}")
    else:
        from pydelta.demo.report import table

        print(table(result))
        print(f"picture: {arguments.out / 'demo.png'}; numbers: {arguments.out / MARK}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="pydelta demo",
        description="Train a network on handwritten digits and fine-tune it on eight views of them, compress "
        "the eight into one store, get each back from the file in a new process, and compare.",
    )
    parser.add_argument("--seed", type=seed, default=42, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("demo"),
        metavar="DIR",
        help="a new folder; default: %(default)s",
    )
    parser.add_argument(
        "--threads",
        type=_threads,
        default=1,
        metavar="N",
        help="default: %(default)s, whatever the machine has",
    )
    parser.add_argument(
        "--vera",
        action="store_true",
        help="train VeRA adapters for the views instead, beside full fine-tuning and PEFT's LoRA",
    )
    parser.add_argument("--force", action="store_true", help="replace the folder of an earlier demo")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead of a table")
    return parser


def seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 1 << 64:
        raise argparse.ArgumentTypeError(f"must lie in [0, 2**64), got {text}")
    return value


def _threads(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def _make_folder(out: Path, *, force: bool) -> None:
    if os.path.lexists(out):
        if not force:
            raise FileExistsError(f"{out}: already exists; --force replaces it")
        if not (out / MARK).is_file():
            raise FileExistsError(f"{out}: not the folder of a demo, which alone --force replaces")
        shutil.rmtree(out)
    out.mkdir()
    (out / MARK).write_text("{}\n")


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    from pydelta.demo.pipeline import run
    from pydelta.demo.train import Recipe

    start = time.perf_counter()

    def say(line: str) -> None:
        if not arguments.quiet:
            print(f"[{time.perf_counter() - start:3.0f} s] {line}", file=sys.stderr, flush=True)

    threads = torch.get_num_threads()
    torch.set_num_threads(arguments.threads)
    try:
        if arguments.vera:
            from pydelta.demo import vera

            return vera.run(arguments.out, Recipe(hidden=512), vera.Settings(), seed=arguments.seed, say=say)
        return run(arguments.out, Recipe(), seed=arguments.seed, threads=arguments.threads, say=say)
    finally:
        torch.set_num_threads(threads)
