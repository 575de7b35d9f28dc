"""How far a retrieved delta truly is from the model's own."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from pydelta.checkpoint.reader import as_checkpoint
from pydelta.checkpoint.staging import Pathlike
from pydelta.checkpoint.tensors import TORCH
from pydelta.checkpoint.workspace import Workspace
from pydelta.superposition.format.files import StoreFiles
from pydelta.superposition.reading.aligned import aligned
from pydelta.superposition.reading.retrieve import Retrieval


def measure(
    store: Path, files: StoreFiles, name: str, path: Pathlike, *, base: Pathlike | None, show: bool
) -> dict[str, float | None]:
    """See :meth:`Superposition.measure`."""
    retrieval = Retrieval(store, files, name, base, 1.0, calibrated=False)
    departs, work = files.manifest.models[name].departs, Workspace()
    tuned = aligned(retrieval.base, as_checkpoint(path), departs, retrieval.rules)
    names = [tensor for tensor, rule in files.manifest.rules.items() if departs.superposes(tensor, rule)]
    squares: dict[str, list[tuple[float, float]]] = {tensor: [] for tensor in names}

    def compare(tensor: str, part: torch.Tensor, start: int) -> None:
        if start >= math.prod(retrieval.base.shape(tensor)):
            return  # rows that the base lacks are exact
        dtype, theirs = TORCH[retrieval.base.dtype(tensor)], TORCH[tuned.dtype(tensor)]
        true = tuned.read(tensor, work.get("tuned", part.shape, theirs), start).double()
        origin = retrieval.base.read(tensor, work.get("base", part.shape, dtype), start).double()
        error, delta = part.double() - true, true - origin
        squares[tensor].append((float(error.square().sum()), float(delta.square().sum())))

    retrieval.run(names, compare, show)
    every = [pair for pairs in squares.values() for pair in pairs]
    return {"": _ratio(every), **{tensor: _ratio(pairs) for tensor, pairs in squares.items()}}


def _ratio(pairs: list[tuple[float, float]]) -> float | None:
    """Error over delta; None if there is an error and no delta."""
    error, delta = (math.fsum(column) for column in zip(*pairs, strict=True)) if pairs else (0.0, 0.0)
    if delta > 0:
        return error / delta
    return None if error > 0 else 0.0
