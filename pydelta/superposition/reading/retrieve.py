"""One model back out of a store."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import torch

from pydelta import ops
from pydelta.checkpoint import Checkpoint
from pydelta.checkpoint.digest import tensor_digest
from pydelta.checkpoint.folders.layout import arranged, output
from pydelta.checkpoint.header import ITEMSIZE
from pydelta.checkpoint.progress import progress
from pydelta.checkpoint.staging import Pathlike, check_output
from pydelta.checkpoint.tensors import TORCH
from pydelta.checkpoint.workers import Workers
from pydelta.checkpoint.workspace import Workspace
from pydelta.core import check
from pydelta.core.check import number
from pydelta.core.random import key
from pydelta.superposition.format.base import open_base, stamps
from pydelta.superposition.format.departures import ROWS
from pydelta.superposition.format.files import StoreFiles
from pydelta.superposition.format.log import append_log
from pydelta.superposition.format.parts import cut, input_axis
from pydelta.superposition.format.rules import BASE, Rule
from pydelta.superposition.reading.bucket_reader import BucketReader, compute
from pydelta.superposition.reading.residual import ResidualElements, read_residual

OUT_DTYPES = ("base", "model")

Sink = Callable[[str, torch.Tensor, int], object]
"""Takes a tensor's name, consecutive elements of it, and the index of the first."""


