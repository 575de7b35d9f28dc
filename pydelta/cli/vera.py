"""``pydelta vera``: adapters of VeRA merged, listed, exported."""

from __future__ import annotations

import argparse
import json

from pydelta.cli.arguments import Commands, add_output_flags


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "vera",
        help="merge, list or export a VeRA adapter",
        description="Merge a VeRA adapter into its base, list what it holds, or export it.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    merge = actions.add_parser("merge", help="make a checkpoint with an adapter merged in")
    merge.add_argument("base", metavar="BASE", help="a Hugging Face folder or a safetensors file")
    merge.add_argument("adapter", metavar="ADAPTER", help="an adapter's file, or a folder of PEFT's")
    _add_out(merge, "a folder, or one file if it ends in .safetensors")
    merge.add_argument(
        "--projection-dtype",
        choices=("float32", "bfloat16", "float16"),
        help="the base's dtype when PEFT trained the adapter; default: that of BASE",
    )
    merge.set_defaults(run=run_merge)
    inspect = actions.add_parser("inspect", help="list what an adapter's file holds")
    inspect.add_argument("adapter", metavar="ADAPTER", help="an adapter's file")
    inspect.add_argument("--json", action="store_true", help="print the result as JSON")
    inspect.set_defaults(run=run_inspect)
    export = actions.add_parser("export", help="write an adapter for another package")
    export.add_argument("adapter", metavar="ADAPTER", help="an adapter's file")
    export.add_argument("--peft", action="store_true", required=True, help="as a folder that PEFT loads")
    _add_out(export, "a new folder")
    export.set_defaults(run=run_export)


def _add_out(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("-o", "--out", required=True, metavar="OUT", help=what)
    add_output_flags(parser)


def run_merge(args: argparse.Namespace) -> int:
    import torch

    from pydelta.vera import merge_checkpoint

    dtype = getattr(torch, args.projection_dtype) if args.projection_dtype else None
    options = {"force": args.force, "show": not args.quiet, "projection_dtype": dtype}
    path = merge_checkpoint(args.base, args.adapter, args.out, **options)
    return _say(args, {"base": args.base, "adapter": args.adapter, "out": str(path)})


def run_export(args: argparse.Namespace) -> int:
    from pydelta.vera.file import read
    from pydelta.vera.peft import write_peft

    stored = read(args.adapter)
    inputs = {layer: size.inputs for layer, size in stored.sizes.items()}
    write_peft(args.out, stored, inputs, dropout=0.0, conv1d=False, force=args.force)
    return _say(args, {"adapter": args.adapter, "out": args.out})


def _say(args: argparse.Namespace, done: dict[str, str]) -> int:
    if args.json:
        print(json.dumps(done))
    elif not args.quiet:
        print(done["out"])
    return 0


def run_inspect(args: argparse.Namespace) -> int:
    from pydelta.vera import inspect

    summary = inspect(args.adapter)
    if args.json:
        print(json.dumps(summary, indent=1))
        return 0
    print(f"{summary['path']}: VeRA adapter, {len(summary['layers'])} layers, {summary['bytes']:,} bytes")
    print(
        f"seed {summary['seed']}, rank {summary['rank']}, {summary['parameters']:,} parameters, "
        f"{summary['bytes_beside_vectors']} bytes beside them"
    )
    for layer in summary["layers"]:
        print(f"{layer['name']}  {layer['in']} -> {layer['out']}")
    for part in summary["trained"]:
        print(f"{part['name']}  {part['parameters']:,} parameters, trained in full")
    return 0
