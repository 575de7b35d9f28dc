"""The command line: ``pydelta compress | retrieve | inspect | env | demo``."""

from pydelta.cli.main import main

__all__ = ["main"]
