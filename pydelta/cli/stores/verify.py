"""``pydelta verify``: does a store hold what it says?"""

from __future__ import annotations

import argparse
import json

from pydelta.cli.arguments import Commands
from pydelta.superposition import Superposition


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "verify",
        help="read all of a store and compare it with its digests",
        description="Read all of a store; name every tensor that is truncated, edited or not finite.",
    )
    parser.add_argument("store", metavar="STORE", help="made by pydelta compress")
    parser.add_argument("--base", metavar="B", help="compare this base with the store's as well")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    problems = Superposition.verify(args.store, base=args.base, progress=not args.quiet)
    if args.json:
        print(json.dumps({"store": args.store, "sound": not problems, "problems": problems}))
    elif not problems and not args.quiet:
        print(f"{args.store}: sound")
    if problems:
        raise ValueError("; ".join(problems))
    return 0
