"""The statistics of a model's linear layers, and their file."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from typing import Any

import torch

from pydelta.checkpoint import Checkpoint, save_checkpoint

FORMAT, VERSION = "pydelta-calibration", "1"

_INF = math.inf
_FIELDS = {
    "column_norm": (torch.float32, 1, 0, _INF),
    "mean": (torch.float32, 1, -_INF, _INF),
    "rows": (torch.int64, 0, 1, _INF),
    "dim": (torch.int64, 0, 0, 1),
    "output_norm2": (torch.float64, 0, 0, _INF),
}
"""Part of a layer -> dtype, rank, smallest and largest value. The last part may be missing."""


@dataclasses.dataclass(frozen=True, eq=False)
class LayerStatistics:
    """One layer's inputs X, ``rows`` of them with n features each.

    Attributes:
        column_norm: (n,) fp32, ||X_j||_2 of every input feature over all rows.
        mean: (n,) fp32, the mean of every input feature.
        rows: how many inputs were seen.
        dim: the input axis of the weight: 1, or 0 where it is stored (in, out).
        output_norm2: ||delta X||_F^2, delta = weight - base; None if no base was given.
    """

    column_norm: torch.Tensor
    mean: torch.Tensor
    rows: int
    dim: int
    output_norm2: float | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """What a :class:`Calibrator` collected: statistics by the name of the layer's weight.

    The file is safetensors with the metadata ``{"format": "pydelta-calibration", "version": "1"}`` and, for a
    weight W, the tensors ``W:column_norm`` and ``W:mean`` (F32, n), ``W:rows`` and ``W:dim`` (I64, 0-D) and,
    where a base was given, ``W:output_norm2`` (F64, 0-D).
    """

    layers: Mapping[str, LayerStatistics]

    def layer(self, name: str) -> LayerStatistics:
        """One layer's statistics.

        Raises:
            ValueError: that layer was not calibrated.
        """
        if name not in self.layers:
            raise ValueError(f"[calibration] the layer must be one of {len(self.layers)} seen, got {name!r}")
        return self.layers[name]

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Writes one safetensors file, whole or not at all.

        Raises:
            ValueError: the name does not end in ``.safetensors``, or the file exists and ``force`` is false.
            OSError: the file cannot be written.
        """
        if not os.fspath(path).endswith(".safetensors"):
            raise ValueError(f"{path}: a calibration is one file, whose name must end in .safetensors")
        values = {
            f"{name}:{field}": torch.as_tensor(value, dtype=dtype)
            for name, layer in self.layers.items()
            for field, (dtype, *_) in _FIELDS.items()
            if (value := getattr(layer, field)) is not None
        }
        save_checkpoint(values, path, metadata={"format": FORMAT, "version": VERSION}, force=force)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Reads a file that :meth:`save` wrote.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is no calibration, or not a sound one; the message names file and tensor.
        """
        checkpoint = Checkpoint(path)
        metadata = {key: text for file in checkpoint.shards.values() for key, text in file.metadata.items()}
        if metadata.get("format") != FORMAT:
            raise ValueError(f"{path}: not a calibration: its metadata does not say {FORMAT}")
        if metadata.get("version") != VERSION:
            raise ValueError(f"{path}: version must be {VERSION}, got {metadata.get('version')!r}")
        layers: dict[str, dict[str, Any]] = {}
        for tensor in sorted(checkpoint.names):
            name, _, field = tensor.rpartition(":")
            layers.setdefault(name, {})[field] = _read(checkpoint, tensor, field)
        return cls({name: _layer(path, name, parts) for name, parts in layers.items()})


def _read(checkpoint: Checkpoint, name: str, field: str) -> torch.Tensor | float:
    where = f"{checkpoint.path}: tensor {name!r}"
    if field not in _FIELDS:
        raise ValueError(f"{where} is no part of a calibration")
    dtype, rank, low, high = _FIELDS[field]
    x = checkpoint.tensor(name).clone()
    if x.dtype != dtype or x.dim() != rank:
        raise ValueError(f"{where} must be {dtype} with {rank} dimensions, got {x.dtype} of {tuple(x.shape)}")
    if not (x.isfinite() & (x >= low) & (x <= high)).all():
        raise ValueError(f"{where} must be finite and lie in [{low}, {high}]")
    return x if rank else x.item()


def _layer(path: str | os.PathLike[str], name: str, parts: dict[str, Any]) -> LayerStatistics:
    if missing := sorted(_FIELDS.keys() - {"output_norm2"} - parts.keys()):
        raise ValueError(f"{path}: layer {name!r} lacks {', '.join(missing)}")
    if parts["mean"].shape != parts["column_norm"].shape:
        raise ValueError(f"{path}: mean and column_norm of layer {name!r} must have the same size")
    return LayerStatistics(**parts)
