"""Checkpoints on disk: a Hugging Face folder or one safetensors file."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pydelta.checkpoint.folders.locate import resolve
from pydelta.checkpoint.folders.weight_files import INDEX, SINGLE, weight_files
from pydelta.checkpoint.header import Header, TensorInfo, read_header

if TYPE_CHECKING:
    import torch

__all__ = ["INDEX", "SINGLE", "Checkpoint"]

_SLICES = "DCP_SHARDING_INFO"


class Checkpoint:
    """The tensors of a checkpoint, one at a time, by memory map. Opening it reads headers alone.

    Args:
        path: a folder with ``model.safetensors``, or with ``model.safetensors.index.json`` and its shards, or
            one safetensors file; or the name of a model in the local cache of the Hugging Face hub. See
            :func:`pydelta.checkpoint.folders.weight_files` for other names of files.
        hold: keep the files open, so that they can be read when their names are gone.

    Attributes:
        path: where it lies; see :func:`pydelta.checkpoint.folders.locate.resolve`.
        shards: the checked headers by file name, in the order of their names.
        tensors: name -> :class:`TensorInfo`, in the order of the files' bytes.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is not sound, or is a pickle; the message names it, and the tensor.
    """

    def __init__(self, path: str | os.PathLike[str], *, hold: bool = False) -> None:
        self.path = resolve(path)
        files, mapped, index = weight_files(self.path)
        self.shards = {
            name: _kept(read_header(file, hold=hold), name, mapped) for name, file in files.items()
        }
        _check_slices(self.path, self.shards)
        self._header_of: dict[str, Header] = {}
        self.tensors: dict[str, TensorInfo] = {}
        for header in self.shards.values():
            for info in header.tensors.values():
                if (other := self._header_of.get(info.name)) is not None:
                    raise ValueError(f"{header.path}: tensor {info.name!r} is also in {other.path.name}")
                self._header_of[info.name] = header
                self.tensors[info.name] = info
        if index is not None and mapped is not None:
            _check_index(index, mapped, self._header_of)

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors' names, in the order of the files' bytes."""
        return tuple(self.tensors)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(info.nbytes for info in self.tensors.values())

    @property
    def folder(self) -> Path | None:
        """The folder, for a checkpoint that is one."""
        return None if self.path.is_file() else self.path

    def shape(self, name: str) -> tuple[int, ...]:
        return self._info(name).shape

    def dtype(self, name: str) -> str:
        """The dtype by its safetensors name, e.g. "BF16"."""
        return self._info(name).dtype

    def home(self, name: str) -> Header:
        """The header of the file that holds a tensor."""
        self._info(name)
        return self._header_of[name]

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor, on the CPU. Its pages are the file's, and go when it goes; writing to it copies them.

        A dtype that torch lacks is carried as bytes: (nbytes,) uint8.

        Raises:
            KeyError: there is no tensor of that name.
            ValueError: the file has changed since it was opened.
        """
        from pydelta.checkpoint.tensors import map_tensor

        return map_tensor(self.home(name), self._info(name))

    def read(self, name: str, out: torch.Tensor, start: int = 0) -> torch.Tensor:
        """Reads consecutive elements of one tensor into a contiguous CPU tensor of its dtype, and gives that.

        Args:
            start: the index of the first element.

        Raises:
            KeyError: there is no tensor of that name.
            ValueError: the file has changed since it was opened.
        """
        from pydelta.checkpoint.tensors import read_into

        return read_into(self.home(name), self._info(name), out, start)

    def read_bytes(self, name: str, out: memoryview, start: int = 0) -> None:
        """Fills ``out`` with the bytes of one tensor from byte ``start`` on; no torch.

        Raises:
            KeyError: there is no tensor of that name.
            ValueError: the file has changed since it was opened.
        """
        header, info = self.home(name), self._info(name)
        with header.opened() as file:
            header.read(file, out, info.offset + start)

    def small_file(self, path: Path) -> bytes:
        """What a file beside the weights holds.

        Raises:
            OSError: it cannot be read.
        """
        return path.read_bytes()

    def __fspath__(self) -> str:
        """A checkpoint goes wherever its path goes."""
        return os.fspath(self.path)

    def _info(self, name: str) -> TensorInfo:
        if name not in self.tensors:
            raise KeyError(f"{self.path}: no tensor {name!r}")
        return self.tensors[name]


def as_checkpoint(source: str | os.PathLike[str]) -> Checkpoint:
    """The checkpoint at a path; what is one, such as one that is read dequantised, stays it.

    Raises:
        OSError, ValueError: as :class:`Checkpoint`.
    """
    return source if isinstance(source, Checkpoint) else Checkpoint(source)


def _check_slices(path: Path, shards: dict[str, Header]) -> None:
    """The hub's writer of torch.distributed puts slices of tensors under their full names."""
    if len(shards) > 1 and any(_SLICES in header.metadata for header in shards.values()):
        raise ValueError(
            f"{path}: each file holds slices of tensors; make whole ones with "
            "torch.distributed.checkpoint._consolidate_hf_safetensors"
        )


def _kept(header: Header, file: str, mapped: dict[str, str] | None) -> Header:
    """A shard with the tensors that the index says it holds: the index decides."""
    if mapped is None:
        return header
    tensors = {name: info for name, info in header.tensors.items() if mapped.get(name) == file}
    return dataclasses.replace(header, tensors=tensors)


def _check_index(index: Path, mapped: dict[str, str], header_of: dict[str, Header]) -> None:
    absent = [f"{name!r} is not in {file}" for name, file in mapped.items() if name not in header_of]
    if absent:
        raise ValueError(f"{index}: index and shards disagree: {'; '.join(absent)}")
