"""VeRA adapters in PEFT's folders: adapter_config.json, and a safetensors file with the projections in it.

PEFT's matrices are as large as the largest layer that it adapts and come from torch's generator on the CPU.
Ours go into such a pair exactly: A's bound depends on a layer's width, so d takes up the difference. Before
it trains, PEFT rounds its draw to the dtypes of the base's layers and widens it again: whoever draws anew
must round alike.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pydelta.checkpoint import Checkpoint, TensorInfo
from pydelta.checkpoint.header import pickle_error
from pydelta.checkpoint.staging import check_output, staged
from pydelta.checkpoint.tensors import NAMES, TORCH
from pydelta.checkpoint.writer import writing
from pydelta.ops.vera_matrix import vera_matrix
from pydelta.products import vera
from pydelta.vera.adapters import Adapters
from pydelta.vera.file import Stored, attach_stored, check_finite, flat
from pydelta.vera.layer import is_conv1d
from pydelta.vera.projections import Given, Seeded
from pydelta.vera.targets import parts_of

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PICKLE = "adapter_model.bin"
_PREFIX = "base_model.model."
_BASE = ".base_layer.weight"
_D, _B = ".vera_lambda_d", ".vera_lambda_b"
_DTYPE = "pydelta.projection_dtype"  # of the metadata: what the matrices were rounded to
_PROJECTIONS = ("base_model.vera_A", "base_model.vera_B")


@dataclasses.dataclass(frozen=True)
class Fit:
    """What a layer of the base is to PEFT: its inputs, and its weight's dtype."""

    inputs: int
    dtype: torch.dtype


def load_peft(
    path: str | os.PathLike[str],
    module: nn.Module,
    name: str = "default",
    *,
    projection_dtype: torch.dtype | None = None,
) -> Adapters:
    """Attaches an adapter that PEFT has saved, with or without its projections, and uses it.

    Without them the matrices are drawn as PEFT draws them, from torch's generator on the CPU, and rounded to
    the dtypes of the module's layers: they are right where this version of torch draws as the one that
    trained, on a base of the dtype that was trained on. What PEFT kept of ``modules_to_save`` comes along.

    Args:
        path: a folder with adapter_config.json and adapter_model.safetensors.
        module: the base model, as PEFT was given it.
        name: the adapter's.
        projection_dtype: the base's when the adapter was trained, where the module has another now.

    Raises:
        OSError: a file cannot be read.
        ValueError: another method's folder, tensors of other shapes, or a module of another architecture.
    """
    stored, dropout = read_peft(Path(path), fits_of(module), projection_dtype)
    return attach_stored(stored, module, name, dropout)


def fits_of(module: nn.Module) -> dict[str, Fit]:
    """Every layer of a module that has a matrix."""
    fits = {}
    for path, part in parts_of(module).items():
        weight = getattr(part, "weight", None)
        if isinstance(weight, torch.Tensor) and weight.dim() == 2:
            fits[path] = Fit(weight.shape[0] if is_conv1d(part) else weight.shape[1], weight.dtype)
    return fits


def read_peft(
    folder: Path, fits: Mapping[str, Fit], projection_dtype: torch.dtype | None = None
) -> tuple[Stored, float]:
    """An adapter of PEFT and its dropout; ``fits``: the base's layers."""
    config = _config(folder)
    if not (folder / _WEIGHTS).is_file() and (folder / _PICKLE).is_file():
        raise pickle_error(folder / _PICKLE)
    checkpoint = Checkpoint(folder / _WEIGHTS)
    vectors: dict[str, dict[str, torch.Tensor]] = {}
    bases, others = {}, []
    for key in checkpoint.names:
        for end in (_D, _B):
            if key.startswith(_PREFIX) and key.endswith(end):
                layer = key.removeprefix(_PREFIX).removesuffix(end)
                vectors.setdefault(layer, {})[end] = checkpoint.tensor(key).float()
                break
        else:
            others += [key] if key not in _PROJECTIONS else []
    file, rank = checkpoint.path, config["r"]
    for layer in vectors:
        if (key := f"{_PREFIX}{layer}{_BASE}") in others:
            others.remove(key)
            bases[layer] = checkpoint.tensor(key)
    trained, others = _trained(checkpoint, config, others)
    if others:
        raise ValueError(f"{file}: tensors that are not VeRA's: {', '.join(others)}")
    if halves := [layer for layer, pair in vectors.items() if len(pair) != 2]:
        raise ValueError(f"{file}: vera_lambda_d or vera_lambda_b is missing of: {', '.join(halves)}")
    pairs = {layer: (vectors[layer][_D], vectors[layer][_B]) for layer in sorted(vectors)}
    for layer, (d, b) in pairs.items():
        if d.shape != (rank,) or b.dim() != 1:
            raise ValueError(
                f"{file}: tensor {_PREFIX}{layer}{_D} must have shape {(rank,)} and {_B[1:]} one dimension, "
                f"got {tuple(d.shape)} and {tuple(b.shape)}"
            )
    if absent := [layer for layer in pairs if layer not in fits]:
        raise ValueError(f"{file}: does not fit this module: {', '.join(absent[:3])} are not there")
    dtypes = [fits[layer].dtype for layer in pairs] if projection_dtype is None else [projection_dtype]
    widest = max((fits[layer].inputs for layer in pairs), default=0)
    matrices = _projections(checkpoint, config, pairs, widest, dtypes)
    stored = Stored(folder, matrices, rank, {}, pairs, trained, bases)
    return stored, float(config.get("vera_dropout") or 0.0)


