"""Checkpoints merged part by part: from the page cache through a core's cache to the output file."""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future

import torch

from pydelta import ops
from pydelta.checkpoint import Checkpoint
from pydelta.checkpoint.header import ITEMSIZE
from pydelta.checkpoint.tensors import TORCH
from pydelta.checkpoint.workers import Workers
from pydelta.checkpoint.workspace import PART_BYTES, Workspace, check_finite, check_part
from pydelta.core.check import compute_dtype
from pydelta.merging.planning.items import ModelTerm, TensorPlan
from pydelta.merging.running.columns import Columns
from pydelta.merging.running.masker import Chosen, Masker, by_rows, common_dtype, matched
from pydelta.merging.running.one_tensor import check_result, merge_whole, settings
from pydelta.merging.running.pieces import load_pair, map_tensor, of_part, on_device, ready, row_length

Sink = Callable[[str, torch.Tensor, int], object]
"""Takes a tensor's name, consecutive elements of it, and the index of the first."""

Masks = list[list[Chosen]]
"""By output and by term."""

_AHEAD = 4  # tensors whose masks are made before they are merged: it bounds the memory of masks


class CheckpointMerge:
    """Merges items into one sink for every seed.

    Args:
        origin: gives what is not merged.
        base: None where the models themselves are averaged.
        models: by name.
        same: tensor -> the names that its result is written under, where it has several.
        device: where the arithmetic runs; other than the CPU, tensors go there whole.
    """

    def __init__(
        self,
        masker: Masker,
        origin: Checkpoint,
        base: Checkpoint | None,
        models: Mapping[str, Checkpoint],
        sinks: Mapping[int, Sink],
        same: Mapping[str, Sequence[str]],
        device: torch.device,
    ) -> None:
        self._masker, self._method = masker, masker.method
        self._origin, self._base, self._models = origin, base, models
        self._sinks, self._same, self._device = sinks, same, device
        self._work = Workspace()

    def run(self, items: Sequence[TensorPlan], workers: Workers) -> None:
        waiting: deque[tuple[TensorPlan, list[Future[list[Chosen]]]]] = deque()
        for item in items:
            jobs = [functools.partial(self._masks, item, term) for term in item.terms]
            waiting.append((item, [workers.submit(job) for job in jobs]))
            if len(waiting) > _AHEAD:
                self._start(workers, *waiting.popleft())
        while waiting:
            self._start(workers, *waiting.popleft())

    def _masks(self, item: TensorPlan, term: ModelTerm) -> list[Chosen]:
        """One term's mask for every seed, ready for parts of the tensor."""

        @functools.cache
        def pair() -> tuple[torch.Tensor, torch.Tensor]:
            assert self._base is not None
            return load_pair(self._models, self._base, item, term.model)

        masks: list[Chosen] = []
        for seed in self._sinks:
            if masks and not self._method.random:
                masks.append(masks[0])
                continue
            mask = self._masker.mask(item, term, seed, pair)
            masks.append(mask if self._in_one(item, [mask]) else ready(mask, item, pair))
        return masks

    def _start(self, workers: Workers, item: TensorPlan, jobs: Sequence[Future[list[Chosen]]]) -> None:
        by_term = [job.result() for job in jobs]
        masks = [[term[i] for term in by_term] for i in range(len(self._sinks))]
        merged = math.prod(item.shape) if item.terms else 0
        if item.terms:
            if self._in_one(item, masks[0]):
                workers.run_alone(functools.partial(self._whole, item, masks))
            else:
                for start, shape in self._parts(item, masks[0]):
                    workers.submit_part(functools.partial(self._part, item, masks, start, shape))
        total = math.prod(item.info.shape)
        step = PART_BYTES // 2 // ITEMSIZE[self._origin.dtype(item.name)]
        for start in range(merged, total, step):
            workers.submit_part(functools.partial(self._copy, item, start, min(step, total - start)))
        if total == 0:
            self._copy(item, 0, 0)

    def _in_one(self, item: TensorPlan, masks: Sequence[Chosen]) -> bool:
        """Whether a tensor is merged in one piece."""
        across = any(by_rows(mask) for mask in masks) and item.axis == 0 and len(item.shape) > 1
        columns = any(isinstance(mask, Columns) for mask in masks)
        return across or columns or matched(self._method, item) or self._device.type != "cpu"

    def _parts(self, item: TensorPlan, masks: Sequence[Chosen]) -> Iterator[tuple[int, tuple[int, ...]]]:
        """(index of the first element, shape) of parts that a core's cache holds."""
        sources = [self._models[term.model] for term in item.terms]
        width = sum(ITEMSIZE[source.dtype(item.name)] for source in [self._origin, *sources])
        step = max(1, PART_BYTES // (width + ITEMSIZE[item.info.dtype]))
        total = math.prod(item.shape)
        if not any(by_rows(mask) for mask in masks):
            for start in range(0, total, step):
                yield start, (min(step, total - start),)
            return
        n = row_length(item)
        rows = max(1, step // n)
        for first in range(0, total // n, rows):
            yield first * n, (min(rows, total // n - first), n)

    def _part(self, item: TensorPlan, masks: Masks, start: int, shape: tuple[int, ...]) -> int:
        base = None if self._base is None else self._read(self._base, "base", item, start, shape)
        roles = {f"tuned {term.model}": self._models[term.model] for term in item.terms}
        tuned = [self._read(model, role, item, start, shape) for role, model in roles.items()]
        inputs = tuned if base is None else [base, *tuned]
        read = sum(x.nbytes for x in inputs)
        dtype = common_dtype([x.dtype for x in inputs])
        base = None if base is None else self._widen(base, "base", dtype)
        tuned = [self._widen(x, role, dtype) for x, role in zip(tuned, roles, strict=True)]
        wanted = TORCH[item.info.dtype]
        direct = wanted if compute_dtype(wanted) is compute_dtype(dtype) else compute_dtype(dtype)
        for sink, chosen in zip(self._sinks.values(), masks, strict=True):
            here = [of_part(mask, start, shape) for mask in chosen]
            out = self._work.get("out", shape, direct)
            ops.merge_into(base, tuned, masks=here, start=start, out=out, **settings(self._method, item))
            result = self._widen(out, "out", wanted)
            check_result(item, result)
            self._give(sink, item, result, start)
        return read

    def _whole(self, item: TensorPlan, masks: Masks) -> int:
        """A tensor in one piece, on the device."""
        sources = [] if self._base is None else [self._base]
        sources += [self._models[term.model] for term in item.terms]
        for source in sources:
            check_finite(source, item.name)
        mapped = [map_tensor(source, item) for source in sources]
        dtype = common_dtype([x.dtype for x in mapped])
        there = [x.to(device=self._device, dtype=dtype) for x in mapped]
        base = None if self._base is None else there[0]
        tuned = there if base is None else there[1:]
        for sink, chosen in zip(self._sinks.values(), masks, strict=True):
            here = [on_device(mask, self._device) for mask in chosen]
            merged = merge_whole(self._method, item, base, tuned, here, TORCH[item.info.dtype])
            check_result(item, merged)
            self._give(sink, item, merged.cpu().contiguous(), 0)
        return sum(x.nbytes for x in mapped)

    def _copy(self, item: TensorPlan, start: int, count: int) -> int:
        """What the result has from the base."""
        info = self._origin.tensors[item.name]
        part = self._work.get("copy", (count,), TORCH[info.dtype])
        self._origin.read(item.name, part, start)
        if part.is_floating_point():
            check_part(self._origin, item.name, part)
        result = self._widen(part, "copy", TORCH[item.info.dtype])
        if result is not part:
            check_result(item, result)
        for sink in self._sinks.values():
            self._give(sink, item, result, start)
        return part.nbytes

    def _give(self, sink: Sink, item: TensorPlan, part: torch.Tensor, start: int) -> None:
        for name in self._same.get(item.name, (item.name,)):
            sink(name, part, start)

    def _read(
        self, model: Checkpoint, role: str, item: TensorPlan, start: int, shape: tuple[int, ...]
    ) -> torch.Tensor:
        out = self._work.get(role, shape, TORCH[model.dtype(item.name)])
        model.read(item.name, out, start)
        check_part(model, item.name, out)
        return out

    def _widen(self, x: torch.Tensor, role: str, dtype: torch.dtype) -> torch.Tensor:
        if x.dtype is dtype:
            return x
        return self._work.get(f"{role} widened", x.shape, dtype).copy_(x)
