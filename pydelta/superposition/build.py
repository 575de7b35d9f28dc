"""What is written for a model or a bucket, whether a store is made or changed."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path

from pydelta.checkpoint import Checkpoint
from pydelta.checkpoint.digest import fingerprint, tensor_digest
from pydelta.checkpoint.workers import Workers
from pydelta.checkpoint.workspace import check_finite
from pydelta.checkpoint.writer import writing
from pydelta.superposition.delta import Summer, norm2
from pydelta.superposition.files import stamps
from pydelta.superposition.manifest import Manifest, Model, exact_name
from pydelta.superposition.rules import EXACT, SUPERPOSED, Rule

_EXPONENTS = 100


def write_exact(
    folder: Path, base: Checkpoint, name: str, model: Checkpoint, rules: Mapping[str, Rule]
) -> None:
    """A model's own tensors that are not superposed.

    Raises:
        ValueError: they, or the base's, hold NaN or Inf.
    """
    path = folder / exact_name(name)
    path.parent.mkdir(exist_ok=True)
    kept = [base.tensors[name] for name, rule in rules.items() if rule.rule == EXACT]
    with writing(path.parent, {path.name: kept}) as writer:
        for info in kept:
            check_finite(base, info.name)
            writer.write(info.name, check_finite(model, info.name))


def model_fingerprint(model: Checkpoint, workers: Workers, *, whole: bool) -> str:
    """Over sampled bytes, or over all."""
    digests = {
        name: workers.begin(functools.partial(tensor_digest, model, name, sampled=not whole))
        for name in model.names
    }
    return fingerprint(model, {name: digest.result() for name, digest in digests.items()})


def describe(
    summer: Summer, name: str, weight: float, seed: int, print_: str, rules: Mapping[str, Rule]
) -> Model:
    """What ``store.json`` says about a model that has been summed."""
    norms = {tensor: summer.norm2(name, tensor) for tensor, rule in rules.items() if rule.rule == SUPERPOSED}
    losses = {tensor: summer.loss(name, tensor) for tensor in norms} if summer.masked else {}
    return Model(seed, weight, print_, float(f"{math.fsum(norms.values()):.6g}"), norms, losses)


def exponents(base: Checkpoint, rules: Mapping[str, Rule], room: int) -> dict[str, int]:
    """Superposed tensor -> e of its fixed-point sum, in units of 2^-e.

    ``room`` deltas as large as the base's largest element fit into 31 bits. The base alone decides, so that
    the store's bytes do not depend on which model came first.
    """
    head = 31 - (room - 1).bit_length()
    found = {}
    for name, rule in rules.items():
        if rule.rule == SUPERPOSED:
            largest = float(check_finite(base, name).abs().max())
            found[name] = max(-_EXPONENTS, min(_EXPONENTS, head - math.frexp(largest or 1.0)[1]))
    return found


def check_base(store: Path, base: Checkpoint, manifest: Manifest, workers: Workers) -> None:
    """A base has the bytes of the store's, unless its files bear the stamps that they had when it was made.

    Raises:
        ValueError: it has others; the message says in which tensors, and how much of it they are.
    """
    if stamps(base) == manifest.base_stamps:
        return
    digests = {name: workers.begin(functools.partial(tensor_digest, base, name)) for name in base.names}
    differ = [name for name, digest in digests.items() if digest.result() != manifest.digests[name]]
    if differ:
        share = sum(base.tensors[name].nbytes for name in differ) / base.nbytes
        raise ValueError(
            f"{base.path}: not the base of {store}: {len(differ)} of {len(digests)} tensors differ, "
            f"{share:.1%} of the bytes: {', '.join(differ)}"
        )


def settle(
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
            tensor: workers.begin(functools.partial(tensor_digest, file, tensor)) for tensor in file.names
        }
        pending.append((name, file, jobs))
    digests, final = {}, {}
    for name, file, jobs in pending:
        found = {tensor: job.result() for tensor, job in jobs.items()}
        final[name] = name
        if "/" not in name:
            final[name] = f"{name.partition('-')[0]}-{fingerprint(file, found)[:16]}.safetensors"
            os.replace(folder / name, folder / final[name])
        digests[final[name]] = found
    return digests, final


def check_group(rules: Mapping[str, Rule], group: str | int) -> None:
    """A group divides every row that is coded.

    Raises:
        ValueError: it does not; the message lists the tensors.
    """
    if group == "row":
        return
    bad = [
        f"{name} ({rule.shape[rule.dim]})"
        for name, rule in rules.items()
        if rule.dim is not None and rule.shape[rule.dim] % int(group)
    ]
    if bad:
        raise ValueError(f"[compress] group must divide every row, got {group} for {', '.join(bad)}")


def power(model: Checkpoint, base: Checkpoint, rules: Mapping[str, Rule], weight: float) -> float:
    """The squared norm of what a model adds to a sum, before anything is summed."""
    parts = [
        norm2(model.tensor(name), base.tensor(name), 0, math.prod(rule.shape))
        for name, rule in rules.items()
        if rule.rule == SUPERPOSED
    ]
    return weight**2 * math.fsum(parts)
