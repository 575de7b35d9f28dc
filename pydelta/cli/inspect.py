"""``pydelta inspect``: what a store, a delta file or a checkpoint holds, from headers alone."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from pydelta.cli.arguments import Commands, split_model
from pydelta.superposition import Superposition


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "inspect",
        help="list the tensors of a store, a delta file or a checkpoint",
        description="List the tensors of a store (and its expected errors), a delta file or a checkpoint.",
    )
    parser.add_argument(
        "path", metavar="PATH", help="a store, a delta file, or a checkpoint: a folder or a file"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument(
        "--measure", action="store_true", help="of a store: also the true errors of the given models"
    )
    parser.add_argument("--base", metavar="B", help="where the store's base is; default: where it was")
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME=PATH",
        dest="models",
        help="a tuned checkpoint to measure; repeat for each",
    )
    parser.set_defaults(run=run, fail=parser.error)


def run(args: argparse.Namespace) -> int:
    path = Path(args.path)
    if args.measure != bool(args.models):
        args.fail("--measure needs the models to measure, --model NAME=PATH, and they need it")
    if (path / "store.json").is_file():
        summary = _store(path, args)
    elif args.measure:
        args.fail(f"--measure is of stores, got {path}")
    else:
        summary = _files(path)
    if args.json:
        print(json.dumps(summary, indent=1))
    else:
        print("\n".join(_lines(summary)))
    return 0


def _store(path: Path, args: argparse.Namespace) -> dict[str, Any]:
    store = Superposition.open(path)
    summary = store.describe()
    for name, tuned in map(split_model, args.models):
        measured = store.measure(name, tuned, base=args.base)
        summary["models"][name] |= {"measured_error": measured.pop(""), "measured_tensors": measured}
    return summary


def _files(path: Path) -> dict[str, Any]:
    """A delta file or a checkpoint."""
    from pydelta.checkpoint import Checkpoint
    from pydelta.deltafile import describe
    from pydelta.deltafile.manifest import FORMAT

    checkpoint = Checkpoint(path)
    if path.is_file() and FORMAT in checkpoint.shards[path.name].metadata:
        return describe(path)
    return {
        "kind": "checkpoint",
        "path": str(path),
        "bytes": checkpoint.nbytes,
        "files": list(checkpoint.shards),
        "tensors": [
            {
                "name": info.name,
                "dtype": info.dtype,
                "shape": list(info.shape),
                "bytes": info.nbytes,
                "file": checkpoint.home(info.name).path.name,
            }
            for info in checkpoint.tensors.values()
        ],
    }


def _lines(summary: dict[str, Any]) -> list[str]:
    head = (
        f"{summary['path']}: {summary['kind']}, {len(summary['tensors'])} tensors, {summary['bytes']:,} bytes"
    )
    if summary["kind"] == "checkpoint":
        return [head, *_table(summary["tensors"], ("name", "dtype", "shape", "bytes"))]
    if summary["kind"] == "delta":
        masked = ("model", "mask", "keep", "drop_large", "factor", "seed")
        settings = ("model", "bits", "group", "transform", "seed") if "bits" in summary else masked
        listed = ", ".join(f"{name} {summary[name]}" for name in settings)
        return [head, listed, "", *_table(summary["tensors"], ("name", "rule", "dtype", "shape", "bytes"))]
    return [head, *_store_lines(summary)]


def _store_lines(summary: dict[str, Any]) -> list[str]:
    form = (
        ("bits", "group", "room")
        if summary["bits"]
        else ("exact", "room")
        if summary["exact"]
        else ("dtype",)
    )
    masked = [name for name in ("mask", "keep", "drop_large") if summary[name] is not None]
    masked += ["residual"] if summary["residual"] else []
    settings = ("transform", "shuffle_layers", "seed", "lam", *form, *masked)
    measured = {name: model for name, model in summary["models"].items() if "measured_error" in model}
    rows = [
        {"measured_error": "", "model": name, **model, "calibrated": model["calibrated"] or 1.0}
        for name, model in summary["models"].items()
    ]
    columns = ["bucket", "weight", "norm", "expected_error", "expected_cosine"]
    columns[4:4] = ["measured_error"] if measured else []
    columns += ["calibrated"] if any(model["calibrated"] for model in summary["models"].values()) else []
    tensors = [{**row, **_errors(summary["models"], measured, row["name"])} for row in summary["tensors"]]
    sizes = [{"bytes of": name.replace("_", " "), "": round(n)} for name, n in summary["sizes"].items() if n]
    return [
        ", ".join(f"{name} {summary[name]}" for name in settings),
        f"base {summary['base']['path']}",
        "",
        *_table(sizes, ("bytes of", "")),
        "",
        *_table(rows, ("model", *columns)),
        "",
        *_table(tensors, ("name", "rule", "dtype", "shape", "bytes", *list(tensors[0])[5:])),
    ]


def _errors(models: dict[str, Any], measured: dict[str, Any], tensor: str) -> dict[str, Any]:
    """Of one tensor: the expected errors of all models, or expected and true of those that were measured."""
    if measured:
        return {
            f"{name} {kind}": model[column].get(tensor, "")
            for name, model in measured.items()
            for kind, column in (("expected", "tensors"), ("measured", "measured_tensors"))
        }
    errors = [model["tensors"][tensor] for model in models.values() if tensor in model["tensors"]]
    if not errors:
        return {"expected error": ""}
    low, high = (_cell(pick(errors, key=_size)) for pick in (min, max))
    return {"expected error": low if low == high else f"{low} to {high}"}


def _size(error: float | None) -> float:
    return math.inf if error is None else error


def _table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> list[str]:
    cells = [[name.replace("_", " ") for name in columns]]
    cells += [[_cell(row[name]) for name in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def _cell(value: object) -> str:
    if value is None:
        return "infinite"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_cell(number)}" for name, number in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
