"""From bytes of a file to a tensor and back."""

from __future__ import annotations

import contextlib
import mmap
import os

import torch

from pydelta.checkpoint.header import ITEMSIZE, Header, TensorInfo

TORCH = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
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
}
"""torch's dtypes by the format's names."""

NAMES = {dtype: name for name, dtype in TORCH.items()}

_MADV_POPULATE_READ = 22  # Linux 5.14 and later; the module mmap does not name it


def map_tensor(header: Header, info: TensorInfo) -> torch.Tensor:
    """One tensor of a file as a private memory map, copied on write.

    Raises:
        ValueError: the file has changed since its header was read.
    """
    if info.nbytes == 0:
        return torch.empty(info.shape, dtype=TORCH[info.dtype])
    lead = info.offset % mmap.ALLOCATIONGRANULARITY
    with header.opened() as file:
        pages = mmap.mmap(
            file,
            lead + info.nbytes,
            flags=mmap.MAP_PRIVATE,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
            offset=info.offset - lead,
        )
    with contextlib.suppress(OSError, AttributeError):
        pages.madvise(_MADV_POPULATE_READ)  # one call instead of a page fault every few pages
    flat = torch.frombuffer(pages, dtype=torch.uint8, offset=lead, count=info.nbytes)
    if info.offset % ITEMSIZE[info.dtype]:
        flat = flat.clone()  # the format lets a tensor begin anywhere
    return flat.view(TORCH[info.dtype]).view(info.shape)


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
