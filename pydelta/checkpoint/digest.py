"""Fingerprints of checkpoints: SHA-256 over names, dtypes, shapes and bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping

from pydelta.checkpoint.reader import Checkpoint

_CHUNK = 1 << 20
"""Bytes that are hashed at a time: it bounds the buffer."""
_SAMPLES, _SAMPLE = 16, 4096
"""A sampled digest reads so many places of so many bytes each."""


def tensor_digest(checkpoint: Checkpoint, name: str, *, sampled: bool = False) -> str:
    """SHA-256 of a tensor's bytes, in hex.

    Args:
        sampled: of 16 pages of 4 KiB spread evenly instead, where the tensor has more bytes than that.

    Raises:
        ValueError: the file has changed since it was opened.
    """
    info = checkpoint.tensors[name]
    digest = hashlib.sha256()
    block = memoryview(bytearray(min(_CHUNK, max(info.nbytes, 1))))
    for start, count in _spans(info.nbytes, sampled):
        checkpoint.read_bytes(name, block[:count], start)
        digest.update(block[:count])
    return digest.hexdigest()


def fingerprint(checkpoint: Checkpoint, digests: Mapping[str, str]) -> str:
    """One digest of a whole checkpoint.

    It is the SHA-256 over one line of JSON, ``[name, dtype, shape, digest]``, per tensor in the names' order.
    """
    total = hashlib.sha256()
    for name in sorted(checkpoint.tensors):
        info = checkpoint.tensors[name]
        total.update(json.dumps([name, info.dtype, list(info.shape), digests[name]]).encode() + b"\n")
    return total.hexdigest()


def _spans(nbytes: int, sampled: bool) -> Iterator[tuple[int, int]]:
    """(start, length) of the pieces that are hashed."""
    if sampled and nbytes > _SAMPLES * _SAMPLE:
        for i in range(_SAMPLES):
            yield i * (nbytes - _SAMPLE) // (_SAMPLES - 1), _SAMPLE
    else:
        for start in range(0, nbytes, _CHUNK):
            yield start, min(_CHUNK, nbytes - start)
