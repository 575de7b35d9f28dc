"""``pydelta inspect``: what a store, a delta file or a checkpoint holds, from headers alone."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from pydelta.cli.compress import Commands


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
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    path = Path(args.path)
    found = _store(path) if (path / "store.json").is_file() else _files(path)
    if args.json:
        print(json.dumps(found, indent=1))
    else:
        print("\n".join(_lines(found)))
    return 0


def _store(path: Path) -> dict[str, Any]:
    from pydelta.superposition import Superposition

    return Superposition.open(path).describe()


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


def _lines(found: dict[str, Any]) -> list[str]:
    head = f"{found['path']}: {found['kind']}, {len(found['tensors'])} tensors, {found['bytes']:,} bytes"
    if found["kind"] == "checkpoint":
        return [head, *_table(found["tensors"], ("name", "dtype", "shape", "bytes"))]
    if found["kind"] == "delta":
        given = ("model", "mask", "keep", "drop_large", "factor", "seed")
        listed = ", ".join(f"{name} {found[name]}" for name in given)
        return [head, listed, "", *_table(found["tensors"], ("name", "rule", "dtype", "shape", "bytes"))]
    settings = ("transform", "shuffle_layers", "seed", "dtype", "lam")
    rows = [{"model": name, **model} for name, model in found["models"].items()]
    return [
        head,
        ", ".join(f"{name} {found[name]}" for name in settings),
        f"base {found['base']['path']}",
        "",
        *_table(rows, ("model", "weight", "norm", "expected_error", "expected_cosine")),
        "",
        *_table(found["tensors"], ("name", "rule", "dtype", "shape", "bytes")),
    ]


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
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
