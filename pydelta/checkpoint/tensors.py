"""From bytes of a file to a tensor and back."""

from __future__ import annotations

import os

import torch

from pydelta.checkpoint.header import ITEMSIZE, Header, TensorInfo
from pydelta.checkpoint.pages import map_bytes


class Dtypes(dict[str, torch.dtype]):
    """The format's dtypes -> torch's; uint8 for those that are carried as bytes."""

    def __missing__(self, dtype: str) -> torch.dtype:
        return torch.uint8


TORCH = Dtypes(
    {
        "BOOL": torch.bool,
        "U8": torch.uint8,
        "I8": torch.int8,
        "F8_E4M3": torch.float8_e4m3fn,
        "F8_E5M2": torch.float8_e5m2,
        "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
        "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
        "U16": torch.uint16,
        "I16": torch.int16,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "U32": torch.uint32,
        "I32": torch.int32,
        "F32": torch.float32,
        "U64": torch.uint64,
        "I64": torch.int64,
        "F64": torch.float64,
        "C64": torch.complex64,
    }
)
"""torch's dtypes by the format's names."""

if hasattr(torch, "float8_e8m0fnu"):  # torch 2.7 and later
    TORCH["F8_E8M0"] = torch.float8_e8m0fnu

NAMES = {dtype: name for name, dtype in TORCH.items()}

_SMALL = 1 << 14  # reading so many bytes is as fast as mapping them


def map_tensor(header: Header, info: TensorInfo) -> torch.Tensor:
    """One tensor of a file as a private memory map, copied on write; a small one is read.

    No descriptor stays open with it, and where the system has no room for one more map it is read as well, so
    a process may hold any number of tensors.

    Raises:
        ValueError: the file has changed since its header was read.
    """
    if info.nbytes == 0:
        return torch.empty(info.as_read, dtype=TORCH[info.dtype])
    with header.opened() as file:
        flat = None if info.nbytes <= _SMALL else map_bytes(file, info.offset, info.nbytes)
        if flat is None or info.offset % ITEMSIZE[info.dtype]:  # the format lets a tensor begin anywhere
            flat = torch.empty(info.nbytes, dtype=torch.uint8)
            header.read(file, flat.numpy().data, info.offset)
    return flat.view(TORCH[info.dtype]).view(info.as_read)


def read_into(header: Header, info: TensorInfo, out: torch.Tensor, start: int) -> torch.Tensor:
    """Elements ``start`` and on of one tensor of a file.

    Raises:
        ValueError: the file has changed since its header was read, or ``out`` does not fit the tensor.
    """
    data = buffer(out)
    first = start * out.element_size()
    if out.dtype != TORCH[info.dtype] or first + len(data) > info.nbytes:
        raise ValueError(f"{header.path}: tensor {info.name!r} is {info.dtype} of shape {info.shape}")
    with header.opened() as file:
        header.read(file, data, info.offset + first)
    return out


def buffer(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, shared with it."""
    return tensor.detach().reshape(-1).view(torch.uint8).numpy().data


def write_at(file: int, data: memoryview, offset: int) -> None:
    """Writes all of ``data``: one system call may write less than it was asked."""
    while data:
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written
