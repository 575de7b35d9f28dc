"""The command line: one module a command, what they share in ``arguments``, and ``main``."""

from pydelta.cli.main import main

__all__ = ["main"]
