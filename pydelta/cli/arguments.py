"""What commands share: types of arguments, flags, and how a result is printed."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydelta.checkpoint.folders.locate import name_of
from pydelta.core.mask_names import DROP_LARGE, MASKS

if TYPE_CHECKING:
    from pydelta.calibration import Calibration
    from pydelta.checkpoint import Checkpoint
    from pydelta.superposition import Superposition

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}

Commands = Any
"""What ``add_subparsers`` gives; its class is private."""


def add_mask_flags(parser: argparse.ArgumentParser, what: str, default: str) -> None:
    parser.add_argument(
        "--mask",
        choices=MASKS,
        help=f"what {what}: random elements, rescaled (DARE), the largest, or the largest but the very "
        f"largest (Model Breadcrumbs); default: {default}",
    )
    parser.add_argument(
        "--drop-large",
        type=fraction,
        metavar="X",
        help=f"the fraction of the largest that breadcrumbs drops; default: {DROP_LARGE}",
    )


def add_output_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="replace an existing output")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def split_model(text: str) -> tuple[str, str]:
    """(name, path) of ``NAME=PATH``, or of ``PATH`` alone: what exists is a path, whatever is in it."""
    name, equals, path = text.partition("=")
    alone = os.path.exists(text) or ("/" in name and not os.path.exists(path))
    return (name, path) if equals and not alone else (name_of(text), text)


def number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be finite, got {text}")
    return value


def positive(text: str) -> float:
    value = number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"must be positive, got {text}")
    return value


def fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must lie in [0, 1], got {text}")
    return value


def group(text: str) -> str | int:
    return text if text == "row" else int(text)


def seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 1 << 64:
        raise argparse.ArgumentTypeError(f"must lie in [0, 2**64), got {text}")
    return value


def add_store_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", metavar="STORE", help="made by pydelta compress")
    parser.add_argument("--base", metavar="B", help="where the store's base is; default: where it was")
    parser.add_argument(
        "--model",
        required=True,
        metavar="NAME=PATH",
        help="the tuned checkpoint; NAME: the last part of PATH",
    )
    add_dequantize_flag(parser)
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def report(store: Superposition, args: argparse.Namespace) -> None:
    """Prints what a store has become."""
    summary = store.describe()
    if not args.quiet:
        report_departures(summary)
    if args.json:
        print(json.dumps(summary, indent=1))
    elif not args.quiet:
        print(f"{store.path}: {len(store.models)} models in {summary['bytes']:,} bytes")


def add_calibration_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--calibration",
        action="append",
        default=[],
        metavar="NAME=FILE",
        dest="calibrations",
        help="fit a model's lambda per tensor to what its layers see; FILE: of a Calibrator with base=",
    )


def calibration_files(args: argparse.Namespace, models: Iterable[str]) -> dict[str, str]:
    """Model -> file; leaves with a sentence where the flag is used wrongly."""
    names = list(models)
    files: dict[str, str] = {}
    for text in args.calibrations:
        name, _, path = text.partition("=")
        if not name or not path:
            args.fail(f"--calibration must be NAME=FILE, got {text!r}")
        if name in files:
            args.fail(f"--calibration must be given once for each model, got {name!r} twice")
        if name not in names:
            args.fail(f"--calibration must be of the models {', '.join(names)}, got {name!r}")
        files[name] = path
    return files


def add_missing_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-missing",
        action="append",
        default=[],
        metavar="PATTERN",
        help="tensors of the base that a model may lack; repeat for more",
    )


def add_out_dtype_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out-dtype",
        choices=("base", "model"),
        default="base",
        help="floating dtypes of the result, where the model's are others; default: %(default)s",
    )


def report_departures(summary: dict[str, Any]) -> None:
    """Says on stderr what models of a store have otherwise than their base."""
    for name, model in summary["models"].items():
        if model["departs"]:
            print(f"{name}: {model['departs']}", file=sys.stderr)


def add_merge_flags(parser: argparse.ArgumentParser) -> None:
    """What merging and pruning have in common."""
    parser.add_argument(
        "--vocabulary",
        choices=("error", "common"),
        default="error",
        help="tensors whose numbers of rows differ: refuse (default), or take the rows that all have",
    )
    parser.add_argument(
        "--allow-missing",
        action="append",
        default=[],
        metavar="PATTERN",
        help="tensors that a model may lack or have alone; repeat for more",
    )
    add_axis_flag(parser)
    add_dequantize_flag(parser)
    parser.add_argument("--threads", type=count, metavar="N", help="default: all cores")
    parser.add_argument("--device", default="cpu", metavar="D", help="default: %(default)s")
    parser.add_argument(
        "--max-shard-size", type=size, metavar="S", help="such as 5GB; default: the shards of the base"
    )


def add_axis_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--input-dims",
        type=axis,
        action="append",
        default=[],
        metavar="PATTERN=AXIS",
        help="the input axis of the tensors of that shell pattern, where it is not the last; repeat for more",
    )


def add_dequantize_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dequantize", action="store_true", help="read fp8 weights with scales, and MXFP4, as bf16"
    )


def tuned_model(args: argparse.Namespace, path: str) -> str | Checkpoint:
    """A tuned model as a command is to read it: a path, or a checkpoint that is read dequantised."""
    if not args.dequantize:
        return path
    from pydelta.checkpoint.quantised.dequantised import Dequantised

    return Dequantised(path)


def axis(text: str) -> tuple[str, int]:
    pattern, equals, number = text.rpartition("=")
    try:
        if pattern and equals:
            return pattern, int(number)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"must be PATTERN=AXIS with a whole number, got {text}")


def set_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def load_calibration(path: str | None) -> Calibration | None:
    if path is None:
        return None
    from pydelta.calibration import Calibration

    return Calibration.load(Path(path))


def count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 4 * (os.cpu_count() or 1) + 1000:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def size(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text)
    if match is None or match[2].upper() not in _UNITS or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"must be a size such as 5GB or 500MiB, got {text}")
    return int(float(match[1]) * _UNITS[match[2].upper()])
