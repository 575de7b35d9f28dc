"""``pydelta patch``: the fine-tune back from its base and a delta file."""

from __future__ import annotations

import argparse
import json

from pydelta.cli.arguments import Commands, add_output_flags


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "patch",
        help="make a fine-tune from its base and a delta file",
        description="Make a fine-tune, as a checkpoint with the base's shards, config and tokenizer.",
    )
    parser.add_argument("base", metavar="BASE", help="the checkpoint that the file was made from")
    parser.add_argument("file", metavar="FILE", help="made by pydelta diff")
    parser.add_argument(
        "-o", "--out", required=True, metavar="OUT", help="a folder, or one file if it ends in .safetensors"
    )
    add_output_flags(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from pydelta.deltafile import describe, patch

    path = patch(args.base, args.file, args.out, force=args.force, progress=not args.quiet)
    if args.json:
        model = describe(args.file)["model"]
        print(json.dumps({"base": args.base, "file": args.file, "model": model, "out": str(path)}))
    elif not args.quiet:
        print(path)
    return 0
