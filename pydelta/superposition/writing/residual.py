"""The elements of a model that its retrieved tensors miss most, kept exactly.

They are chosen when the sums are final, so that they make good what codes, masks and other models have
done. They are the tuned model's own elements, not differences: they stay right whatever joins the sums later.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

import torch

from pydelta.checkpoint import Checkpoint
from pydelta.checkpoint.elements import rice
from pydelta.checkpoint.elements.bits import put, take
from pydelta.checkpoint.progress import progress
from pydelta.checkpoint.spool import Spool
from pydelta.checkpoint.workers import Workers
from pydelta.checkpoint.writer import writing
from pydelta.core.masks import MagnitudeMask
from pydelta.ops import mask_rescale
from pydelta.superposition.format.files import StoreFiles
from pydelta.superposition.format.form import PLACES, VALUES
from pydelta.superposition.format.manifest import Manifest, residual_name
from pydelta.superposition.format.rules import SUPERPOSED
from pydelta.superposition.reading.aligned import Model
from pydelta.superposition.reading.retrieve import Retrieval
from pydelta.superposition.writing.models import name_by_content
from pydelta.superposition.writing.summer import norm2

_AHEAD = 3  # tensors that are whole in memory, beside the one that is written: it bounds memory


class _Found(NamedTuple):
    """What is kept of one tensor: values and a code of their places, if any; and the error that is left."""

    stored: tuple[torch.Tensor, ...]
    left: float


def with_residuals(
    store: Path,
    draft: Manifest,
    folder: Path,
    base: Checkpoint,
    models: Mapping[str, Model],
    fraction: float,
    there: Mapping[str, Mapping[str, str]],
    *,
    show: bool,
) -> Manifest:
    """Writes the residuals of some models of a store that is complete but for them.

    Args:
        store: where its files lie that are not new.
        draft: what it holds, without any residual.
        folder: where the new files lie and go.
        models: name -> tuned, in the draft.
        fraction: of each superposed tensor's elements; 0 keeps none.
        there: the files of the other models' residuals, with their digests.

    Returns:
        The draft with these residuals.
    """
    if not fraction:
        return draft
    files = StoreFiles(store, draft, folder)
    changed, total = {}, base.nbytes * len(models)
    with progress("residual", total, show) as advance, Workers(advance) as workers:
        for name, tuned in models.items():
            path = folder / residual_name(name)
            path.parent.mkdir(exist_ok=True)
            retrieval = Retrieval(store, files, name, base.path, None)
            left = _write(path, retrieval, tuned, fraction, workers)
            model = draft.models[name]
            losses = {tensor: dataclasses.replace(model.loss(tensor), left=x) for tensor, x in left.items()}
            changed[name] = dataclasses.replace(model, losses=losses)
            advance(base.nbytes)
        stored, _ = name_by_content(folder, map(residual_name, models), workers)
    return dataclasses.replace(
        draft,
        models={**draft.models, **changed},
        files={**draft.files, **there, **stored},
        residual=fraction,
    )


def _write(
    path: Path, retrieval: Retrieval, tuned: Model, fraction: float, workers: Workers
) -> dict[str, float]:
    """The file of one model; superposed tensor -> the share of its squared error that is left."""
    names = [name for name, rule in retrieval.rules.items() if rule.rule == SUPERPOSED]
    left: dict[str, float] = {}
    begun: deque[Future[_Found]] = deque()
    with Spool(path.parent) as waiting:
        for i, name in enumerate(names):
            while len(begun) + i < len(names) and len(begun) <= _AHEAD:
                job = functools.partial(_find, retrieval, tuned, names[i + len(begun)], fraction)
                begun.append(workers.submit(job))
            stored, left[name] = begun.popleft().result()
            for kind, x in zip((VALUES, PLACES), stored, strict=False):
                waiting.add(kind + name, x)
        with writing(path.parent, {path.name: waiting.tensors}) as writer:
            waiting.release(writer)
    return left


def _find(retrieval: Retrieval, tuned: Model, name: str, fraction: float) -> _Found:
    """The largest of |tuned - retrieved| of one tensor, the first among equals."""
    count = retrieval.rows(name)
    if not count:
        return _Found((), 1.0)
    got = retrieval.whole(name)
    true = tuned.tensor(name).to(got.dtype)
    got[count:] = true[count:]  # rows that the model lacks need nothing
    kept = mask_rescale(true, MagnitudeMask(fraction), base=got).view(-1) != 0
    if not kept.any():
        return _Found((), 1.0)
    before = norm2(true, got, 0, true.numel())
    values = take(true, kept)
    put(got, kept, values)
    after = norm2(true, got, 0, true.numel())
    # Nothing is said of what overflowed, or was not among the elements that an estimate looks at.
    left = float(f"{after / before:.6g}") if 0 < before < math.inf else 1.0
    parameter, code = rice.encode(kept.numpy())
    head = torch.tensor([parameter], dtype=torch.uint8)
    return _Found((values, torch.cat([head, torch.from_numpy(code)])), left)
