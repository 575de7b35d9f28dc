"""The flag ``--calibration`` of the commands that put models into a store."""

from __future__ import annotations

import argparse
from collections.abc import Iterable


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
    found: dict[str, str] = {}
    for text in args.calibrations:
        name, _, path = text.partition("=")
        if not name or not path:
            args.fail(f"--calibration must be NAME=FILE, got {text!r}")
        if name in found:
            args.fail(f"--calibration must be given once for each model, got {name!r} twice")
        if name not in names:
            args.fail(f"--calibration must be of the models {', '.join(names)}, got {name!r}")
        found[name] = path
    return found
