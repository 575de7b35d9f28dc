"""Many fine-tunes into one store."""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Mapping
from pathlib import Path

import torch

from pydelta import __version__
from pydelta._progress import progress
from pydelta.checkpoint import Checkpoint, TensorInfo
from pydelta.checkpoint.digest import fingerprint, tensor_digest
from pydelta.checkpoint.header import ITEMSIZE
from pydelta.checkpoint.memory import TORCH
from pydelta.checkpoint.staging import Pathlike, check_output, staged
from pydelta.checkpoint.workers import Workers
from pydelta.checkpoint.workspace import check_finite
from pydelta.checkpoint.writer import Shards, Writer, writing
from pydelta.superposition.delta import Summer
from pydelta.superposition.files import stamps, superposed_dtype
from pydelta.superposition.log import locked, log_line
from pydelta.superposition.manifest import EXACT_FOLDER, LOG, STORE, Manifest, Model, exact_name, shard_name
from pydelta.superposition.options import Options
from pydelta.superposition.parts import cut
from pydelta.superposition.rules import EXACT, SUPERPOSED, Rule, check_same, rules_of, slots

SHARD_BYTES = 4 << 30


def create(
    base: Pathlike,
    models: Mapping[str, Pathlike],
    out: Pathlike,
    options: Options,
    *,
    input_dims: Mapping[str, int] | None,
    force: bool,
    show: bool,
) -> Path:
    """Writes a store; see :meth:`Superposition.create`."""
    target = check_output(out, force=force, inputs=[base, *models.values()])
    origin = Checkpoint(base)
    tuned = {name: Checkpoint(models[name]) for name in sorted(models)}
    check_same(origin, tuned)
    rules = rules_of(origin, input_dims)
    # A store that is replaced waits for its readers.
    waiting = locked(target) if (target / STORE).is_file() else contextlib.nullcontext()
    with waiting, staged(target, force=force) as folder:
        (folder / EXACT_FOLDER).mkdir(parents=True)
        manifest = _Compression(folder, origin, tuned, rules, options).run(show)
        paths = {name: os.fspath(path) for name, path in models.items()}
        _write_text(folder / STORE, manifest.dump())
        _write_text(folder / LOG, log_line("create", base=os.fspath(base), models=paths))
    return target


class _Compression:
    """The files of tensors of one store."""

    def __init__(
        self,
        folder: Path,
        base: Checkpoint,
        models: dict[str, Checkpoint],
        rules: dict[str, Rule],
        options: Options,
    ) -> None:
        self._folder, self._base, self._models = folder, base, models
        self._rules, self._options = rules, options
        self._summer = Summer(base, models, options.weights, options.seed, options.transform)
        self._digests: dict[str, str] = {}

    def run(self, show: bool) -> Manifest:
        """Writes them and gives what ``store.json`` says about them."""
        shards = self._plan()
        with (
            progress("compress", self._base.nbytes, show) as advance,
            writing(self._folder, shards) as writer,
            Workers(advance) as workers,
        ):
            for name, rule in self._rules.items():
                if rule.rule != SUPERPOSED:
                    workers.aside(functools.partial(self._digest, name))
            self._write_superposed(writer, shards, workers)
            for name, model in self._models.items():
                self._write_exact(self._folder / exact_name(name), model)
        options = self._options
        return Manifest(
            transform=options.transform,
            shuffle_layers=options.shuffle_layers,
            seed=options.seed,
            dtype=options.dtype,
            lam=options.lam,
            base_path=os.path.abspath(self._base.path),
            base_fingerprint=fingerprint(self._base, self._digests),
            base_stamps=stamps(self._base),
            shards=len(shards),
            rules=self._rules,
            digests=self._digests,
            models={name: self._describe(name) for name in self._models},
            made_by=__version__,
        )

    def _describe(self, name: str) -> Model:
        model, options = self._models[name], self._options
        sampled = {tensor: tensor_digest(model, tensor, sampled=True) for tensor in model.names}
        return Model(
            seed=options.seed,
            weight=options.weights[name],
            fingerprint=fingerprint(model, sampled),
            norm2=self._summer.norm2(name),
        )

    def _plan(self) -> Shards:
        """The superposed tensors by file, in the base's order."""
        shards: Shards = {}
        room = 0
        for name, rule in self._rules.items():
            if rule.rule != SUPERPOSED:
                continue
            info = TensorInfo(name, superposed_dtype(rule, self._options.dtype), rule.shape)
            if info.nbytes > room:
                shards[shard_name(len(shards) + 1)], room = [], SHARD_BYTES
            shards[shard_name(len(shards))].append(info)
            room -= info.nbytes
        return shards

    def _write_superposed(self, writer: Writer, shards: Shards, workers: Workers) -> None:
        options = self._options
        tables = {
            name: slots(self._rules, options.seed, name, options.shuffle_layers) for name in self._models
        }
        sources = {name: {place: source for source, place in table.items()} for name, table in tables.items()}
        for info in [info for tensors in shards.values() for info in tensors]:
            here = {name: table[info.name] for name, table in sources.items()}
            rule, dtype = self._rules[info.name], TORCH[info.dtype]
            width = ITEMSIZE[rule.dtype] * (len(here) + len(set(here.values()))) + ITEMSIZE[info.dtype]
            workers.aside(functools.partial(self._digest, info.name))
            for start, shape in cut(rule, width):
                job = functools.partial(
                    self._sum_and_write, writer, info.name, here, rule, start, shape, dtype
                )
                (workers.part if rule.dim else workers.alone)(job)

    def _sum_and_write(
        self,
        writer: Writer,
        place: str,
        sources: Mapping[str, str],
        rule: Rule,
        start: int,
        shape: tuple[int, ...],
        dtype: torch.dtype,
    ) -> int:
        writer.write(place, self._summer.sum(sources, rule, start, shape, dtype), start)
        return math.prod(shape) * ITEMSIZE[rule.dtype]

    def _digest(self, name: str) -> int:
        self._digests[name] = tensor_digest(self._base, name)
        return 0

    def _write_exact(self, path: Path, model: Checkpoint) -> None:
        """A model's own tensors that are not superposed."""
        kept = [self._base.tensors[name] for name, rule in self._rules.items() if rule.rule == EXACT]
        with writing(path.parent, {path.name: kept}) as writer:
            for info in kept:
                check_finite(self._base, info.name)
                writer.write(info.name, check_finite(model, info.name))


def _write_text(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
