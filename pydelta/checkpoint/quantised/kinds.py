"""Tensors that nobody may compute with: indices, counters, quantised weights and their scales. No torch."""

from __future__ import annotations

import fnmatch
import math
import re
import struct
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pydelta.checkpoint.header import ITEMSIZE, TensorInfo
from pydelta.checkpoint.tensor_names import FLOATS, config_of

if TYPE_CHECKING:
    from pydelta.checkpoint.reader import Checkpoint

_INDICES = (
    "*position_ids",
    "*token_type_ids",
    "*relative_position_index",
    "*num_batches_tracked",
    "*queue_ptr",
)
_SCALE = re.compile(r"scale|absmax|SCB|zero|quant|codebook|qmap|nested", re.IGNORECASE)
_INTEGERS = ("U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64")
_MOST_POSITIONS = 1 << 20
_CHUNK = 1 << 20
_FORMS = {"F16": "e", "F32": "f", "F64": "d", "I64": "q", "I32": "i", "I16": "h", "U8": "B"}


def is_index(name: str) -> bool:
    """Whether a tensor's name says that it counts or points: the base's is as good as any model's."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in _INDICES)


def quantised(tensors: Mapping[str, TensorInfo]) -> dict[str, list[str]]:
    """The quantised weights of a checkpoint: name -> the scales, zero points and tables beside it.

    A weight counts if its dtype is narrow (F8_*, F6_*, F4), or if it is of integers, has two axes or more,
    and something that is called a scale lies beside it: in its own module, or under its own name.
    """
    modules: dict[str, list[str]] = {}
    for name in tensors:
        modules.setdefault(name.rpartition(".")[0], []).append(name)
    weights: dict[str, list[str]] = {}
    for name, info in tensors.items():
        if is_index(name) or info.dtype == "BOOL" or info.dtype in FLOATS or info.nbytes == 0:
            continue
        integers = info.dtype in _INTEGERS
        if (
            (integers and len(info.shape) < 2)
            or info.dtype == "C64"
            or _SCALE.search(name.rpartition(".")[2])
        ):
            continue
        module = name.rpartition(".")[0]
        around = [*modules[module], *modules.get(name, ())]
        scales = [other for other in around if other != name and _is_scale(name, other, tensors[other])]
        if scales or not integers:
            weights[name] = scales
    return weights


def scales_of(tensors: Mapping[str, TensorInfo]) -> set[str]:
    """The names of all tensors that mean nothing without the quantised weight that they lie beside."""
    return {scale for scales in quantised(tensors).values() for scale in scales}


def quantised_tensors(tensors: Mapping[str, TensorInfo]) -> set[str]:
    """The names of all quantised weights, and of all tensors that mean nothing without them."""
    return quantised(tensors).keys() | scales_of(tensors)


def method_of(model: Checkpoint) -> str | None:
    """How a checkpoint is quantised, as its config says."""
    config = config_of(model)
    settings: Any = config.get("quantization_config") or config.get("compression_config")
    return str(settings.get("quant_method")) if isinstance(settings, dict) else None


def may_count(dtype: str) -> bool:
    """Whether a tensor of a dtype may hold positions."""
    return dtype in _FORMS or dtype == "BF16"


def counts_up(model: Checkpoint, name: str) -> bool:
    """Whether a tensor holds 0, 1, 2 and on, as numbers of its dtype: positions, whatever it is called.

    Raises:
        OSError, ValueError: the file cannot be read, or has changed.
    """
    info = model.tensors[name]
    count = math.prod(info.shape)
    if count < 3 or count != max(info.shape) or count > _MOST_POSITIONS or not may_count(info.dtype):
        return False
    # Three elements tell nearly all others apart.
    return all(_read(model, info, part) == _positions(info.dtype, part) for part in (3, count))


def same_bytes(one: Checkpoint, other: Checkpoint, name: str) -> bool:
    """Whether a tensor has the same dtype, shape and bytes in two checkpoints: read until they differ.

    Raises:
        OSError, ValueError: a file cannot be read, or has changed.
    """
    a, b = one.tensors[name], other.tensors[name]
    if (a.dtype, a.shape, a.nbytes) != (b.dtype, b.shape, b.nbytes):
        return False
    blocks = [memoryview(bytearray(min(_CHUNK, max(a.nbytes, 1)))) for _ in range(2)]
    for start in range(0, a.nbytes, _CHUNK):
        count = min(_CHUNK, a.nbytes - start)
        for model, block in zip((one, other), blocks, strict=True):
            model.read_bytes(name, block[:count], start)
        if blocks[0][:count] != blocks[1][:count]:
            return False
    return True


def _is_scale(weight: str, name: str, info: TensorInfo) -> bool:
    leaf = name.rpartition(".")[2]
    return leaf != "bias" and not leaf.endswith("_bias") and bool(_SCALE.search(leaf)) and _near(weight, name)


def _near(weight: str, name: str) -> bool:
    """X_blocks and X_scales belong together, Y_scales of the same module does not."""
    stem = weight.rpartition(".")[2].removesuffix("_blocks")
    return not weight.endswith("_blocks") or name.rpartition(".")[2].startswith(stem)


def _positions(dtype: str, count: int) -> bytes:
    """0, 1, 2 and on, rounded to a dtype; nothing where it does not reach so far."""
    try:
        if dtype != "BF16":
            return struct.pack(f"<{count}{_FORMS[dtype]}", *range(count))
        wide = struct.unpack(f"<{count}I", struct.pack(f"<{count}f", *range(count)))
        return struct.pack(f"<{count}H", *((word + 0x7FFF + (word >> 16 & 1)) >> 16 for word in wide))
    except (OverflowError, struct.error):
        return b""


def _read(model: Checkpoint, info: TensorInfo, count: int) -> bytes:
    data = bytearray(count * ITEMSIZE[info.dtype])
    model.read_bytes(info.name, memoryview(data))
    return bytes(data)


def listed(names: Iterable[str], most: int = 6) -> str:
    """Names in a sentence, the first few of many."""
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more