def _trained(
    checkpoint: Checkpoint, config: dict[str, Any], keys: list[str]
) -> tuple[dict[str, dict[str, torch.Tensor]], list[str]]:
    """What PEFT trained in full: part -> its tensors, and the keys that are none. PEFT takes every part whose
    path ends in a name of ``modules_to_save``."""
    ends = tuple(config.get("modules_to_save") or ())
    trained: dict[str, dict[str, torch.Tensor]] = {}
    others = []
    for key in keys:
        steps = key.removeprefix(_PREFIX).split(".")
        paths = [".".join(steps[:i]) for i in range(1, len(steps))] if key.startswith(_PREFIX) else []
        part = next((path for path in paths if path.endswith(ends)), None) if ends else None
        if part is None:
            others.append(key)
        else:
            own = trained.setdefault(part, {})
            own[key.removeprefix(f"{_PREFIX}{part}.")] = checkpoint.tensor(key).clone()
    check_finite(checkpoint.path, flat(_PREFIX, trained))
    return trained, others


def _config(folder: Path) -> dict[str, Any]:
    file = folder / _CONFIG
    try:
        config = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        raise ValueError(f"{file}: not sound JSON") from None
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "VERA":
        raise ValueError(f"{file}: peft_type must be VERA, got {kind!r}")
    if type(config.get("r")) is not int or config["r"] < 1:
        raise ValueError(f"{file}: r must be a positive integer, got {config.get('r')!r}")
    if config.get("bias", "none") != "none":
        raise ValueError(f"{file}: bias must be none, got {config['bias']!r}: trained biases are not VeRA's")
    ends = config.get("modules_to_save") or []
    if not isinstance(ends, list) or not all(isinstance(end, str) and end for end in ends):
        raise ValueError(f"{file}: modules_to_save must be a list of names, got {ends!r}")
    checked: dict[str, Any] = config
    return checked


def _projections(
    checkpoint: Checkpoint,
    config: dict[str, Any],
    pairs: dict[str, tuple[torch.Tensor, torch.Tensor]],
    widest: int,
    dtypes: Sequence[torch.dtype],
) -> Given:
    rank, seed = config["r"], int(config.get("projection_prng_key") or 0)
    tallest = max((len(b) for _, b in pairs.values()), default=0)
    saved = [checkpoint.tensor(key) for key in _PROJECTIONS if key in checkpoint.names]
    if len(saved) == 2:
        a, b = saved
        for key, matrix, least in zip(_PROJECTIONS, (a, b), ((rank, widest), (tallest, rank)), strict=True):
            if matrix.dim() != 2 or any(have < need for have, need in zip(matrix.shape, least, strict=True)):
                raise ValueError(
                    f"{checkpoint.path}: tensor {key} must be {least} at least, got {tuple(matrix.shape)}"
                )
        return Given(a.clone(), b.clone(), seed, _rounded_to(checkpoint))
    if saved:
        raise ValueError(f"{checkpoint.path}: one of {' and '.join(_PROJECTIONS)} is missing")
    generator = torch.Generator("cpu").manual_seed(seed)
    first, second = vera.bound(widest), vera.bound(rank)
    a = torch.empty(rank, widest).uniform_(-first, first, generator=generator)
    b = torch.empty(tallest, rank).uniform_(-second, second, generator=generator)
    for dtype in dict.fromkeys(dtypes):
        a, b = a.to(dtype), b.to(dtype)
    narrow = next((dtype for dtype in dtypes if dtype.itemsize < 4), torch.float32)
    return Given(a.float(), b.float(), seed, narrow)


