"""``pydelta prune``: a fine-tune with less of its delta."""

from __future__ import annotations

import argparse
import json

from pydelta.checkpoint.folders.locate import not_found, resolve
from pydelta.cli.arguments import (
    Commands,
    add_merge_flags,
    add_output_flags,
    load_calibration,
    number,
    seed,
    set_threads,
)


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "prune",
        help="keep a part of a fine-tune's delta",
        description="Write base + mask(tuned - base): DARE, magnitude, WANDA or Model Breadcrumbs.",
    )
    parser.add_argument("base", metavar="BASE", help="checkpoint the model was tuned from")
    parser.add_argument("tuned", metavar="TUNED", help="the tuned checkpoint")
    parser.add_argument(
        "-o", "--out", required=True, metavar="OUT", help="a folder, or one file if it ends in .safetensors"
    )
    parser.add_argument("--method", required=True, choices=("random", "magnitude", "wanda", "breadcrumbs"))
    parser.add_argument("--keep", required=True, type=number, metavar="X", help="fraction that stays")
    parser.add_argument("--drop-large", type=number, metavar="X", help="for breadcrumbs; default: 0.01")
    parser.add_argument(
        "--group", choices=("tensor", "row", "column"), help="what fractions are of; column: structural"
    )
    parser.add_argument(
        "--rescale", type=rescale, metavar="R", help="true, false, a number, q or l1; default: the method's"
    )
    parser.add_argument("--q", type=q, metavar="Q", help="for --rescale q: a number, analytic or mse")
    parser.add_argument("--eta", type=number, metavar="X", help="for --q analytic")
    parser.add_argument("--dense-1d", action="store_true", help="leave norms and biases whole")
    parser.add_argument("--calibration", metavar="FILE", help="made by pydelta.calibration, for wanda and q")
    parser.add_argument("--name", metavar="NAME", help="of the model, for random masks; default: from TUNED")
    parser.add_argument("--seed", type=seed, default=42, metavar="N", help="default: %(default)s")
    add_merge_flags(parser)
    add_output_flags(parser)
    parser.set_defaults(run=run, fail=parser.error)


def run(args: argparse.Namespace) -> int:
    for path in (args.base, args.tuned):
        if not resolve(path).exists():
            raise not_found(path)
    if args.method == "wanda" and args.calibration is None:
        args.fail("--calibration must be given for --method wanda")
    from pydelta.merging import prune

    set_threads(args.threads)
    path = prune(
        args.base,
        args.tuned,
        method=args.method,
        keep=args.keep,
        drop_large=args.drop_large,
        group=args.group,
        rescale=args.rescale,
        q=args.q,
        eta=args.eta,
        dense_1d=args.dense_1d or None,
        name=args.name,
        seed=args.seed,
        calibration=load_calibration(args.calibration),
        vocabulary=args.vocabulary,
        allow_missing=args.allow_missing,
        input_dims=dict(args.input_dims),
        dequantize=args.dequantize,
        out=args.out,
        device=args.device,
        max_shard_bytes=args.max_shard_size,
        force=args.force,
        progress=not args.quiet,
    )
    if args.json:
        print(json.dumps({"out": str(path), "method": args.method, "keep": args.keep, "seed": args.seed}))
    elif not args.quiet:
        print(path)
    return 0


def rescale(text: str) -> bool | float | str:
    words: dict[str, bool | str] = {"true": True, "false": False, "q": "q", "l1": "l1"}
    return words[text] if text in words else number(text)


def q(text: str) -> float | str:
    return text if text in ("analytic", "mse") else number(text)