class Retrieval:
    """One model of a store, part by part.

    Args:
        lam: lambda; by default the store's.
        calibrated: multiply it with the model's calibrated factors.
        out_dtype: "base", or "model" for the model's own floating dtypes.

    Raises:
        OSError: a file cannot be read.
        ValueError: the model or the base is not the store's, or a file of the store is not sound.
    """

    def __init__(
        self,
        store: Path,
        files: StoreFiles,
        name: str,
        base: Pathlike | None,
        lam: float | None,
        *,
        calibrated: bool = True,
        out_dtype: str = "base",
    ) -> None:
        check.choice("retrieve", "out_dtype", out_dtype, OUT_DTYPES)
        manifest = files.manifest
        if name not in manifest.models:
            known = ", ".join(sorted(manifest.models))
            raise ValueError(f"{store}: holds no model {name!r}; it holds {known}")
        self.lam = manifest.lam if lam is None else number("retrieve", "lam", lam)
        self.base = open_base(store, manifest, base)
        self._store, self._manifest, self.rules = store, manifest, manifest.rules
        self._name, self._model = name, manifest.models[name]
        if not calibrated:
            self._model = dataclasses.replace(self._model, lams={})
        self._sums = BucketReader(files, manifest.bucket(name))
        self._exact, self._residual = files.exact[name], files.residual.get(name)
        self._departs, self._own_files = self._model.departs, files.own_files(name)
        self.tensors = self._departs.tensors(self.rules, own_dtypes=out_dtype == "model")
        # The header also knows how many bytes a dtype takes that nobody knows.
        same = {n: file for n, file in self._exact.tensors.items() if n in self.tensors}
        self.tensors |= {n: info for n, info in same.items() if info.dtype == self.tensors[n].dtype}
        self._slots = files.slots(name)
        self._work = Workspace()
        self._twins: dict[str, list[str]] = {}
        for tensor, rule in self.rules.items():
            if rule.tied and tensor in self.tensors and tensor not in self._departs.own:
                self._twins.setdefault(rule.tied, []).append(tensor)
        # What has not been written to since the store was made needs no hashing.
        self._unknown = stamps(self.base) != manifest.base_stamps

    def to_files(self, out: Pathlike, *, force: bool, show: bool, log: bool = True) -> Path:
        """Writes the model as a checkpoint with the base's layout."""
        target = check_output(out, force=force, inputs=[self._store, self.base.path])
        shards, metadata = arranged(self.base, self.tensors, target)
        names = [info.name for tensors in shards.values() for info in tensors]
        source, own = self.base.folder, self.own_files()
        with output(target, shards, metadata, force=force, copy_from=source, own=own) as writer:
            self.run(names, writer.write, show)
        if log:
            self._log(str(target))
        return target

    def to_memory(self, *, show: bool) -> dict[str, torch.Tensor]:
        """The model as a state dict."""
        tensors = {
            info.name: torch.empty(info.as_read, dtype=TORCH[info.dtype]) for info in self.tensors.values()
        }
        self.run(list(tensors), functools.partial(_keep, tensors), show)
        self._log(None)
        return tensors

    def run(self, names: list[str], sink: Sink, show: bool) -> None:
        """Gives the model's tensors of these names to ``sink``, part by part, from several threads."""
        label = f"retrieve {self._name}"
        with progress(label, self.base.nbytes, show) as advance, Workers(advance) as workers:
            for name in names:
                if self._unknown and name in self.rules:
                    workers.submit_slow(functools.partial(self._verify, name))
                self._start(workers, name, sink)

    def _start(self, workers: Workers, name: str, sink: Sink) -> None:
        rule, dtype = self.rules.get(name), TORCH[self.tensors[name].dtype]
        if rule is not None and rule.tied and name not in self._departs.own:
            return  # comes with the tensor that it is
        if twins := self._twins.get(name):
            sink = functools.partial(_write_all, sink, (name, *twins))
        if rule is None or not self._departs.superposes(name, rule):
            is_base = rule is not None and rule.rule == BASE and name not in self._departs.own
            source = self.base if is_base else self._exact
            workers.submit_part(functools.partial(_copy, source, name, sink, dtype))
            return
        slot = self._slots[name]
        patch = None
        if self._residual is not None:
            patch = workers.submit(functools.partial(read_residual, self._residual, name, rule))
        common = dataclasses.replace(rule, shape=(self.rows(name), *rule.shape[1:])) if rule.dim else rule
        for start, shape in _parts(common):
            job = functools.partial(self._retrieve, name, slot, start, shape, sink, patch, dtype)
            (workers.submit_part if rule.dim else workers.run_alone)(job)
        if ROWS + name in self._exact.tensors and self._departs.rows.get(name, 0) > rule.shape[0]:
            end = math.prod(rule.shape)
            more = functools.partial(_copy, self._exact, ROWS + name, sink, dtype, name, end)
            workers.submit_part(more)

    def rows(self, name: str) -> int:
        """How many leading rows of a superposed tensor model and base have in common; 0 if none."""
        rule = self.rules[name]
        if not self._departs.superposes(name, rule):
            return 0
        return min(self._departs.rows.get(name, rule.shape[0]), rule.shape[0])

    def own_files(self) -> dict[str, bytes]:
        """The model's own small files.

        Raises:
            ValueError: one has other bytes than those that were stored.
            OSError: one cannot be read.
        """
        contents = {name: path.read_bytes() for name, path in self._own_files.items()}
        for name, content in contents.items():
            if hashlib.sha256(content).hexdigest() != self._departs.files[name]:
                raise ValueError(
                    f"{self._own_files[name]}: has other bytes than those that were stored, or the store has "
                    "changed since it was opened"
                )
        return contents

    def whole(self, name: str) -> torch.Tensor:
        """One superposed tensor without its residual, retrieved by the calling thread alone."""
        rule, slot = self._manifest.rules[name], self._slots[name]
        tensor = torch.empty(rule.shape, dtype=TORCH[rule.dtype])
        for start, shape in _parts(rule):
            self._retrieve(name, slot, start, shape, functools.partial(_keep, {name: tensor}))
        return tensor

    def _retrieve(
        self,
        name: str,
        slot: str,
        start: int,
        shape: tuple[int, ...],
        sink: Sink,
        patch: Future[ResidualElements | None] | None = None,
        out_dtype: torch.dtype | None = None,
    ) -> int:
        rule = self._manifest.rules[name]
        dtype = TORCH[rule.dtype]
        # An op takes no fp64 beside other dtypes: there the model's own dtype comes last.
        last = out_dtype or dtype
        out = last if (dtype is torch.float64) == (last is torch.float64) else compute(rule)
        tuned = ops.retrieve(
            self.base.read(name, self._work.get("base", shape, dtype), start),
            self._sums.part(slot, start, shape),
            key(self._model.seed, "signs", self._name, name),
            lam=self._model.lam(name, self.lam),
            transform=self._manifest.transform_of(name),
            dim=input_axis(rule),
            out=self._work.get("tuned", shape, out),
        )
        if out is not last:
            tuned = self._work.get("last", shape, last).copy_(tuned)
        if patch is not None and (own := patch.result()) is not None:
            own.part(start, tuned.numel()).cast(last).put(tuned)
        sink(name, tuned, start)
        return tuned.nbytes

    def _verify(self, name: str) -> int:
        if tensor_digest(self.base, name) != self._manifest.digests[name]:
            raise ValueError(f"{self.base.path}: not the base of {self._store}: tensor {name!r} differs")
        return 0

    def _log(self, out: str | None) -> None:
        base = str(self.base.path)
        append_log(self._store, "retrieve", model=self._name, out=out, base=base, lam=self.lam)


def _parts(rule: Rule) -> Iterator[tuple[int, tuple[int, ...]]]:
    return cut(rule, 2 * ITEMSIZE[rule.dtype] + 4)


def _keep(tensors: dict[str, torch.Tensor], name: str, part: torch.Tensor, start: int) -> None:
    tensors[name].view(-1)[start : start + part.numel()] = part.view(-1)


def _write_all(sink: Sink, names: tuple[str, ...], name: str, part: torch.Tensor, start: int) -> None:
    """One tensor under all of its names."""
    for each in names:
        sink(each, part, start)


def _copy(
    source: Checkpoint, stored: str, sink: Sink, dtype: torch.dtype, name: str | None = None, start: int = 0
) -> int:
    """A stored tensor as it lies there, in the dtype that is asked for; by default under its own name."""
    sink(name or stored, source.tensor(stored).to(dtype), start)
    return source.tensors[stored].nbytes
