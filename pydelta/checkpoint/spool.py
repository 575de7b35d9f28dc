"""Tensors for a file whose header cannot be written yet."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from types import TracebackType

import torch

from pydelta.checkpoint.header import ITEMSIZE, TensorInfo
from pydelta.checkpoint.tensors import NAMES, TORCH, buffer
from pydelta.checkpoint.writer import Writer

_CHUNK = 1 << 22
"""Elements that are copied at a time: it bounds the buffer."""


class Spool:
    """Keeps tensors whose number and sizes are known in the end alone, in a file without a name.

    A context manager: the file is gone when the block ends.

    Args:
        folder: on the disk where the file lies meanwhile.

    Attributes:
        tensors: what has been added, in its order.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.tensors: list[TensorInfo] = []
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115

    def add(self, name: str, x: torch.Tensor, like: TensorInfo | None = None) -> None:
        """Puts a contiguous CPU tensor aside.

        Args:
            like: has the dtype and shape that the file is to say, where they are not those of ``x``: a tensor
                that is carried as bytes.
        """
        info = TensorInfo("", NAMES[x.dtype], tuple(x.shape)) if like is None else like
        self.tensors.append(dataclasses.replace(info, name=name))
        self._file.write(buffer(x))

    def release(self, writer: Writer) -> None:
        """Writes all tensors, whose header has been written."""
        self._file.seek(0)
        for info in self.tensors:
            count = info.nbytes // ITEMSIZE[info.dtype]
            for start in range(0, max(count, 1), _CHUNK):
                part = torch.empty(min(_CHUNK, count - start), dtype=TORCH[info.dtype])
                self._file.readinto(buffer(part))
                writer.write(info.name, part, start)

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
