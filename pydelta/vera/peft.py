"""VeRA adapters in PEFT's folders: adapter_config.json, and a safetensors file with the projections in it.

PEFT's matrices are as large as the largest layer that it adapts and come from torch's generator on the CPU.
Ours go into such a pair exactly: A's bound depends on a layer's width, so d takes up the difference.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pydelta.checkpoint import Checkpoint, TensorInfo
from pydelta.checkpoint.header import pickle_error
from pydelta.checkpoint.staging import check_output, staged
from pydelta.checkpoint.writer import writing
from pydelta.ops.vera_matrix import vera_matrix
from pydelta.products import vera
from pydelta.vera.adapters import Adapters
from pydelta.vera.file import Stored, attach_stored
from pydelta.vera.layer import is_conv1d
from pydelta.vera.projections import Given, Seeded

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PICKLE = "adapter_model.bin"
_PREFIX = "base_model.model."
_D, _B = ".vera_lambda_d", ".vera_lambda_b"
_PROJECTIONS = ("base_model.vera_A", "base_model.vera_B")


def load_peft(path: str | os.PathLike[str], module: nn.Module, name: str = "default") -> Adapters:
    """Attaches an adapter that PEFT has saved, with or without its projections, and uses it.

    Without them the matrices are drawn as PEFT draws them, from torch's generator on the CPU: they are right
    where this version of torch draws as the one that trained.

    Args:
        path: a folder with adapter_config.json and adapter_model.safetensors.
        module: the base model, as PEFT was given it.
        name: the adapter's.

    Raises:
        OSError: a file cannot be read.
        ValueError: another method's folder, tensors of other shapes, or a module of another architecture.
    """
    stored, dropout = read_peft(Path(path), inputs_of(module))
    return attach_stored(stored, module, name, dropout)


def inputs_of(module: nn.Module) -> dict[str, int]:
    """The inputs of every layer of a module that has a matrix."""
    sizes = {}
    for path, part in module.named_modules():
        weight = getattr(part, "weight", None)
        if isinstance(weight, torch.Tensor) and weight.dim() == 2:
            sizes[path] = weight.shape[0] if is_conv1d(part) else weight.shape[1]
    return sizes


def read_peft(folder: Path, inputs: dict[str, int]) -> tuple[Stored, float]:
    """An adapter of PEFT and its dropout; ``inputs``: of the base's layers."""
    config = _config(folder)
    if not (folder / _WEIGHTS).is_file() and (folder / _PICKLE).is_file():
        raise pickle_error(folder / _PICKLE)
    checkpoint = Checkpoint(folder / _WEIGHTS)
    vectors: dict[str, dict[str, torch.Tensor]] = {}
    others = []
    for key in checkpoint.names:
        for end in (_D, _B):
            if key.startswith(_PREFIX) and key.endswith(end):
                layer = key.removeprefix(_PREFIX).removesuffix(end)
                vectors.setdefault(layer, {})[end] = checkpoint.tensor(key).float()
                break
        else:
            others += [key] if key not in _PROJECTIONS else []
    file, rank = checkpoint.path, config["r"]
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
    if absent := [layer for layer in pairs if layer not in inputs]:
        raise ValueError(f"{file}: does not fit this module: {', '.join(absent[:3])} are not there")
    matrices = _projections(checkpoint, config, pairs, inputs)
    return Stored(folder, matrices, rank, {}, pairs), float(config.get("vera_dropout") or 0.0)


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
    checked: dict[str, Any] = config
    return checked


def _projections(
    checkpoint: Checkpoint,
    config: dict[str, Any],
    pairs: dict[str, tuple[torch.Tensor, torch.Tensor]],
    inputs: dict[str, int],
) -> Given:
    rank, seed = config["r"], int(config.get("projection_prng_key") or 0)
    widest = max((inputs[layer] for layer in pairs), default=0)
    tallest = max((len(b) for _, b in pairs.values()), default=0)
    saved = [checkpoint.tensor(key) for key in _PROJECTIONS if key in checkpoint.names]
    if len(saved) == 2:
        a, b = saved
        for key, matrix, least in zip(_PROJECTIONS, (a, b), ((rank, widest), (tallest, rank)), strict=True):
            if matrix.dim() != 2 or any(have < need for have, need in zip(matrix.shape, least, strict=True)):
                raise ValueError(
                    f"{checkpoint.path}: tensor {key} must be {least} at least, got {tuple(matrix.shape)}"
                )
        return Given(a.clone(), b.clone(), seed)
    if saved:
        raise ValueError(f"{checkpoint.path}: one of {' and '.join(_PROJECTIONS)} is missing")
    generator = torch.Generator("cpu").manual_seed(seed)
    first, second = vera.bound(widest), vera.bound(rank)
    a = torch.empty(rank, widest).uniform_(-first, first, generator=generator)
    b = torch.empty(tallest, rank).uniform_(-second, second, generator=generator)
    return Given(a, b, seed)


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
    stored = Stored(Path(path), setting.projections, setting.rank, {}, pairs)
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
        "modules_to_save": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "base_model_name_or_path": None,
    }
    out = check_output(path, force=force)
    with staged(out, force=force) as new:
        new.mkdir()
        (new / _CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        infos = [TensorInfo(key, "F32", tuple(x.shape)) for key, x in tensors.items()]
        with writing(new, {_WEIGHTS: infos}, {_WEIGHTS: {"format": "pt"}}) as writer:
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
