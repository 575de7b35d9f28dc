"""Checkpoints on disk: a Hugging Face folder or one safetensors file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pydelta.checkpoint.header import Header, TensorInfo, parse_json, pickle_error, read_header

if TYPE_CHECKING:
    import torch

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


class Checkpoint:
    """The tensors of a checkpoint, one at a time, by memory map. Opening it reads headers alone.

    Args:
        path: a folder with ``model.safetensors``, or with ``model.safetensors.index.json`` and its shards, or
            one safetensors file.
        hold: keep the files open, so that they can be read when their names are gone.

    Attributes:
        path: as given.
        shards: the checked headers by file name, in the order of their names.
        tensors: name -> :class:`TensorInfo`, in the order of the files' bytes.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is not sound, or is a pickle; the message names it, and the tensor.
    """

    def __init__(self, path: str | os.PathLike[str], *, hold: bool = False) -> None:
        self.path = Path(path)
        self.shards = {name: read_header(file, hold=hold) for name, file in _files(self.path).items()}
        self._header_of: dict[str, Header] = {}
        self.tensors: dict[str, TensorInfo] = {}
        for header in self.shards.values():
            for info in header.tensors.values():
                if (other := self._header_of.get(info.name)) is not None:
                    raise ValueError(f"{header.path}: tensor {info.name!r} is also in {other.path.name}")
                self._header_of[info.name] = header
                self.tensors[info.name] = info
        if (self.path / INDEX).is_file() and SINGLE not in self.shards:
            _check_index(self.path / INDEX, self._header_of)

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

    def _info(self, name: str) -> TensorInfo:
        if name not in self.tensors:
            raise KeyError(f"{self.path}: no tensor {name!r}")
        return self.tensors[name]


def _files(path: Path) -> dict[str, Path]:
    """The safetensors files of a checkpoint by name."""
    if path.is_file():
        return {path.name: path}
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if (path / SINGLE).is_file():
        return {SINGLE: path / SINGLE}
    if (path / INDEX).is_file():
        names = sorted(set(_weight_map(path / INDEX).values()))
        absent = [name for name in names if not (path / name).is_file()]
        if absent:
            raise ValueError(f"{path}: shards that the index names are missing: {', '.join(absent)}")
        return {name: path / name for name in names}
    for pickle in ("pytorch_model.bin", "pytorch_model.bin.index.json"):
        if (path / pickle).is_file():
            raise pickle_error(path / pickle)
    raise ValueError(f"{path}: neither {SINGLE} nor {INDEX} is in this folder")


def _weight_map(index: Path) -> dict[str, str]:
    try:
        parsed = parse_json(index.read_bytes())
    except ValueError as error:
        raise ValueError(f"{index}: not sound JSON ({error})") from None
    mapped = parsed.get("weight_map") if isinstance(parsed, dict) else None
    if not isinstance(mapped, dict) or not mapped:
        raise ValueError(f"{index}: weight_map must be an object that maps tensors to files")
    for name, file in mapped.items():
        if not isinstance(file, str) or not file.endswith(".safetensors") or file != os.path.basename(file):
            raise ValueError(
                f"{index}: tensor {name!r} must be in a .safetensors file of this folder, got {file!r}"
            )
    return mapped


def _check_index(index: Path, holders: dict[str, Header]) -> None:
    mapped = _weight_map(index)
    problems = [f"{name!r} is not in {file}" for name, file in mapped.items() if name not in holders]
    problems += [
        f"{name!r} is in {holders[name].path.name}, not in {file}"
        for name, file in mapped.items()
        if name in holders and holders[name].path.name != file
    ]
    problems += [f"{name!r} is in {holders[name].path.name} alone" for name in holders if name not in mapped]
    if problems:
        raise ValueError(f"{index}: index and shards disagree: {'; '.join(problems)}")
