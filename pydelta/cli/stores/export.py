"""``pydelta export``: models of a store as Hugging Face folders."""

from __future__ import annotations

import argparse
import json

from pydelta.cli.arguments import Commands, add_out_dtype_flag
from pydelta.superposition import Superposition


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "export",
        help="write models of a store as Hugging Face folders",
        description="Write all models of a store, or some, as Hugging Face folders below a new folder.",
    )
    parser.add_argument("store", metavar="STORE", help="made by pydelta compress")
    parser.add_argument(
        "-o",
        "--out",
        required=True,
        nargs="+",
        metavar=("DIR", "NAME"),
        help="the folder to make, and the models; default: all",
    )
    parser.add_argument("--base", metavar="B", help="where the store's base is; default: where it was")
    add_out_dtype_flag(parser)
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    store = Superposition.open(args.store)
    out, *names = args.out
    options = {"base": args.base, "out_dtype": args.out_dtype, "progress": not args.quiet}
    paths = store.export(out, names or None, **options)
    if args.json:
        print(json.dumps({"store": args.store, "out": [str(path) for path in paths]}))
    elif not args.quiet:
        print("\n".join(map(str, paths)))
    return 0
