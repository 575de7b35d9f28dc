"""From arguments to a command, and from its end to an exit status.

0: done. 1: the command failed, in one line on stderr. 2: usage. 130: interrupted. 141: the reader of our
output has gone.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

from pydelta.cli import demo, diff, env, inspect, merge, patch, prune, similarity, vera
from pydelta.cli.stores import add, compress, export, list, remove, retrieve, seal, verify
from pydelta.core.version import __version__

STORES = (compress, retrieve, add, remove, seal, export, list, verify)
COMMANDS = (merge, prune, similarity, *STORES, diff, patch, vera, inspect, env, demo)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="pydelta", description="Merge, prune and compress fine-tuned models.")
    top.add_argument("--version", action="version", version=f"pydelta {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status.

    Raises:
        SystemExit: bad usage (2), ``--help`` and ``--version`` (0).
    """
    args, rest = parser().parse_known_args(argv)
    if rest and args.command != "demo":
        Parser(prog=f"pydelta {args.command}").error(f"unrecognized arguments: {' '.join(rest)}")
    args.rest = rest
    try:
        with warnings.catch_warnings():
            warnings.showwarning = functools.partial(_say, args)
            status: int = args.run(args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # The interpreter flushes stdout once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return _fail(args.command, "interrupted", 130)
    except MemoryError:
        return _fail(args.command, "out of memory", 1)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        return _fail(args.command, _sentence(error), 1)


def _say(args: argparse.Namespace, message: Warning | str, *_: object) -> None:
    """A warning in one line, where the command is to print more than errors."""
    if not getattr(args, "quiet", False):
        print(f"pydelta {args.command}: {' '.join(str(message).split())}", file=sys.stderr)


def _fail(command: str, message: str, status: int) -> int:
    print(f"pydelta {command}: {' '.join(message.split())}", file=sys.stderr)
    return status


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)
