"""``pydelta list``: the models of a store."""

from __future__ import annotations

import argparse
import json

from pydelta.cli.arguments import Commands
from pydelta.superposition import Superposition


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "list", help="list the models of a store", description="List the models of a store, one a line."
    )
    parser.add_argument("store", metavar="STORE", help="made by pydelta compress")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    names = Superposition.open(args.store).models
    print(json.dumps({"store": args.store, "models": names}) if args.json else "\n".join(names))
    return 0
