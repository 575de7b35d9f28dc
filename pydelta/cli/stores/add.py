"""``pydelta add``: one more model into a store."""

from __future__ import annotations

import argparse

from pydelta.cli.arguments import (
    Commands,
    add_calibration_flag,
    add_missing_flag,
    add_store_flags,
    calibration_files,
    positive,
    report,
    split_model,
)
from pydelta.superposition import Superposition


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "add",
        help="add a model to a store",
        description="Add a model to a store; whoever has the store open keeps what it was.",
    )
    add_store_flags(parser)
    parser.add_argument(
        "--weight", type=positive, default=1.0, metavar="W", help="of its delta in the sum; default: 1"
    )
    add_calibration_flag(parser)
    add_missing_flag(parser)
    parser.set_defaults(run=run, fail=parser.error)


def run(args: argparse.Namespace) -> int:
    name, path = split_model(args.model)
    if not name or not path:
        args.fail(f"--model must be NAME=PATH or PATH, got {args.model!r}")
    calibration = calibration_files(args, [name]).get(name)
    store = Superposition.open(args.store)
    options = {"base": args.base, "weight": args.weight, "progress": not args.quiet}
    report(store.add(name, path, calibration=calibration, allow_missing=args.allow_missing, **options), args)
    return 0
