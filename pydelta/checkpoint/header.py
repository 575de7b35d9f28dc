"""The header of a safetensors file, read and written without torch; what a file says is never trusted.

A file is an unsigned 64-bit length, little-endian, that many bytes of JSON, and the tensors' bytes:
``{"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {"key": "text"}}``.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

MAX_HEADER = 100_000_000
"""The format's own limit, in bytes."""


class Itemsizes(dict[str, int]):
    """Dtype -> bytes of an element; one byte for the dtypes that are carried as bytes."""

    def __missing__(self, dtype: str) -> int:
        return 1


ITEMSIZE = Itemsizes(
    {
        "BOOL": 1,
        "U8": 1,
        "I8": 1,
        "F8_E4M3": 1,
        "F8_E5M2": 1,
        "F8_E8M0": 1,
        "F8_E4M3FNUZ": 1,
        "F8_E5M2FNUZ": 1,
        "U16": 2,
        "I16": 2,
        "F16": 2,
        "BF16": 2,
        "U32": 4,
        "I32": 4,
        "F32": 4,
        "U64": 8,
        "I64": 8,
        "F64": 8,
        "C64": 8,
    }
)
"""The dtypes whose elements pydelta reads, by the format's names; any other is carried as bytes."""

_BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
"""Dtypes whose elements share bytes."""

_DTYPE = re.compile(r"[A-Z][A-Z0-9_]{0,31}", re.ASCII)

_FIELDS = {"dtype", "shape", "data_offsets"}
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


@dataclasses.dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a file.

    Attributes:
        name, dtype, shape: as the header has them; F4, say, has a last axis of elements, two to a byte.
        offset: where its bytes begin, counted from the beginning of the file.
        size: its bytes, where the header alone says how many they are: the dtype is one that nobody knew yet.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int = 0
    size: int = 0

    @property
    def nbytes(self) -> int:
        if self.dtype in ITEMSIZE:
            return math.prod(self.shape) * ITEMSIZE[self.dtype]
        return math.prod(self.shape) * _BITS[self.dtype] // 8 if self.dtype in _BITS else self.size

    @property
    def unknown(self) -> bool:
        """Whether nobody knows the dtype: the header's offsets alone say how many bytes it takes."""
        return self.dtype not in ITEMSIZE and self.dtype not in _BITS

    @property
    def as_read(self) -> tuple[int, ...]:
        """The shape in memory: that of the header, or (nbytes,) where the dtype is carried as bytes."""
        return self.shape if self.dtype in ITEMSIZE else (self.nbytes,)


class Held:
    """An open file, closed when nobody needs it any more.

    Raises:
        OSError: the process may open no more files.
    """

    def __init__(self, file: int) -> None:
        self.file = -1  # what __del__ meets when dup fails
        self.file = os.dup(file)

    def __del__(self) -> None:
        if self.file >= 0:
            os.close(self.file)


@dataclasses.dataclass(frozen=True)
class Header:
    """What a file holds. ``stamp`` changes when somebody writes to the file.

    A file that is ``held`` stays open: it can be read when its name is gone.
    """

    path: Path
    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    stamp: tuple[int, ...]
    held: Held | None = None

    @contextmanager
    def opened(self) -> Iterator[int]:
        """A descriptor of the file, which has not changed since its header was read.

        Raises:
            OSError: the file cannot be opened.
            ValueError: it has changed since its header was read.
        """
        if self.held is not None:
            # The change time is also that of unlinking, which does a file no harm that is held.
            self._check(self.held.file, -1)
            yield self.held.file
        else:
            with open(self.path, "rb", buffering=0) as file:
                self._check(file.fileno(), len(self.stamp))
                yield file.fileno()

    def read(self, file: int, out: memoryview, offset: int) -> None:
        """Fills ``out`` from byte ``offset`` of the file on.

        Raises:
            ValueError: the file is shorter than it was.
        """
        while out:
            count = os.preadv(file, [out], offset)
            if not count:
                raise ValueError(f"{self.path}: the file was changed while it was being read")
            out, offset = out[count:], offset + count

    def _check(self, file: int, count: int) -> None:
        if stamp(file)[:count] != self.stamp[:count]:
            raise ValueError(f"{self.path}: the file was changed while it was being read")


def stamp(file: int) -> tuple[int, ...]:
    """Identity, size and times of an open file."""
    status = os.fstat(file)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def read_header(path: Path, *, hold: bool = False) -> Header:
    """Reads and checks the header of one safetensors file.

    Args:
        hold: keep the file open for as long as the header lives.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no sound safetensors file; the message names it, and the tensor.
    """
    with open(path, "rb") as file:
        seen = stamp(file.fileno())
        text = _json_bytes(path, file, size := seen[2])
        held = Held(file.fileno()) if hold else None
    with _no_collection():
        return Header(path, *_parse(path, text, size), seen, held)


