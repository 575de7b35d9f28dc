"""``pydelta seal``: the sum in full of a low-bit store's newest bucket is dropped."""

from __future__ import annotations

import argparse

from pydelta.cli.arguments import Commands, report
from pydelta.superposition import Superposition


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "seal",
        help="drop the sum in full of a low-bit store's newest bucket",
        description="Drop the sum in full beside the newest codes; the next model begins a new bucket.",
    )
    parser.add_argument("store", metavar="STORE", help="made by pydelta compress")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    report(Superposition.open(args.store).seal(), args)
    return 0
