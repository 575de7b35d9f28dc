"""Safetensors files, written part by part."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydelta.checkpoint.header import TensorInfo, write_header

if TYPE_CHECKING:
    import torch

SYNC_BYTES = 128 << 20
"""Bounds what is written and not yet on disk, and so the wait when a file is closed."""

Shards = dict[str, list[TensorInfo]]
"""File name -> its tensors."""


class TensorFile:
    """A safetensors file whose header is known first and whose tensors then come in any order.

    The file takes its full size at once, so a full disk is met before anything is computed.

    Args:
        path: a new file.
        tensors: names, dtypes and shapes.
        metadata: text to text.

    Raises:
        OSError: the disk is full, or the file cannot be written.
        ValueError: the header would be larger than the format allows.
    """

    def __init__(self, path: Path, tensors: Iterable[TensorInfo], metadata: dict[str, str]) -> None:
        head, placed = write_header(tensors, metadata)
        self.path = path
        self._tensors = {info.name: info for info in placed}
        self._left = {info.name: info.nbytes for info in placed}
        self._lock = threading.Lock()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            _allocate(self._file, len(head) + sum(self._left.values()))
            os.pwrite(self._file, head, 0)
        except BaseException:
            os.close(self._file)
            path.unlink()  # so that a second try meets the same error
            raise

    def write(self, name: str, part: torch.Tensor, start: int = 0) -> int:
        """Writes consecutive elements of one tensor; threads may write parts at the same time.

        Args:
            part: a contiguous CPU tensor of the header's dtype; uint8 where that is carried as bytes.
            start: the index of its first element in the whole.

        Returns:
            The number of bytes written.

        Raises:
            KeyError: the header has no such tensor, or all of it was written before.
            ValueError: dtype or number of elements does not fit the header.
            OSError: the disk is full.
        """
        from pydelta.checkpoint.tensors import TORCH, buffer, write_at

        info, data = self._tensors[name], buffer(part)
        first = start * part.element_size()
        if part.dtype != TORCH[info.dtype] or len(data) > min(info.nbytes - first, self._left[name]):
            raise ValueError(f"{self.path}: tensor {name!r} must be {info.dtype} of shape {info.shape}")
        write_at(self._file, data, info.offset + first)
        with self._lock:
            self._left[name] -= len(data)
            if not self._left[name]:
                del self._left[name]
        return len(data)

    @property
    def done(self) -> bool:
        return not self._left

    def sync(self) -> None:
        os.fsync(self._file)

    def close(self) -> None:
        """Syncs and closes.

        Raises:
            ValueError: tensors of the header were not written.
            OSError: the disk did not take them.
        """
        try:
            if self._left:
                raise ValueError(f"{self.path}: tensors were not written: {', '.join(self._left)}")
            self.sync()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Closes the file as it is."""
        os.close(self._file)


class Writer:
    """Tensors into the files of a layout; see :func:`writing`.

    A file is open from its first tensor to its last. What has been written is synced in the background, so
    that little is left to wait for in the end.
    """

    def __init__(self, folder: Path, shards: Shards, metadata: Mapping[str, dict[str, str]]) -> None:
        self._folder, self._metadata = folder, metadata
        self._file_of = {info.name: file for file, tensors in shards.items() for info in tensors}
        self._unopened = dict(shards)
        self._open: dict[str, TensorFile] = {}
        self._unsynced = 0
        self._syncs: list[Future[None]] = []
        self._background = ThreadPoolExecutor(1, "pydelta-sync")
        self._lock = threading.Lock()

    def write(self, name: str, part: torch.Tensor, start: int = 0) -> int:
        """As :meth:`TensorFile.write`."""
        file_name = self._file_of[name]
        with self._lock:
            if file_name in self._unopened:
                self._start(file_name)
            file = self._open[file_name]
        written = file.write(name, part, start)
        with self._lock:
            self._unsynced += written
            if file.done and file_name in self._open:
                self._syncs.append(self._background.submit(self._open.pop(file_name).close))
            elif self._unsynced >= SYNC_BYTES:
                self._syncs.append(self._background.submit(file.sync))
                self._unsynced = 0
        return written

    def close(self) -> None:
        """Syncs and closes every file, also those that hold no tensor.

        Raises:
            ValueError: tensors were not written.
            OSError: the disk did not take them.
        """
        for file in list(self._unopened):
            self._start(file)
        while self._open:
            self._open.popitem()[1].close()
        for sync in self._syncs:
            sync.result()

    def abandon(self) -> None:
        """Closes what is open, finished or not."""
        self._background.shutdown()
        while self._open:
            self._open.popitem()[1].abandon()

    def _start(self, file: str) -> None:
        self._open[file] = TensorFile(self._folder / file, self._unopened[file], self._metadata.get(file, {}))
        del self._unopened[file]


@contextmanager
def writing(
    folder: Path, shards: Shards, metadata: Mapping[str, dict[str, str]] | None = None
) -> Iterator[Writer]:
    """Files of tensors, complete and synced when the block ends; closed as they are when it fails.

    No thread may still write when the block ends.

    Args:
        folder: where the files go.
        shards: their tensors.
        metadata: file name -> text to text.

    Raises:
        ValueError: tensors were not written.
        OSError: the disk did not take them.
    """
    writer = Writer(folder, shards, metadata or {})
    try:
        yield writer
        writer.close()
    finally:
        writer.abandon()


def _allocate(file: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        os.ftruncate(file, size)
