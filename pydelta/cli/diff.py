"""``pydelta diff``: what a fine-tune changed, in one file."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from pydelta.checkpoint.quantised.kinds import listed
from pydelta.cli.arguments import (
    Commands,
    add_dequantize_flag,
    add_mask_flags,
    add_output_flags,
    fraction,
    seed,
    tuned_model,
)
from pydelta.core.mask_names import BREADCRUMBS, RANDOM
from pydelta.deltafile.manifest import BITS, MOSTLY, NONE, TRANSFORMS


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "diff",
        help="store what a fine-tune changed in its base",
        description="Store what a fine-tune changed in its base: all of it (--lossless), a part (--keep), "
        "or low-bit codes of it (--bits).",
    )
    parser.add_argument("base", metavar="BASE", help="a Hugging Face folder or a safetensors file")
    parser.add_argument("tuned", metavar="TUNED", help="the checkpoint that was tuned from it")
    parser.add_argument("-o", "--out", required=True, metavar="FILE", help="the file to make")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--keep", type=fraction, metavar="X", help="the fraction of each matrix that is kept")
    how.add_argument("--lossless", action="store_true", help="keep all; patch gives TUNED bit for bit")
    how.add_argument("--bits", type=int, choices=BITS, help="keep codes of so many bits, unbiased")
    parser.add_argument(
        "--group", type=group, metavar="N", help="the columns that share a code's scale; default: a row"
    )
    add_mask_flags(parser, "is kept", "random")
    parser.add_argument(
        "--transform", choices=TRANSFORMS, help="of the delta before it is coded; default: hadamard"
    )
    parser.add_argument("--seed", type=seed, metavar="N", help="of random masks and rotations; default: 42")
    add_dequantize_flag(parser)
    parser.add_argument("--name", metavar="NAME", help="the model's; default: the last part of TUNED")
    add_output_flags(parser)
    parser.set_defaults(run=run, fail=parser.error)


def run(args: argparse.Namespace) -> int:
    mask, masked, coded = args.mask or RANDOM, args.keep is not None, args.bits is not None
    random = (masked and mask == RANDOM) or (coded and args.transform != NONE)
    for flag, value, fits, rule in (
        ("--mask", args.mask, masked, "--keep"),
        ("--drop-large", args.drop_large, mask == BREADCRUMBS, "--mask breadcrumbs"),
        ("--group", args.group, coded, "--bits"),
        ("--transform", args.transform, coded, "--bits"),
        ("--seed", args.seed, random, "a random mask or rotation"),
    ):
        if value is not None and not fits:
            args.fail(f"{flag} goes with {rule}")
    from pydelta.deltafile import describe, diff

    options = {
        name: getattr(args, name)
        for name in ("bits", "drop_large", "group", "seed", "transform")
        if getattr(args, name) is not None
    }
    path = diff(
        args.base,
        tuned_model(args, args.tuned),
        args.out,
        keep=args.keep,
        mask=mask,
        lossless=args.lossless,
        name=args.name,
        force=args.force,
        progress=not args.quiet,
        **options,
    )
    summary = describe(path)
    if args.json:
        print(json.dumps(summary, indent=1))
    elif not args.quiet:
        report_whole(summary)
        rules = [tensor["rule"] for tensor in summary["tensors"]]
        counts = ", ".join(f"{rules.count(rule)} {rule}" for rule in sorted(set(rules)))
        print(f"{path}: {summary['bytes']:,} bytes; tensors: {counts}")
    return 0


def report_whole(summary: dict[str, Any]) -> None:
    """Says on stderr which tensors could not be stored as a difference, and why."""
    reasons: dict[str, list[dict[str, Any]]] = {}
    for tensor in summary["tensors"]:
        if tensor.get("why", MOSTLY) != MOSTLY:
            reasons.setdefault(tensor["why"], []).append(tensor)
    for why, tensors in reasons.items():
        names, size = listed([tensor["name"] for tensor in tensors]), sum(x["bytes"] for x in tensors)
        print(f"stored whole, {size:,} of {summary['bytes']:,} bytes, {why}: {names}", file=sys.stderr)
    if summary["files"]:
        print(f"the model's own files: {listed(summary['files'])}", file=sys.stderr)


def group(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value
