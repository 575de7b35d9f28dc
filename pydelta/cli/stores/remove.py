"""``pydelta remove``: a model out of a store."""

from __future__ import annotations

import argparse

from pydelta.cli.arguments import Commands, add_store_flags, report, split_model
from pydelta.superposition import Superposition


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "remove",
        help="take a model out of a store",
        description="Take a model out of a store by subtracting the delta of its tuned checkpoint.",
    )
    add_store_flags(parser)
    parser.add_argument("name", metavar="NAME", help="of the model")
    parser.set_defaults(run=run, fail=parser.error)


def run(args: argparse.Namespace) -> int:
    name, path = split_model(args.model)
    if args.model == f"{name}={path}" and name != args.name:
        args.fail(f"--model must be of the model {args.name!r}, got {args.model!r}")
    store = Superposition.open(args.store)
    report(store.remove(args.name, path, base=args.base, progress=not args.quiet), args)
    return 0
