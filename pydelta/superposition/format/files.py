"""The files of tensors of a store, held against its ``store.json``. No torch."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from pydelta.checkpoint import Checkpoint, TensorInfo
from pydelta.superposition.format.form import PLACES, VALUES
from pydelta.superposition.format.manifest import Manifest, exact_name, own_folder, residual_name
from pydelta.superposition.format.rules import SUPERPOSED, slots

HOLD = 64
"""Files that are held open at once; of a store with more, those of single models are opened when needed."""

Check = Callable[[str, Checkpoint], None]


class StoreFiles:
    """The files of tensors that a store's ``store.json`` names.

    They are held open: a store that changes while somebody reads it stays for the reader what it was. Those
    of a store of many files are opened when they are asked for, and refused if they are no longer what lay
    there.

    Args:
        fresh: where files lie that the store is about to get.

    Raises:
        OSError: a file is missing.
        ValueError: a file is not sound or does not hold what it must.
    """

    def __init__(self, store: Path, manifest: Manifest, fresh: Path | None = None) -> None:
        self.manifest = manifest
        self._store, self._fresh = store, fresh
        self._slots: dict[str, dict[str, str]] = {}
        paths = {file: _path_of(file, store, fresh) for file in manifest.files}
        hold = len(paths) <= HOLD
        form = manifest.form
        exact = {model: paths[exact_name(model)] for model in manifest.models}
        self.exact = ModelFiles(exact, self._check_exact, hold=hold)
        models = manifest.models if manifest.residual else ()
        residual = {model: paths[residual_name(model)] for model in models}
        self.residual = ModelFiles(residual, self._check_residual, hold=hold)
        closed = [[paths[file] for file in b.files] for b in manifest.buckets]
        self.sums = BucketFiles(closed, self._check_sums)
        self.totals = self.sums
        if form.bits:
            opened = [[paths[file] for file in b.open] for b in manifest.buckets]
            self.totals = BucketFiles(opened, self._check_totals)
        if hold:
            self.sums.hold()
            self.totals.hold()

    def check(self) -> None:
        """Opens every file once.

        Raises:
            OSError, ValueError: as the class.
        """
        for model in self.manifest.models:
            self.exact[model]
        for model in self.residual:
            self.residual[model]
        for number in range(len(self.manifest.buckets)):
            self.sums[number], self.totals[number]

    def slots(self, model: str) -> dict[str, str]:
        """Superposed tensor of a model -> the tensor of the store that holds it."""
        if model not in self._slots:
            manifest = self.manifest
            seed = manifest.models[model].seed
            self._slots[model] = slots(manifest.rules, seed, model, manifest.shuffle_layers)
        return self._slots[model]

    def own_files(self, model: str) -> dict[str, Path]:
        """The small files of a model's own: name below its folder -> where it lies."""
        names = {name: f"{own_folder(model)}/{name}" for name in self.manifest.models[model].departs.files}
        return {name: _path_of(file, self._store, self._fresh) for name, file in names.items()}

    def _check_sums(self, number: int, files: Mapping[str, Checkpoint]) -> None:
        _compare(self._store, _infos(files), self.manifest.form.tensors(self.manifest.rules))

    def _check_totals(self, number: int, files: Mapping[str, Checkpoint]) -> None:
        if self.manifest.buckets[number].open:
            _compare(self._store, _infos(files), self.manifest.form.tensors(self.manifest.rules, total=True))

    def _check_exact(self, model: str, file: Checkpoint) -> None:
        departs = self.manifest.models[model].departs
        _compare(file.path, file.tensors, departs.exact_file(self.manifest.rules))

    def _check_residual(self, model: str, file: Checkpoint) -> None:
        """A tensor of which something is kept has no more values than it may, and a code of their places."""
        wanted, rules = [], self.manifest.rules
        for name in {name.partition("/")[2] for name in file.names}:
            rule, values = rules.get(name), file.tensors.get(VALUES + name)
            code = file.tensors.get(PLACES + name)
            if rule and rule.rule == SUPERPOSED and values and code:
                room = math.floor(self.manifest.residual * math.prod(rule.shape))
                count, size = math.prod(values.shape), math.prod(code.shape)
                wanted += [TensorInfo(VALUES + name, rule.dtype, (max(1, min(count, room)),))]
                wanted += [TensorInfo(PLACES + name, "U8", (max(2, size),))]
        _compare(file.path, file.tensors, wanted)


