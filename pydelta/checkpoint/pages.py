"""Memory maps that keep no descriptor: Python's own keep one each, and a process may open 1024 files."""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Any

import numpy as np
import torch

_MADV_POPULATE_READ = 22  # Linux 5.14 and later; the module mmap does not name it
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int64,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Pages:
    """Bytes of a file in memory, copied where somebody writes to them, and unmapped with the object.

    Raises:
        OSError: the system gives no map.
    """

    def __init__(self, file: int, offset: int, length: int) -> None:
        self._address = None
        address = _libc.mmap(None, length, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE, file, offset)
        if address == _FAILED:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        self._address, self._length = address, length
        _libc.madvise(address, length, _MADV_POPULATE_READ)  # one call instead of many page faults

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """What numpy asks for: its array keeps this object alive."""
        return {"version": 3, "typestr": "|u1", "shape": (self._length,), "data": (self._address, False)}

    def __del__(self) -> None:
        if self._address is not None:
            _libc.munmap(self._address, self._length)


def map_bytes(file: int, offset: int, count: int) -> torch.Tensor | None:
    """(count,) uint8: bytes of an open file as a private map, or None where the system has no room for it."""
    lead = offset % mmap.ALLOCATIONGRANULARITY
    try:
        pages = Pages(file, offset - lead, lead + count)
    except OSError:
        return None
    return torch.from_numpy(np.asarray(pages))[lead:]
