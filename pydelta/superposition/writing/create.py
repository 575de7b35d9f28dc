"""Many fine-tunes into one store."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Mapping
from pathlib import Path

from pydelta.checkpoint import Checkpoint
from pydelta.checkpoint.digest import fingerprint, tensor_digest
from pydelta.checkpoint.folders.own_files import own_files, write_files
from pydelta.checkpoint.progress import progress
from pydelta.checkpoint.reader import as_checkpoint
from pydelta.checkpoint.staging import Pathlike, check_output, staged
from pydelta.checkpoint.workers import Workers
from pydelta.core.version import __version__
from pydelta.superposition.format.base import stamps
from pydelta.superposition.format.departures import Departures
from pydelta.superposition.format.log import log_line, writing_alone
from pydelta.superposition.format.manifest import AUTO, LOG, STORE, Manifest, Model, exact_name, own_folder
from pydelta.superposition.format.rules import SUPERPOSED, Rule, rules_of
from pydelta.superposition.reading.aligned import aligned
from pydelta.superposition.writing.bucket_writer import BucketWriter
from pydelta.superposition.writing.buckets import balance_into_buckets
from pydelta.superposition.writing.commit import write_text
from pydelta.superposition.writing.depart import departures, with_files
from pydelta.superposition.writing.lambdas import check_calibration, fit_lambdas
from pydelta.superposition.writing.models import (
    describe,
    model_fingerprint,
    name_by_content,
    write_exact,
)
from pydelta.superposition.writing.options import Options, check_group
from pydelta.superposition.writing.residual import with_residuals
from pydelta.superposition.writing.summer import DeltaSummer, fixed_exponents, power
from pydelta.superposition.writing.transforms import TransformChooser


def create(
    base: Pathlike,
    models: Mapping[str, Pathlike],
    out: Pathlike,
    options: Options,
    *,
    force: bool,
    show: bool,
) -> Path:
    """Writes a store; see :meth:`Superposition.create`."""
    target = check_output(out, force=force, inputs=[base, *models.values()])
    origin = Checkpoint(base)
    tuned = {name: as_checkpoint(models[name]) for name in sorted(models)}
    rules = rules_of(origin, options.input_dims)
    departs = departures(origin, tuned, rules, options.allow_missing)
    small = {name: own_files(origin, model) for name, model in tuned.items()}
    departs = {name: with_files(own, small[name]) for name, own in departs.items()}
    check_group(rules, options.form.group)
    for name, calibration in options.calibrations.items():
        check_calibration(name, calibration, rules)
    # A store that is replaced waits for whoever changes it.
    waiting = writing_alone(target) if (target / STORE).is_file() else contextlib.nullcontext()
    with waiting, staged(target, force=force) as folder:
        folder.mkdir()
        for name, files in small.items():
            write_files(folder / own_folder(name), files)
        compression = _Compression(folder, origin, tuned, departs, rules, options)
        manifest, views = compression.run(show), compression.models
        manifest = fit_lambdas(folder, manifest, origin, views, options.calibrations, show=show)
        manifest = with_residuals(folder, manifest, folder, origin, views, options.residual, {}, show=show)
        paths = {name: os.fspath(path) for name, path in models.items()}
        write_text(folder / STORE, manifest.dump())
        write_text(folder / LOG, log_line("create", base=os.fspath(base), models=paths))
    return target


class _Compression:
    """The files of tensors of one store.

    Attributes:
        models: name -> the tuned model as it is summed.
    """

    def __init__(
        self,
        folder: Path,
        base: Checkpoint,
        models: dict[str, Checkpoint],
        departs: Mapping[str, Departures],
        rules: dict[str, Rule],
        options: Options,
    ) -> None:
        self._folder, self._base, self._tuned, self._departs = folder, base, models, departs
        self.models = {name: aligned(base, model, departs[name], rules) for name, model in models.items()}
        self._rules, self._options, self._form = rules, options, options.form
        self._digests: dict[str, str] = {}

    def run(self, show: bool) -> Manifest:
        """Writes them and gives what ``store.json`` says about them."""
        options, form = self._options, self._form
        total = self._base.nbytes * options.buckets
        with progress("compress", total, show) as advance, Workers(advance) as workers:
            for name, rule in self._rules.items():
                if rule.rule != SUPERPOSED:
                    self._hash(workers, name)
            room = form.room or 0
            exponents = fixed_exponents(self._base, self._rules, room) if form.exact else {}
            buckets = self._spread(workers)
            if options.transform == AUTO:
                chooser = TransformChooser(self._base, self.models, self._rules, options, buckets)
                self._rules = chooser.run(workers)
            sums = [self._sums(i, names, exponents) for i, names in enumerate(buckets)]
            models: dict[str, Model] = {}
            for number, (summer, bucket) in enumerate(sums):
                hashing = {} if number else {"beside": functools.partial(self._hash, workers)}
                bucket.write(workers, **hashing)
                models |= {name: self._finish(name, summer, workers) for name in summer.models}
            files = [file for _, bucket in sums for file in bucket.files]
            files += [exact_name(name) for name in self.models]
            stored, final = name_by_content(self._folder, files, workers)
        return Manifest(
            transform=options.transform,
            shuffle_layers=options.shuffle_layers,
            seed=options.seed,
            lam=options.lam,
            form=form,
            base_path=os.path.abspath(self._base.path),
            base_fingerprint=fingerprint(self._base, self._digests),
            base_stamps=stamps(self._base),
            rules=self._rules,
            digests=self._digests,
            exponents=exponents,
            buckets=tuple(bucket.entry(tuple(summer.models), final) for summer, bucket in sums),
            models=models,
            files=stored,
            made_by=__version__,
            masking=options.masking,
        )

    def _spread(self, workers: Workers) -> list[tuple[str, ...]]:
        """The models of each bucket."""
        if self._options.buckets == 1:
            return [tuple(self.models)]
        weights = self._options.weights
        powers = {
            name: workers.submit(functools.partial(power, model, self._base, self._rules, weights[name]))
            for name, model in self.models.items()
        }
        return balance_into_buckets(
            {name: power.result() for name, power in powers.items()}, self._options.buckets
        )

    def _sums(
        self, number: int, names: tuple[str, ...], exponents: Mapping[str, int]
    ) -> tuple[DeltaSummer, BucketWriter]:
        options, form = self._options, self._form
        seeds = dict.fromkeys(names, options.seed)
        models = {name: self.models[name] for name in names}
        summer = DeltaSummer(self._base, models, options.weights, seeds, options.transform, options.masking)
        last = number == options.buckets - 1
        room = form.room or len(names)
        sums = BucketWriter(
            self._folder,
            number,
            form,
            self._rules,
            summer,
            shuffle_layers=options.shuffle_layers,
            exponents=exponents,
            open=form.bits is not None and last and len(names) < room,
        )
        return summer, sums

    def _finish(self, name: str, summer: DeltaSummer, workers: Workers) -> Model:
        departs, tuned, options = self._departs[name], self._tuned[name], self._options
        write_exact(self._folder, self._base, name, tuned, self._rules, departs)
        seal = model_fingerprint(tuned, workers, whole=self._form.exact)
        return describe(summer, name, options.weights[name], options.seed, seal, self._rules, departs)

    def _hash(self, workers: Workers, name: str) -> None:
        workers.submit_slow(functools.partial(self._digest, name))

    def _digest(self, name: str) -> int:
        self._digests[name] = tensor_digest(self._base, name)
        return 0
