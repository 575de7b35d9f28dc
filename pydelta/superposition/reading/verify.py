"""Whether a store holds what its ``store.json`` says, byte by byte."""

from __future__ import annotations

import functools
import hashlib
from concurrent.futures import Future
from pathlib import Path

from pydelta.checkpoint import Checkpoint
from pydelta.checkpoint.digest import tensor_digest
from pydelta.checkpoint.progress import progress
from pydelta.checkpoint.staging import Pathlike
from pydelta.checkpoint.tensor_names import FLOATS, NARROW
from pydelta.checkpoint.workers import Workers
from pydelta.checkpoint.workspace import check_finite
from pydelta.superposition.format.base import check_base, open_base
from pydelta.superposition.format.files import HOLD, StoreFiles
from pydelta.superposition.format.log import locked
from pydelta.superposition.format.manifest import Manifest, own_folder
from pydelta.superposition.format.manifest_reader import read_manifest


def verify(store: Path, base: Pathlike | None, *, show: bool) -> list[str]:
    """See :meth:`Superposition.verify`."""
    with locked(store, shared=True):
        manifest = read_manifest(store)
        files: list[tuple[str, Checkpoint]] = []
        problems = []
        for name in manifest.files:
            try:
                files.append((name, Checkpoint(store / name, hold=len(manifest.files) <= HOLD)))
            except (OSError, ValueError) as error:
                problems.append(str(error))
        if not problems:
            try:
                StoreFiles(store, manifest).check()
            except ValueError as error:
                problems.append(str(error))
        problems += _file_problems(store, manifest)
    total = sum(file.nbytes for _, file in files)
    with progress("verify", total, show) as advance, Workers(advance) as workers:
        jobs: list[Future[str]] = []
        for name, file in files:
            digests = manifest.files[name] if manifest.version > 1 else None
            for tensor in file.names:
                digest = None if digests is None else digests.get(tensor, "")
                jobs.append(workers.submit(functools.partial(fault, file, tensor, digest)))
        if base is not None:
            problems += _base_problems(store, base, manifest, workers)
        return problems + [problem for job in jobs if (problem := job.result())]


def _file_problems(store: Path, manifest: Manifest) -> list[str]:
    """What is wrong with the small files of models' own."""
    problems = []
    for model, entry in manifest.models.items():
        for file, digest in entry.departs.files.items():
            path = store / own_folder(model) / file
            try:
                if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
                    problems.append(f"{path}: has other bytes than those that were stored")
            except OSError as error:
                problems.append(f"{path}: {error.strerror}")
    return problems


def _base_problems(store: Path, base: Pathlike, manifest: Manifest, workers: Workers) -> list[str]:
    try:
        check_base(store, open_base(store, manifest, base), manifest, workers)
    except (OSError, ValueError) as error:
        return [str(error)]
    return []


def fault(file: Checkpoint, tensor: str, digest: str | None) -> str:
    """What is wrong with a stored tensor; nothing if it is sound."""
    if digest is not None and tensor_digest(file, tensor) != digest:
        return f"{file.path}: tensor {tensor!r} has other bytes than those that were stored"
    if file.dtype(tensor) in (*FLOATS, *NARROW):
        try:
            check_finite(file, tensor)
        except ValueError as error:
            return str(error)
    return ""
