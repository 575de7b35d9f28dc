"""``pydelta retrieve``: one model out of a store."""

from __future__ import annotations

import argparse
import json

from pydelta.cli.arguments import Commands, add_out_dtype_flag, add_output_flags, number
from pydelta.superposition import Superposition


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "retrieve",
        help="get one model back out of a store",
        description="Get one model back, as a checkpoint with the base's shards, config and tokenizer.",
    )
    parser.add_argument("store", metavar="STORE", help="made by pydelta compress")
    parser.add_argument("name", metavar="NAME", help="of the model")
    parser.add_argument(
        "-o", "--out", required=True, metavar="OUT", help="a folder, or one file if it ends in .safetensors"
    )
    parser.add_argument("--base", metavar="B", help="where the store's base is; default: where it was")
    parser.add_argument("--lam", type=number, metavar="X", help="factor of the delta; default: the store's")
    add_out_dtype_flag(parser)
    add_output_flags(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    store = Superposition.open(args.store)
    options = {"base": args.base, "lam": args.lam, "out_dtype": args.out_dtype, "force": args.force}
    path = store.retrieve(args.name, args.out, progress=not args.quiet, **options)
    if args.json:
        lam = store.manifest.lam if args.lam is None else args.lam
        print(json.dumps({"store": args.store, "model": args.name, "out": str(path), "lam": lam}))
    elif not args.quiet:
        print(path)
    return 0
