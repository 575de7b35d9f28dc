"""Models join a store and leave it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydelta.calibration import Calibration
from pydelta.checkpoint import Checkpoint
from pydelta.checkpoint.folders.own_files import own_files, write_files
from pydelta.checkpoint.progress import progress
from pydelta.checkpoint.reader import as_checkpoint
from pydelta.checkpoint.staging import Pathlike
from pydelta.checkpoint.workers import Workers
from pydelta.superposition.format.base import check_base, open_base
from pydelta.superposition.format.manifest import (
    RESIDUAL_FOLDER,
    Bucket,
    Manifest,
    Model,
    exact_name,
    model_files,
    own_folder,
)
from pydelta.superposition.reading.aligned import Model as AnyModel
from pydelta.superposition.reading.aligned import aligned
from pydelta.superposition.reading.bucket_reader import BucketReader
from pydelta.superposition.reading.verify import fault
from pydelta.superposition.writing.bucket_writer import BucketWriter
from pydelta.superposition.writing.buckets import open_bucket
from pydelta.superposition.writing.commit import Change, changing
from pydelta.superposition.writing.depart import departures, with_files
from pydelta.superposition.writing.lambdas import check_calibration, fit_lambdas
from pydelta.superposition.writing.models import describe, model_fingerprint, name_by_content, write_exact
from pydelta.superposition.writing.options import calibrations_of, weights_of
from pydelta.superposition.writing.residual import with_residuals
from pydelta.superposition.writing.summer import DeltaSummer

Buckets = tuple[Bucket, ...]


def add(
    store: Path,
    name: str,
    path: Pathlike,
    *,
    base: Pathlike | None,
    weight: float,
    calibration: Pathlike | Calibration | None = None,
    allow_missing: Iterable[str] = (),
    show: bool,
) -> None:
    """See :meth:`Superposition.add`."""
    weight = weights_of([name], {name: weight})[name]
    calibrations = calibrations_of(None if calibration is None else {name: calibration}, [name])
    with changing(store) as change:
        manifest, form = change.manifest, change.manifest.form
        if name in manifest.models:
            raise ValueError(f"{store}: already holds a model {name!r}; remove it first")
        index = open_bucket(manifest)
        held = manifest.buckets[index].models if index is not None else ()
        if form.exact and len(held) == form.room:
            raise ValueError(f"{store}: its exact sum has room for {form.room} models, and holds as many")
        origin, tuned = open_base(store, manifest, base), as_checkpoint(path)
        departs = departures(origin, {name: tuned}, manifest.rules, allow_missing)[name]
        files = own_files(origin, tuned)
        departs, view = with_files(departs, files), aligned(origin, tuned, departs, manifest.rules)
        for seen in calibrations.values():
            check_calibration(name, seen, manifest.rules)
        with progress(f"add {name}", origin.nbytes, show) as advance, Workers(advance) as workers:
            check_base(store, origin, manifest, workers)
            summer = _summer(manifest, origin, name, view, weight, manifest.seed)
            models = tuple(sorted((*held, name)))
            sums = _sums(change, summer, index, open=form.bits is not None and len(models) < (form.room or 0))
            sums.write(workers)
            write_exact(change.folder, origin, name, tuned, manifest.rules, departs)
            write_files(change.folder / own_folder(name), files)
            seal = model_fingerprint(tuned, workers, whole=form.exact)
            model = describe(summer, name, weight, manifest.seed, seal, manifest.rules, departs)
            stored, final = name_by_content(change.folder, [*sums.files, exact_name(name)], workers)
        at = len(manifest.buckets) if index is None else index
        buckets = (*manifest.buckets[:at], sums.entry(models, final), *manifest.buckets[at + 1 :])
        joined, newcomer = {**manifest.models, name: model}, {name: view}
        new = _changed(dataclasses.replace(manifest, residual=0.0), buckets, joined, stored)
        new = fit_lambdas(store, new, origin, newcomer, calibrations, show=show, fresh=change.folder)
        there = {file: kept for file, kept in manifest.files.items() if file.startswith(RESIDUAL_FOLDER)}
        new = with_residuals(store, new, change.folder, origin, newcomer, manifest.residual, there, show=show)
        fresh = {*stored, *model_files(name, new.residual), *(f"{own_folder(name)}/{file}" for file in files)}
        change.commit(new, "add", fresh, model=name, path=os.fspath(path), base=str(origin.path))


def remove(store: Path, name: str, path: Pathlike, *, base: Pathlike | None, show: bool) -> None:
    """See :meth:`Superposition.remove`."""
    with changing(store) as change:
        manifest, form = change.manifest, change.manifest.form
        index = _removable(store, manifest, name)
        models = tuple(other for other in manifest.buckets[index].models if other != name)
        origin, tuned = open_base(store, manifest, base), as_checkpoint(path)
        view = aligned(origin, tuned, manifest.models[name].departs, manifest.rules)
        stored: dict[str, dict[str, str]] = {}
        buckets = list(manifest.buckets)
        with progress(f"remove {name}", origin.nbytes, show) as advance, Workers(advance) as workers:
            check_base(store, origin, manifest, workers)
            model = manifest.models[name]
            if model_fingerprint(tuned, workers, whole=form.exact) != model.fingerprint:
                raise ValueError(f"{path}: not the model {name!r} of {store}: its fingerprint differs")
            if models:
                summer = _summer(manifest, origin, name, view, -model.weight, model.seed)
                sums = _sums(change, summer, index, open=form.bits is not None)
                sums.write(workers)
                stored, final = name_by_content(change.folder, sums.files, workers)
                buckets[index] = sums.entry(models, final)
            else:
                del buckets[index]
        left = {other: kept for other, kept in manifest.models.items() if other != name}
        new = _changed(manifest, tuple(buckets), left, stored)
        change.commit(new, "remove", stored, model=name, path=os.fspath(path), base=str(origin.path))


def seal(store: Path) -> None:
    """See :meth:`Superposition.seal`."""
    with changing(store) as change:
        manifest = change.manifest
        if manifest.form.bits is None:
            raise ValueError(f"{store}: keeps its sums in full, so there is nothing to seal")
        if any(bucket.open for bucket in manifest.buckets):
            closed = tuple(dataclasses.replace(bucket, open=()) for bucket in manifest.buckets)
            change.commit(_changed(manifest, closed, manifest.models, {}), "seal")


def _removable(store: Path, manifest: Manifest, name: str) -> int:
    """The bucket of a model that can be taken out of it."""
    if name not in manifest.models:
        raise ValueError(f"{store}: holds no model {name!r}; it holds {', '.join(sorted(manifest.models))}")
    if len(manifest.models) == 1:
        raise ValueError(f"{store}: {name!r} is its only model; delete the folder instead")
    index = manifest.bucket(name)
    bucket = manifest.buckets[index]
    others = [repr(other) for other in bucket.models if other != name]
    if manifest.form.bits is not None and others and not bucket.open:
        raise ValueError(
            f"{store}: bucket {index}, which holds {name!r}, is sealed: its sum is quantised; "
            f"what is needed are the tuned models of its others, to compress them anew: {', '.join(others)}"
        )
    return index


def _summer(
    manifest: Manifest, base: Checkpoint, name: str, tuned: AnyModel, weight: float, seed: int
) -> DeltaSummer:
    """Of one model."""
    return DeltaSummer(
        base, {name: tuned}, {name: weight}, {name: seed}, manifest.transform, manifest.masking
    )


def _sums(change: Change, summer: DeltaSummer, index: int | None, *, open: bool) -> BucketWriter:
    manifest = change.manifest
    if index is not None:
        _check_total(change, index)
    return BucketWriter(
        change.folder,
        0,
        manifest.form,
        manifest.rules,
        summer,
        shuffle_layers=manifest.shuffle_layers,
        exponents=manifest.exponents,
        old=None if index is None else BucketReader(change.files, index, total=True),
        open=open,
    )


def _check_total(change: Change, index: int) -> None:
    """What a model joins or leaves is what was stored: its new digests would hide that it was not."""
    for tensor, file in change.files.totals[index].items():
        problem = fault(file, tensor, change.manifest.files[file.path.name][tensor])
        if problem:
            raise ValueError(problem)


def _changed(
    manifest: Manifest, buckets: Buckets, models: Mapping[str, Model], new: Mapping[str, Mapping[str, str]]
) -> Manifest:
    """The manifest with other buckets and models, and the files that these need."""
    wanted = {file for bucket in buckets for file in (*bucket.files, *bucket.open)}
    wanted |= {file for name in models for file in model_files(name, manifest.residual)}
    known = {**manifest.files, **new}
    files = {file: known[file] for file in wanted}
    return dataclasses.replace(manifest, buckets=buckets, models=models, files=files)
