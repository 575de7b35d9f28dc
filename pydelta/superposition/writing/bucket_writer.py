"""The files of one bucket: sums, their codes, or both, written part by part."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch

from pydelta.checkpoint import TensorInfo
from pydelta.checkpoint.header import ITEMSIZE
from pydelta.checkpoint.tensors import TORCH
from pydelta.checkpoint.workers import Workers
from pydelta.checkpoint.writer import Shards, Writer, writing
from pydelta.core.quantized import Quantized
from pydelta.superposition.format.form import CODES, SCALES, StorageForm
from pydelta.superposition.format.manifest import Bucket
from pydelta.superposition.format.parts import Part, cut
from pydelta.superposition.format.rules import SUPERPOSED, Rule, slots
from pydelta.superposition.reading.bucket_reader import BucketReader
from pydelta.superposition.writing.summer import DeltaSummer, coded

SHARD_BYTES = 4 << 30
"""A file of sums takes at most so much, or one tensor."""


class BucketWriter:
    """Writes the sums of one bucket.

    Args:
        folder: where new files go, under names of their kind and ``number``.
        summer: of the models that are added, or taken out.
        exponents: superposed tensor -> the exponent of its fixed-point sum.
        old: the sums of the models that are there already.
        open: write the sums in full beside codes.
    """

    def __init__(
        self,
        folder: Path,
        number: int,
        form: StorageForm,
        rules: Mapping[str, Rule],
        summer: DeltaSummer,
        *,
        shuffle_layers: bool,
        exponents: Mapping[str, int],
        old: BucketReader | None = None,
        open: bool = False,
    ) -> None:
        self._folder, self._form, self._rules, self._summer = folder, form, rules, summer
        self._exponents, self._old, self._open = exponents, old, open
        tables = {model: slots(rules, summer.seeds[model], model, shuffle_layers) for model in summer.models}
        self._sources = {
            model: {slot: source for source, slot in table.items()} for model, table in tables.items()
        }
        self._shards = _plan(f"superposed-{number}", form.tensors(rules))
        self._open_shards = _plan(f"open-{number}", form.tensors(rules, total=True)) if open else {}

    @property
    def files(self) -> list[str]:
        """The names of the new files."""
        return [*self._shards, *self._open_shards]

    def entry(self, models: tuple[str, ...], final: Mapping[str, str]) -> Bucket:
        """What ``store.json`` says about the bucket, whose files have got their final names."""
        files, opened = (tuple(final[file] for file in x) for x in (self._shards, self._open_shards))
        return Bucket(models, files, opened)

    def write(self, workers: Workers, beside: Callable[[str], object] = lambda slot: None) -> None:
        """Writes the files; they are complete when this returns.

        Args:
            beside: is called for each tensor before it is summed, to read it as well while it is at hand.
        """
        with contextlib.ExitStack() as stack:
            writer = stack.enter_context(writing(self._folder, self._shards))
            totals = stack.enter_context(writing(self._folder, self._open_shards)) if self._open else writer
            for slot, rule in self._rules.items():
                if rule.rule == SUPERPOSED:
                    beside(slot)
                    self._start(workers, slot, rule, writer, totals)
            workers.finish()

    def _start(self, workers: Workers, slot: str, rule: Rule, writer: Writer, totals: Writer) -> None:
        sources = {model: table[slot] for model, table in self._sources.items()}
        masks = self._summer.masks(sources, workers)
        width = ITEMSIZE[rule.dtype] * (len(sources) + len(set(sources.values()))) + 4 * (1 + len(masks))
        for start, shape in cut(rule, width):
            part = Part(slot, sources, rule, start, shape, masks)
            job = functools.partial(self._run, part, writer, totals)
            (workers.submit_part if rule.dim else workers.run_alone)(job)

    def _run(self, part: Part, writer: Writer, totals: Writer) -> int:
        form = self._form
        if form.bits is None:
            writer.write(part.slot, self._total(part), part.start)
        elif self._open or self._old is not None:
            total = self._total(part)
            if self._open:
                totals.write(part.slot, total, part.start)
            _write_codes(writer, part, coded(total, part.rule, form))
        else:
            _write_codes(writer, part, self._summer.codes(part, form))
        return math.prod(part.shape) * ITEMSIZE[part.rule.dtype]

    def _total(self, part: Part) -> torch.Tensor:
        form, slot = self._form, part.slot
        old = None if self._old is None else self._old.raw(slot, part.start, part.shape)
        if form.exact:
            assert form.room is not None
            return self._summer.fixed(part, self._exponents[slot], form.room, old)
        return self._summer.sum(part, TORCH[form.total(slot, part.rule).dtype], old)


def _write_codes(writer: Writer, part: Part, q: Quantized) -> None:
    row = part.start // part.rule.shape[part.rule.dim or 0]
    writer.write(CODES + part.slot, q.codes, row * q.codes.shape[-1])
    writer.write(SCALES + part.slot, q.scales.to(torch.bfloat16), row * q.scales.shape[-1])


def _plan(stem: str, tensors: Iterable[TensorInfo]) -> Shards:
    """Stored tensors by file, in their order."""
    shards: Shards = {}
    room = 0
    for info in tensors:
        if info.nbytes > room:
            shards[f"{stem}-{len(shards) + 1}.safetensors"], room = [], SHARD_BYTES
        shards[f"{stem}-{len(shards)}.safetensors"].append(info)
        room -= info.nbytes
    return shards