def _rounded_to(checkpoint: Checkpoint) -> torch.dtype | None:
    """What the saved matrices were rounded to, where the file says so."""
    header = checkpoint.shards.get(checkpoint.path.name)
    return TORCH.get(header.metadata.get(_DTYPE, "")) if header is not None else None


def save_peft(
    path: str | os.PathLike[str], adapters: Adapters, name: str | None = None, *, force: bool = False
) -> None:
    """An adapter as a folder that PEFT loads, projections and all: far larger than our own file.

    Args:
        path: a new folder.
        adapters: of a module.
        name: the adapter's; default: the one in use.
        force: replace the folder of an earlier adapter.

    Raises:
        ValueError: there is no such adapter, or the folder is there.
        OSError: it cannot be written.
    """
    layers, name = adapters.of(name), adapters.active if name is None else name
    assert name is not None
    setting = next(iter(layers.values())).settings[name]
    pairs = {path: (part.d[name].detach(), part.b[name].detach()) for path, part in layers.items()}
    inputs = {path: part.in_features for path, part in layers.items()}
    conv1d = all(part.transposed for part in layers.values())
    parts = adapters.trained_by(name)
    stored = Stored(Path(path), setting.projections, setting.rank, {}, pairs, parts)
    write_peft(path, stored, inputs, dropout=setting.dropout, conv1d=conv1d, force=force)


def write_peft(
    path: str | os.PathLike[str],
    stored: Stored,
    inputs: dict[str, int],
    *,
    dropout: float,
    conv1d: bool,
    force: bool,
) -> None:
    """PEFT's folder of an adapter; ``inputs``: of its layers."""
    widest, tensors = max(inputs.values()), {}
    for layer, (d, b) in stored.vectors.items():
        wider = 1.0 if isinstance(stored.projections, Given) else (widest / inputs[layer]) ** 0.5
        tensors[f"{_PREFIX}{layer}{_D}"] = (d.double() * wider).float().cpu()
        tensors[f"{_PREFIX}{layer}{_B}"] = b.float().cpu()
    tensors.update(zip(_PROJECTIONS, _matrices(stored, widest), strict=True))
    tensors.update(flat(_PREFIX, stored.trained))
    metadata = {"format": "pt"}
    if (dtype := getattr(stored.projections, "dtype", torch.float32)) is not None:
        metadata[_DTYPE] = NAMES[dtype]
    config = {
        "peft_type": "VERA",
        "r": stored.rank,
        "target_modules": sorted(stored.vectors),
        "projection_prng_key": (stored.projections.seed or 0) % (1 << 63),
        "save_projection": True,
        "vera_dropout": dropout,
        "d_initial": 0.1,
        "fan_in_fan_out": conv1d,
        "bias": "none",
        "inference_mode": True,
        "init_weights": True,
        "task_type": None,
        "modules_to_save": sorted(stored.trained) or None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "base_model_name_or_path": None,
    }
    out = check_output(path, force=force)
    with staged(out, force=force) as new:
        new.mkdir()
        (new / _CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        infos = [TensorInfo(key, NAMES[x.dtype], tuple(x.shape)) for key, x in tensors.items()]
        with writing(new, {_WEIGHTS: infos}, {_WEIGHTS: metadata}) as writer:
            for key, x in tensors.items():
                writer.write(key, x.contiguous())


def _matrices(stored: Stored, widest: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A for the widest layer and B for the tallest, with their bounds, fp32."""
    if isinstance(stored.projections, Given):
        a, b = stored.projections.on(torch.float32, torch.device("cpu"))
        return a, b
    assert isinstance(stored.projections, Seeded)
    tallest, key = max(len(b) for _, b in stored.vectors.values()), stored.projections.key
    return (
        vera_matrix(key, "A", (stored.rank, widest)) * vera.bound(widest),
        vera_matrix(key, "B", (tallest, stored.rank)) * vera.bound(stored.rank),
    )