class ModelFiles(Mapping[str, Checkpoint]):
    """Model -> its file, opened and checked at once, or when it is asked for.

    Args:
        paths: model -> where its file lies.
        check: of a file that was opened.
        hold: open all now and keep them open. Else only their identity is remembered.

    Raises:
        OSError, ValueError: as :class:`StoreFiles`; where files are not held, from the look-up.
    """

    def __init__(self, paths: Mapping[str, Path], check: Check, *, hold: bool) -> None:
        self._paths, self._check = paths, check
        self._open: dict[str, Checkpoint] = {}
        self._stamps = {model: _identity(path) for model, path in paths.items()}
        if hold:
            for model, path in paths.items():
                self._open[model] = Checkpoint(path, hold=True)
                check(model, self._open[model])

    def __getitem__(self, model: str) -> Checkpoint:
        if model not in self._open:
            file = Checkpoint(self._paths[model])
            if _identity(file.path) != self._stamps[model]:
                raise ValueError(f"{file.path}: the store has changed since it was opened: open it again")
            self._check(model, file)
            self._open[model] = file
        return self._open[model]

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


class BucketFiles(Sequence[Mapping[str, Checkpoint]]):
    """Bucket -> stored tensor -> the file that holds it, opened when it is asked for, or by :meth:`hold`.

    Buckets of the same content share a file. Files of sums are named by their content, so that what is opened
    late is what lay there early, or gone.

    Args:
        paths: the files of each bucket.
        check: of a bucket's files.
    """

    def __init__(
        self, paths: Sequence[Sequence[Path]], check: Callable[[int, Mapping[str, Checkpoint]], None]
    ) -> None:
        self._paths, self._check, self._hold = paths, check, False
        self._files: dict[Path, Checkpoint] = {}
        self._buckets: dict[int, Mapping[str, Checkpoint]] = {}

    def hold(self) -> None:
        """Opens all files and keeps them open.

        Raises:
            OSError, ValueError: as :class:`StoreFiles`.
        """
        self._hold = True
        for number in range(len(self)):
            self[number]

    @overload
    def __getitem__(self, number: int) -> Mapping[str, Checkpoint]: ...

    @overload
    def __getitem__(self, number: slice) -> Sequence[Mapping[str, Checkpoint]]: ...

    def __getitem__(self, number: int | slice) -> Any:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        if number not in self._buckets:
            for path in self._paths[number]:
                if path not in self._files:
                    self._files[path] = Checkpoint(path, hold=self._hold)
            files = [self._files[path] for path in self._paths[number]]
            by_tensor = {name: file for file in files for name in file.names}
            self._check(number, by_tensor)
            self._buckets[number] = by_tensor
        return self._buckets[number]

    def __len__(self) -> int:
        return len(self._paths)


def _identity(path: Path) -> tuple[int, ...]:
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _path_of(file: str, store: Path, fresh: Path | None) -> Path:
    return fresh / file if fresh is not None and (fresh / file).is_file() else store / file


def _infos(files: Mapping[str, Checkpoint]) -> dict[str, TensorInfo]:
    return {name: file.tensors[name] for name, file in files.items()}


def _compare(path: Path, present: Mapping[str, TensorInfo], wanted: Iterable[TensorInfo]) -> None:
    have = {name: (info.dtype, info.shape) for name, info in present.items()}
    must = {info.name: (info.dtype, info.shape) for info in wanted}
    differ = sorted(name for name in have.keys() | must.keys() if have.get(name) != must.get(name))
    if differ:
        raise ValueError(f"{path}: does not hold what store.json says: {', '.join(differ)}")
