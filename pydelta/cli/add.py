"""``pydelta add``: one more model into a store."""

from __future__ import annotations

import argparse
import json

from pydelta.cli.calibration import add_calibration_flag, calibration_files
from pydelta.cli.compress import Commands, positive, split_model
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
    parser.set_defaults(run=run, fail=parser.error)


def add_store_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", metavar="STORE", help="made by pydelta compress")
    parser.add_argument("--base", metavar="B", help="where the store's base is; default: where it was")
    parser.add_argument(
        "--model",
        required=True,
        metavar="NAME=PATH",
        help="the tuned checkpoint; NAME: the last part of PATH",
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    name, path = split_model(args.model)
    if not name or not path:
        args.fail(f"--model must be NAME=PATH or PATH, got {args.model!r}")
    calibration = calibration_files(args, [name]).get(name)
    store = Superposition.open(args.store)
    options = {"base": args.base, "weight": args.weight, "progress": not args.quiet}
    report(store.add(name, path, calibration=calibration, **options), args)
    return 0


def report(store: Superposition, args: argparse.Namespace) -> None:
    """Prints what a store has become."""
    found = store.describe()
    if args.json:
        print(json.dumps(found, indent=1))
    elif not args.quiet:
        print(f"{store.path}: {len(store.models)} models in {found['bytes']:,} bytes")
