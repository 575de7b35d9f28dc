"""The files of tensors of a store, held against its ``store.json``. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydelta.checkpoint import Checkpoint, TensorInfo
from pydelta.superposition.format.form import PLACES, VALUES
from pydelta.superposition.format.manifest import Manifest, exact_name, residual_name
from pydelta.superposition.format.rules import EXACT, SUPERPOSED, Rule, slots


class StoreFiles:
    """The files of tensors that a store's ``store.json`` names, held open: a store that changes while
    somebody reads it stays for the reader what it was.

    Args:
        fresh: where files lie that the store is about to get.

    Raises:
        OSError: a file is missing.
        ValueError: a file is not sound or does not hold what it must.
    """

    def __init__(self, store: Path, manifest: Manifest, fresh: Path | None = None) -> None:
        self.manifest = manifest
        self._slots: dict[str, dict[str, str]] = {}
        held = {file: Checkpoint(_path_of(file, store, fresh), hold=True) for file in manifest.files}
        self.exact = {model: held[exact_name(model)] for model in manifest.models}
        kept = [
            TensorInfo(n, rule.dtype, rule.shape) for n, rule in manifest.rules.items() if rule.rule == EXACT
        ]
        for file in self.exact.values():
            _compare(file.path, file.tensors, kept)
        form, rules = manifest.form, manifest.rules
        residuals = manifest.models if manifest.residual else ()
        self.residual = {model: held[residual_name(model)] for model in residuals}
        for file in self.residual.values():
            _check_residual(file, rules, manifest.residual)
        self.sums: list[dict[str, Checkpoint]] = []
        self.totals: list[dict[str, Checkpoint]] = []
        for bucket in manifest.buckets:
            self.sums.append(_by_tensor([held[file] for file in bucket.files]))
            self.totals.append(_by_tensor([held[file] for file in bucket.open]) if form.bits else self.sums[-1])
            _compare(store, _infos(self.sums[-1]), form.tensors(rules))
            if bucket.open:
                _compare(store, _infos(self.totals[-1]), form.tensors(rules, total=True))

    def slots(self, model: str) -> dict[str, str]:
        """Superposed tensor of a model -> the tensor of the store that holds it."""
        if model not in self._slots:
            manifest = self.manifest
            seed = manifest.models[model].seed
            self._slots[model] = slots(manifest.rules, seed, model, manifest.shuffle_layers)
        return self._slots[model]


def _path_of(file: str, store: Path, fresh: Path | None) -> Path:
    return fresh / file if fresh is not None and (fresh / file).is_file() else store / file


def _check_residual(file: Checkpoint, rules: Mapping[str, Rule], fraction: float) -> None:
    """Every tensor of which something is kept has as many values as may be, and a code of their places."""
    wanted = []
    for name in {name.partition("/")[2] for name in file.names}:
        rule, values = rules.get(name), file.tensors.get(VALUES + name)
        code = file.tensors.get(PLACES + name)
        if rule and rule.rule == SUPERPOSED and values and code:
            room = math.floor(fraction * math.prod(rule.shape))
            count, size = math.prod(values.shape), math.prod(code.shape)
            wanted += [TensorInfo(VALUES + name, rule.dtype, (max(1, min(count, room)),))]
            wanted += [TensorInfo(PLACES + name, "U8", (max(2, size),))]
    _compare(file.path, file.tensors, wanted)


def _by_tensor(files: list[Checkpoint]) -> dict[str, Checkpoint]:
    """Stored tensor -> the file that holds it."""
    return {name: file for file in files for name in file.names}


def _infos(files: Mapping[str, Checkpoint]) -> dict[str, TensorInfo]:
    return {name: file.tensors[name] for name, file in files.items()}


def _compare(path: Path, present: Mapping[str, TensorInfo], wanted: Iterable[TensorInfo]) -> None:
    have = {name: (info.dtype, info.shape) for name, info in present.items()}
    must = {info.name: (info.dtype, info.shape) for info in wanted}
    differ = sorted(name for name in have.keys() | must.keys() if have.get(name) != must.get(name))
    if differ:
        raise ValueError(f"{path}: does not hold what store.json says: {', '.join(differ)}")
