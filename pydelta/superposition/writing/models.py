"""What a store keeps of one model beside its sums: exact tensors, fingerprints, its line in the manifest."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path

import torch

from pydelta.checkpoint import Checkpoint
from pydelta.checkpoint.digest import fingerprint, tensor_digest
from pydelta.checkpoint.tensor_names import FLOATS, NARROW
from pydelta.checkpoint.workers import Workers
from pydelta.checkpoint.workspace import check_finite
from pydelta.checkpoint.writer import writing
from pydelta.superposition.format.departures import ROWS, Departures
from pydelta.superposition.format.manifest import Model, exact_name
from pydelta.superposition.format.rules import EXACT, SUPERPOSED, Rule
from pydelta.superposition.writing.summer import DeltaSummer


def write_exact(
    folder: Path,
    base: Checkpoint,
    name: str,
    model: Checkpoint,
    rules: Mapping[str, Rule],
    departs: Departures,
) -> None:
    """A model's own tensors that are not superposed.

    Raises:
        ValueError: they, or the base's, hold NaN or Inf.
    """
    path = folder / exact_name(name)
    path.parent.mkdir(exist_ok=True)
    kept = list(departs.exact_file(rules))
    with writing(path.parent, {path.name: kept}) as writer:
        for info in kept:
            own = info.name in departs.own or info.name in rules
            tensor = info.name if own else info.name.removeprefix(ROWS)
            if tensor in rules and rules[tensor].rule == EXACT:
                _checked(base, tensor)
            x = _checked(model, tensor)
            writer.write(info.name, x if tensor == info.name else x[rules[tensor].shape[0] :].contiguous())


def _checked(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    """A tensor, which is finite if it is of numbers that are computed with."""
    narrow = checkpoint.dtype(name) not in (*FLOATS, *NARROW)
    return checkpoint.tensor(name) if narrow else check_finite(checkpoint, name)


def model_fingerprint(model: Checkpoint, workers: Workers, *, whole: bool) -> str:
    """Over sampled bytes, or over all."""
    digests = {
        name: workers.submit(functools.partial(tensor_digest, model, name, sampled=not whole))
        for name in model.names
    }
    return fingerprint(model, {name: digest.result() for name, digest in digests.items()})


def describe(
    summer: DeltaSummer,
    name: str,
    weight: float,
    seed: int,
    print_: str,
    rules: Mapping[str, Rule],
    departs: Departures,
) -> Model:
    """What ``store.json`` says about a model that has been summed."""
    norms = {tensor: summer.norm2(name, tensor) for tensor, rule in rules.items() if rule.rule == SUPERPOSED}
    losses = {tensor: summer.loss(name, tensor) for tensor in norms} if summer.masked else {}
    return Model(
        seed, weight, print_, float(f"{math.fsum(norms.values()):.6g}"), norms, losses, departs=departs
    )


def name_by_content(
    folder: Path, names: Iterable[str], workers: Workers
) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Digests of new files, and the names by their content that files of sums get.

    Args:
        names: of files below the folder.

    Returns:
        Final name -> stored tensor -> SHA-256; and given name -> final name.
    """
    pending: list[tuple[str, Checkpoint, dict[str, Future[str]]]] = []
    for name in names:
        file = Checkpoint(folder / name)
        jobs = {
            tensor: workers.submit(functools.partial(tensor_digest, file, tensor)) for tensor in file.names
        }
        pending.append((name, file, jobs))
    digests, final = {}, {}
    for name, file, jobs in pending:
        by_tensor = {tensor: job.result() for tensor, job in jobs.items()}
        final[name] = name
        if "/" not in name:
            final[name] = f"{name.partition('-')[0]}-{fingerprint(file, by_tensor)[:16]}.safetensors"
            os.replace(folder / name, folder / final[name])
        digests[final[name]] = by_tensor
    return digests, final
