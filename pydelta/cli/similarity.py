"""``pydelta similarity``: which fine-tunes of one base will collide when they are merged."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydelta.cli.arguments import Commands, add_dequantize_flag, split_model

if TYPE_CHECKING:
    from pydelta.merging.similarity import Similarity

_PAIRS = 6  # more are summed up as their mean, least and largest cosine


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "similarity",
        help="cosines and sign conflicts of the deltas of fine-tunes",
        description="Print the cosines between the deltas of fine-tunes, of all tensors and by kind, how "
        "often their signs conflict, and the error that merging or superposing them will leave in each.",
    )
    parser.add_argument("base", metavar="BASE", help="checkpoint all models were tuned from")
    parser.add_argument("models", metavar="MODEL", nargs="+", help="NAME=PATH or PATH of a tuned checkpoint")
    add_dequantize_flag(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--quiet", action="store_true", help="draw no progress bar")
    parser.add_argument("--out", metavar="PNG", help="draw a heat map")
    parser.set_defaults(run=run, fail=parser.error)


def run(args: argparse.Namespace) -> int:
    models: dict[str, str] = {}
    for text in args.models:
        name, path = split_model(text)
        if not name or not path:
            args.fail(f"a model must be NAME=PATH or PATH, got {text!r}")
        if name in models:
            args.fail(f"two models are named {name!r}: {models[name]} and {path}; give NAME=PATH")
        models[name] = path
    from pydelta.merging.similarity import draw, similarity

    result = similarity(args.base, models, dequantize=args.dequantize, show=not args.quiet)
    if args.out:
        draw(result, Path(args.out))
    if args.json:
        print(json.dumps(_plain(dataclasses.asdict(result)), indent=1))
    else:
        lines = [*_matrix("all tensors", result, result.overall), "", *_groups(result), ""]
        lines += [*_matrix("sign conflicts", result, result.conflicts), "", *_interference(result)]
        print("\n".join(lines))
    return 0


def _plain(value: Any) -> Any:
    """JSON has no NaN: the cosine of a delta of zeros is null."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _matrix(title: str, result: Similarity, values: list[list[float]]) -> list[str]:
    rows = [[f"{value:.3f}" for value in row] for row in values]
    return _table(
        [[title, *result.models], *([name, *row] for name, row in zip(result.models, rows, strict=True))]
    )


def _interference(result: Similarity) -> list[str]:
    """The others' share in what is left of each delta: squared error over its own square."""
    rows = zip(result.models, result.merged, result.superposed, strict=True)
    lines = [[name, f"{merged:.3g}", f"{superposed:.3g}"] for name, merged, superposed in rows]
    return _table([["expected squared error", "merged", "superposed"], *lines])


def _groups(result: Similarity) -> list[str]:
    pairs = list(itertools.combinations(range(len(result.models)), 2))
    few = len(pairs) <= _PAIRS
    heads = (
        [f"{result.models[i]}, {result.models[j]}" for i, j in pairs] if few else ["mean", "least", "largest"]
    )
    lines = [["tensors", *heads]]
    for group, cosines in result.groups.items():
        values = [cosines[i][j] for i, j in pairs]
        shown = values if few else [math.fsum(values) / len(values), min(values), max(values)]
        lines.append([group, *(f"{value:.3f}" for value in shown)])
    return _table(lines)


def _table(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
