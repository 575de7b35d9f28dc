"""What names, shapes and the config say about tensors: layer numbers and input axes. No torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydelta.checkpoint.reader import Checkpoint

FLOATS = ("F16", "BF16", "F32", "F64")
"""What is computed with; other floating dtypes are too narrow to hold a sum."""

NARROW = ("F8_E4M3", "F8_E5M2")
"""Floating dtypes that are looked through for NaN and Inf, but not computed with."""

_CONV1D_MODELS = ("decision_transformer", "gpt2", "imagegpt", "openai-gpt")
_CONV1D_TENSORS = ("*c_attn.weight", "*c_fc.weight", "*c_proj.weight", "*q_attn.weight")
_FUSED_MODELS = ("gpt_oss", "llama4", "llama4_text")
_FUSED_TENSORS = ("*experts.gate_up_proj", "*experts.down_proj")
_KERNEL = 64
"""Last axes below this are taken for a kernel's width, not for inputs."""
_PARTS = 3  # configs are nested so deep at most
_LAYER = re.compile(r"(?<![^.])\d+(?![^.])")


def group_of(name: str) -> str:
    """A tensor's name with the layer number, the first part that is a number, replaced by ``*``."""
    return _LAYER.sub("*", name, count=1)


def layer_of(name: str) -> int | None:
    """The layer number in a tensor's name."""
    number = _LAYER.search(name)
    return int(number.group()) if number else None


def input_axis(shape: tuple[int, ...]) -> int:
    """The last axis, unless a convolution's kernel lies there: then the longest after the first."""
    if len(shape) <= 2 or shape[-1] >= _KERNEL:
        return -1
    return max(range(1, len(shape)), key=lambda axis: (shape[axis], axis))


def crosses_rows(shape: tuple[int, ...], axis: int) -> bool:
    """Whether the inputs of one output lie across a tensor: in a matrix (in, out), or a stack of such.

    Those of a convolution's kernels lie together, whichever axis is called its input.
    """
    inner = len(shape) > 1 and axis != len(shape) - 1
    return inner and (axis == 0 or shape[-1] >= _KERNEL)


def known_axes(model: Checkpoint) -> dict[str, int]:
    """Shell patterns of tensor names -> input axis, for models whose linear weights are (in, out).

    The types of a config's parts (``text_config``, ``decoder``) count as well.
    """
    types = set(_types(config_of(model)))
    conv1d = dict.fromkeys(_CONV1D_TENSORS, 0) if types & set(_CONV1D_MODELS) else {}
    fused = dict.fromkeys(_FUSED_TENSORS, 1) if types & set(_FUSED_MODELS) else {}
    return conv1d | fused


def _types(config: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    if isinstance(kind := config.get("model_type"), str):
        yield kind
    for part in config.values() if depth < _PARTS else ():
        if isinstance(part, dict):
            yield from _types(part, depth + 1)


def config_of(model: Checkpoint) -> dict[str, Any]:
    """``config.json`` of a checkpoint's folder; empty if there is none.

    Raises:
        ValueError: it is not sound JSON.
    """
    config = model.folder / "config.json" if model.folder else None
    if config is None or not config.is_file():
        return {}
    try:
        parsed = json.loads(config.read_bytes())
    except (ValueError, RecursionError):
        raise ValueError(f"{config}: not sound JSON") from None
    return parsed if isinstance(parsed, dict) else {}
