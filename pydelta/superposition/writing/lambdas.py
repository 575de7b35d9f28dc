"""Lambda per tensor and model in output space, from what a model's layers see.

With e = retrieved - tuned at lambda 1, X a layer's inputs and tau the model's delta, the factor that
minimises ||X (lambda (tau + e) - tau)||^2 in expectation is

    lambda = ||X tau||^2 / (||X tau||^2 + E ||X e||^2),  E ||X e||^2 = sum_j ||X_j||^2 ||e_:j||^2 = N(e).

The transforms give the columns e_:j independent random signs, so that products of two of them vanish in
expectation, and with them <X tau, X e>; norms of columns are all that is needed of X. The exception is a lone
delta in codes under signs alone, with which codes commute: its e keeps the delta's signs, and more of it may
reach the output than this sum says.

Where deltas are masked by magnitude, tau is what the mask leaves of them, whose ||X tau||^2 is estimated by
the share of N that is left. What a random mask takes and adds is noise: there tau is the whole delta.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

from pydelta.calibration import Calibration, LayerStatistics
from pydelta.checkpoint import Checkpoint
from pydelta.checkpoint.header import ITEMSIZE
from pydelta.checkpoint.progress import progress
from pydelta.checkpoint.tensors import TORCH
from pydelta.checkpoint.workers import Workers
from pydelta.checkpoint.workspace import Workspace
from pydelta.core.mask_names import RANDOM
from pydelta.core.masks import KernelMask
from pydelta.core.random import key
from pydelta.ops import merge_into, retrieve
from pydelta.superposition.format.files import StoreFiles
from pydelta.superposition.format.manifest import Manifest
from pydelta.superposition.format.parts import cut, input_axis
from pydelta.superposition.format.rules import SUPERPOSED, Rule
from pydelta.superposition.reading.aligned import Model
from pydelta.superposition.reading.bucket_reader import BucketReader, compute


def check_calibration(name: str, calibration: Calibration, rules: Mapping[str, Rule]) -> None:
    """A calibration is of the model's layers and knows their output norms.

    Raises:
        ValueError: it does not fit; the message lists the layers.
    """
    problems = [
        f"{tensor!r} {problem}"
        for tensor, layer in calibration.layers.items()
        if (problem := _problem(layer, rules.get(tensor)))
    ]
    if not calibration.layers:
        problems = ["it has no layer"]
    if problems:
        raise ValueError(
            f"[compress] the calibration of {name!r} must be of the model's layers: {'; '.join(problems)}"
        )


def _problem(layer: LayerStatistics, rule: Rule | None) -> str:
    if rule is None:
        return "is no tensor of the base (the Calibrator's layers= chooses layers)"
    if rule.rule != SUPERPOSED or len(rule.shape) != 2:
        return "is no superposed matrix"
    norm, output = layer.column_norm, layer.output_norm2
    sizes, wanted = list(norm.shape), [rule.shape[rule.dim or 0]]
    if (sizes, layer.dim) != (wanted, rule.dim):
        return f"has inputs {sizes} along axis {layer.dim}, in the base {wanted} along axis {rule.dim}"
    if output is None:
        return "has no output norm: make the calibration with Calibrator(model, base=...)"
    if not (math.isfinite(output) and output >= 0 and norm.isfinite().all() and (norm >= 0).all()):
        return "has norms that are negative, NaN or Inf"
    return ""


def fit_lambdas(
    store: Path,
    manifest: Manifest,
    base: Checkpoint,
    models: Mapping[str, Model],
    calibrations: Mapping[str, Calibration],
    *,
    show: bool,
    fresh: Path | None = None,
) -> Manifest:
    """The manifest with the factors of the models that have a calibration.

    Args:
        store: whose sums are final.
        models: their tuned checkpoints.
        fresh: where files lie that the store gets with this manifest.
    """
    if not calibrations:
        return manifest
    files = StoreFiles(store, manifest, fresh)
    entries = dict(manifest.models)
    total = base.nbytes * len(calibrations)
    with progress("calibrate", total, show) as advance, Workers(advance) as workers:
        for name, calibration in calibrations.items():
            lams = _Fit(files, base, name, models[name]).run(calibration, workers)
            entries[name] = dataclasses.replace(entries[name], lams=lams)
    return dataclasses.replace(manifest, models=entries)


class _Norms(NamedTuple):
    """N of a part: of the delta, of what a mask has left of it, of the error."""

    delta: float
    left: float
    error: float


class _Fit:
    """The factors of one model."""

    def __init__(self, files: StoreFiles, base: Checkpoint, name: str, tuned: Model) -> None:
        self._manifest = manifest = files.manifest
        self._name, self._base, self._tuned = name, base, tuned
        self._model, self._slots = manifest.models[name], files.slots(name)
        self._sums = BucketReader(files, manifest.bucket(name))
        self._work = Workspace()

    def run(self, calibration: Calibration, workers: Workers) -> dict[str, float]:
        norms: dict[str, list[_Norms]] = {tensor: [] for tensor in calibration.layers}
        for tensor, layer in calibration.layers.items():
            rule, mask = self._manifest.rules[tensor], self._mask(tensor, workers)
            for start, shape in cut(rule, 2 * ITEMSIZE[rule.dtype] + 28):
                job = functools.partial(self._add, norms[tensor], tensor, layer, mask, start, shape)
                (workers.submit_part if rule.dim else workers.run_alone)(job)
        workers.finish()
        return {
            tensor: _best(layer.output_norm2 or 0.0, norms[tensor])
            for tensor, layer in calibration.layers.items()
        }

    def _mask(self, tensor: str, workers: Workers) -> Future[KernelMask] | None:
        """Begins the mask that has taken the smaller or larger elements of the delta, if any."""
        masking = self._manifest.masking
        if masking.mask in (None, RANDOM):
            return None
        arguments = self._base, self._tuned, self._model.seed, self._name, tensor
        return workers.submit(functools.partial(masking.of, *arguments))

    def _add(
        self,
        norms: list[_Norms],
        tensor: str,
        layer: LayerStatistics,
        mask: Future[KernelMask] | None,
        start: int,
        shape: tuple[int, ...],
    ) -> int:
        """The norms of one part, before anything is rounded to the base's dtype."""
        rule, work = self._manifest.rules[tensor], self._work
        dtype, wide, axis = TORCH[rule.dtype], compute(rule), input_axis(rule)
        delta = work.get("delta", shape, wide)
        own = TORCH[self._tuned.dtype(tensor)]
        delta.copy_(self._tuned.read(tensor, work.get("tuned", shape, own), start))
        delta.sub_(self._base.read(tensor, work.get("base", shape, dtype), start))
        left = delta
        if mask is not None:
            left = merge_into(
                None, [delta], masks=[mask.result()], start=start, out=work.get("left", shape, wide)
            )
        error = retrieve(
            work.get("zero", shape, wide).zero_(),
            self._sums.part(self._slots[tensor], start, shape),
            key(self._model.seed, "signs", self._name, tensor),
            lam=self._model.lam(tensor, 1.0),
            transform=self._manifest.transform_of(tensor),
            dim=axis,
            out=work.get("error", shape, wide),
        ).sub_(left)
        weights = layer.column_norm.double().square()
        norms.append(
            _Norms(*(float(x.double().square_().sum(1 - axis) @ weights) for x in (delta, left, error)))
        )
        return delta.numel() * ITEMSIZE[rule.dtype]


def _best(output_norm2: float, parts: Sequence[_Norms]) -> float:
    """signal / (signal + noise), to six digits; 1 where there is neither."""
    delta, left, noise = (math.fsum(column) for column in zip(*parts, strict=True))
    signal = output_norm2 * left / delta if delta > 0 else output_norm2
    return float(f"{signal / (signal + noise):.6g}") if signal + noise > 0 else 1.0