@contextmanager
def _no_collection() -> Iterator[None]:
    """A header makes up to 100,000 small objects, none of them garbage: looking for some doubles the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _parse(path: Path, text: bytes, size: int) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Tensors, in the order of their bytes, and metadata of a file of ``size`` bytes."""
    try:
        parsed = parse_json(text)
    except ValueError as error:
        raise ValueError(f"{path}: the header is not sound JSON ({error})") from None
    if not isinstance(parsed, dict):
        raise ValueError(f"{path}: the header must be a JSON object, got {type(parsed).__name__}")
    metadata = parsed.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError(f"{path}: __metadata__ must map text to text")
    tensors = [_tensor(path, name, entry, 8 + len(text)) for name, entry in parsed.items()]
    _check_contiguous(path, tensors, 8 + len(text), size)
    return {info.name: info for info in tensors}, metadata


def write_header(tensors: Iterable[TensorInfo], metadata: dict[str, str]) -> tuple[bytes, list[TensorInfo]]:
    """The bytes before the data, and the tensors with their offsets.

    Wider dtypes come first, otherwise in the order given, so that every tensor is aligned.
    """
    ordered = sorted(tensors, key=lambda info: -ITEMSIZE[info.dtype])
    entries: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for info in ordered:
        start, end = end, end + info.nbytes
        entries[info.name] = {"dtype": info.dtype, "shape": list(info.shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise ValueError(
            f"the header of a safetensors file must be at most {MAX_HEADER} bytes, got {len(text)}"
        )
    begin = 8 + len(text)
    placed = [
        dataclasses.replace(info, offset=begin + entries[info.name]["data_offsets"][0]) for info in ordered
    ]
    return len(text).to_bytes(8, "little") + text, placed


def parse_json(text: bytes) -> Any:
    """JSON in which no object names a key twice.

    Raises:
        ValueError: the text is not that.
    """
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} stands there twice")
    return entries


def _json_bytes(path: Path, file: BinaryIO, size: int) -> bytes:
    start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    if size == 0:
        raise ValueError(f"{path}: the file is empty")
    # A pickle begins with b"\x80", which is also a header length's first byte now and then: look for the "{".
    if start[8:] != b"{" or length > MAX_HEADER:
        if start[:4] == b"PK\3\4" or start[:1] == b"\x80" or path.suffix in _PICKLES:
            raise pickle_error(path)
        if start[8:] == b"{":
            raise ValueError(f"{path}: the header must be at most {MAX_HEADER} bytes, got {length}")
        raise ValueError(f"{path}: not a safetensors file")
    if 8 + length > size:
        raise ValueError(f"{path}: truncated: the header takes {8 + length} bytes, the file has {size}")
    return b"{" + file.read(length - 1)


def pickle_error(path: Path) -> ValueError:
    return ValueError(
        f"{path}: a pickle, which can run any code when it is read; convert it where you trust it: "
        "safetensors.torch.save_file(torch.load(path, weights_only=True), 'model.safetensors')"
    )


def _tensor(path: Path, name: str, entry: Any, begin: int) -> TensorInfo:
    """One entry of the header."""
    if not isinstance(entry, dict) or entry.keys() != _FIELDS:
        raise ValueError(f"{path}: tensor {name!r} must have dtype, shape and data_offsets alone")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or not (dtype in ITEMSIZE or _DTYPE.fullmatch(dtype)):
        raise ValueError(f"{path}: tensor {name!r} has dtype {dtype!r}, which is no name of a dtype")
    if not _naturals(shape):
        raise ValueError(f"{path}: tensor {name!r} has shape {shape!r}, which is not a list of sizes")
    if not _naturals(offsets) or len(offsets) != 2:
        raise ValueError(f"{path}: tensor {name!r} has data_offsets {offsets!r}, which are not two positions")
    start, end = offsets
    info = TensorInfo(name, dtype, tuple(shape), begin + start, end - start)
    size = info.nbytes
    if end < start or end - start != size or math.prod(shape) * _BITS.get(dtype, 8) % 8:
        raise ValueError(
            f"{path}: tensor {name!r} takes {size} bytes by shape and dtype, got data_offsets {offsets}"
        )
    return info


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _check_contiguous(path: Path, tensors: list[TensorInfo], begin: int, size: int) -> None:
    end = begin
    tensors.sort(key=lambda info: (info.offset, info.nbytes))
    for info in tensors:
        if info.offset != end:
            raise ValueError(f"{path}: tensor {info.name!r} must begin at byte {end}, got {info.offset}")
        end += info.nbytes
    if end > size:
        cut = next(info.name for info in tensors if info.offset + info.nbytes > size)
        raise ValueError(f"{path}: truncated: the tensors end at byte {end}, the file at {size}, in {cut!r}")
    if end < size:
        raise ValueError(
            f"{path}: longer than its header says: the tensors end at byte {end}, the file at {size}"
        )
