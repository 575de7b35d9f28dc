"""``python -m pydelta.demo.retrieve_all FOLDER NAME...``: every model of every FOLDER/store-NAME, into
FOLDER/retrieved-NAME/<model>.

It does what ``pydelta retrieve`` does for each, without importing torch for each, and writes to stdout
as JSON what a store's medians over its models are: milliseconds for :func:`pydelta.retrieve` on all tensors
in memory, and milliseconds to a finished checkpoint (the base checked against the store's, files synced).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median

import torch

import pydelta
from pydelta import ops
from pydelta.superposition.format.rules import SUPERPOSED
from pydelta.superposition.reading.source import Source


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pydelta.demo.retrieve_all")
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="+")
    arguments = parser.parse_args(argv)
    print(json.dumps({name: _retrieve_all(arguments.folder, name) for name in arguments.names}))
    return 0


def _retrieve_all(folder: Path, name: str) -> dict[str, float]:
    store, base = pydelta.Superposition.open(folder / f"store-{name}"), folder / "models" / "base"
    out = folder / f"retrieved-{name}"
    out.mkdir()
    to_checkpoint = []
    for model in store.models:
        start = time.perf_counter()
        store.retrieve(model, out / model, base=base)
        to_checkpoint.append(1e3 * (time.perf_counter() - start))
    return {
        "milliseconds": median(_in_memory(store, base)),
        "milliseconds_to_checkpoint": median(to_checkpoint),
    }


def _in_memory(store: pydelta.Superposition, base_path: Path) -> list[float]:
    """Milliseconds by model, the best of three, with everything loaded and the output's memory at hand."""
    transform = store.describe()["transform"]
    base = pydelta.load_checkpoint(base_path)
    names = [name for name, rule in store.manifest.rules.items() if rule.rule == SUPERPOSED]
    out = {name: torch.zeros_like(base[name]) for name in names}

    def milliseconds(sources: dict[str, Source]) -> float:
        start = time.perf_counter()
        for name, (superposed, key, lam) in sources.items():
            ops.retrieve(base[name], superposed, key, lam=lam, transform=transform, out=out[name])
        return 1e3 * (time.perf_counter() - start)

    def best(model: str) -> float:
        sources = {name: store.source(model, name) for name in names}
        return min(milliseconds(sources) for _ in range(3))

    return [best(model) for model in store.models]


if __name__ == "__main__":
    sys.exit(main())
