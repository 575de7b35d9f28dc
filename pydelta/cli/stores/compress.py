"""``pydelta compress``: fine-tunes in, one store out."""

from __future__ import annotations

import argparse

from pydelta.cli.arguments import (
    Commands,
    add_axis_flag,
    add_calibration_flag,
    add_mask_flags,
    add_missing_flag,
    add_output_flags,
    calibration_files,
    fraction,
    group,
    number,
    report,
    seed,
    split_model,
)
from pydelta.superposition import Superposition
from pydelta.superposition.format.form import BITS, RATES


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "compress",
        help="superpose fine-tunes of one base in a store",
        description="Superpose fine-tunes of one base in a store of about the bytes of one model (RanDeS).",
    )
    parser.add_argument("--base", required=True, metavar="B", help="checkpoint all models were tuned from")
    parser.add_argument(
        "--model",
        required=True,
        action="append",
        metavar="NAME=PATH",
        dest="models",
        help="a tuned checkpoint; repeat for each; NAME defaults to the last part of PATH",
    )
    parser.add_argument("-o", "--out", required=True, metavar="STORE", help="the folder to make")
    parser.add_argument(
        "--transform",
        choices=("sign", "hadamard", "none", "auto"),
        help="default: hadamard with codes, else sign; auto: for each tensor what leaves less of a few rows",
    )
    parser.add_argument(
        "--shuffle-layers", action="store_true", help="let each model's layers of one kind change places"
    )
    parser.add_argument("--seed", type=seed, default=42, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--dtype",
        choices=("bf16", "fp32"),
        default="fp32",
        help="of sums in full: fp32 (default: a single model comes back exactly) or bf16 (half of it)",
    )
    _add_dial(parser)
    _add_kept(parser)
    parser.add_argument(
        "--lam",
        type=number,
        default=1.0,
        metavar="X",
        help="factor of a retrieved delta; default: %(default)s",
    )
    add_axis_flag(parser)
    add_calibration_flag(parser)
    add_missing_flag(parser)
    add_output_flags(parser)
    parser.set_defaults(run=run, fail=parser.error)


def _add_dial(parser: argparse.ArgumentParser) -> None:
    rates, bits = (", ".join(map(str, allowed)) for allowed in (RATES, BITS))
    parser.add_argument(
        "--rate",
        type=number,
        metavar="R",
        help=f"bits per parameter and model, one of {rates}: low-bit codes in as many buckets as that takes",
    )
    parser.add_argument("--bits", type=int, metavar="B", help=f"codes of so many bits, one of {bits}")
    parser.add_argument(
        "--buckets", type=int, metavar="N", help="sums over which the models are spread; default: 1"
    )
    parser.add_argument(
        "--group", type=group, default="row", metavar="G", help="codes that share a scale; default: a row"
    )
    parser.add_argument(
        "--exact", action="store_true", help="a fixed-point sum, so that add and remove are exact"
    )
    parser.add_argument(
        "--room", type=int, metavar="K", help="models that codes or an exact sum may come to hold"
    )


def _add_kept(parser: argparse.ArgumentParser) -> None:
    add_mask_flags(parser, "of each delta is summed", "all")
    parser.add_argument(
        "--keep", type=fraction, metavar="X", help="the fraction of a matrix that a mask keeps"
    )
    parser.add_argument(
        "--residual",
        type=fraction,
        default=0.0,
        metavar="X",
        help="the fraction of each matrix, where retrieval would be worst, that is kept exactly per model",
    )


def run(args: argparse.Namespace) -> int:
    models: dict[str, str] = {}
    for text in args.models:
        name, path = split_model(text)
        if not name or not path:
            args.fail(f"--model must be NAME=PATH or PATH, got {text!r}")
        if name in models:
            args.fail(f"two models are named {name!r}: {models[name]} and {path}; give NAME=PATH")
        models[name] = path
    store = Superposition.create(
        args.base,
        models,
        args.out,
        transform=args.transform,
        shuffle_layers=args.shuffle_layers,
        seed=args.seed,
        dtype=args.dtype,
        rate=args.rate,
        bits=args.bits,
        buckets=args.buckets,
        group=args.group,
        exact=args.exact,
        room=args.room,
        mask=args.mask,
        keep=args.keep,
        drop_large=args.drop_large,
        residual=args.residual,
        lam=args.lam,
        input_dims=dict(args.input_dims),
        calibration=calibration_files(args, models),
        allow_missing=args.allow_missing,
        force=args.force,
        progress=not args.quiet,
    )
    report(store, args)
    return 0
