"""The file of one adapter: its vectors, and in under a kilobyte of header what they belong to.

One fp32 tensor ``vectors`` holds d and b of the first layer, d and b of the second, and so on. The metadata
name the layers, those that differ in a number alone together: ``["h.*.attn.q_proj", "0-31", 4096, 4096]`` is
a pattern, the numbers that stand for its star, and the layers' inputs and outputs. Where the adapter trains
parts in full, their tensors stand beside as ``trained.<part>.<tensor>``, in their own dtypes, and ``trained``
in the metadata lists the parts.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pydelta.checkpoint import Checkpoint, TensorInfo
from pydelta.checkpoint.staging import check_output, staged
from pydelta.checkpoint.tensor_names import group_of, layer_of
from pydelta.checkpoint.tensors import NAMES
from pydelta.checkpoint.writer import writing
from pydelta.core.module_names import plain_name
from pydelta.vera.adapters import Adapters, attach_to
from pydelta.vera.layer import Setting, VeraLinear, is_conv1d
from pydelta.vera.projections import Projections, Seeded
from pydelta.vera.targets import parts_of
from pydelta.vera.trained import shapes_of

FORMAT, VERSION = "pydelta.vera", "1"
WITH_PARTS = "2"
"""The version of a file that holds parts trained in full beside the vectors."""

_TENSOR, _TRAINED = "vectors", "trained"
_STAR = "*"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """A layer's inputs and outputs."""

    inputs: int
    outputs: int


@dataclasses.dataclass(frozen=True)
class Stored:
    """An adapter as a file has it.

    Attributes:
        path: of the file.
        projections: where the matrices come from.
        rank: of the matrices.
        sizes: layer -> its sizes, where they are known.
        vectors: layer -> d (rank) and b (outputs).
        trained: part that is trained in full -> its tensors.
        bases: layer -> the base's weight that came in the file. PEFT keeps those of embeddings and output
            layers; the base must have the same.
    """

    path: Path
    projections: Projections
    rank: int
    sizes: dict[str, Sizes]
    vectors: dict[str, tuple[torch.Tensor, torch.Tensor]]
    trained: dict[str, dict[str, torch.Tensor]] = dataclasses.field(default_factory=dict)
    bases: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)

    def problem_of_base(self, layer: str, weight: torch.Tensor) -> str:
        """Why a layer's weight is not the one that came in the file; "" if it is."""
        wanted = self.bases.get(layer)
        same = wanted is None or torch.equal(wanted.to(weight.device, weight.dtype), weight)
        return "" if same else "has another weight than the base's that is in the adapter's file"


def save(
    path: str | os.PathLike[str], adapters: Adapters, name: str | None = None, *, force: bool = False
) -> None:
    """An adapter as one file: its vectors, its seed, at most a kilobyte beside, and what it trains in full.

    Args:
        path: a new file.
        adapters: of a module.
        name: the adapter's; default: the one in use.
        force: replace an existing file.

    Raises:
        ValueError: there is no such adapter, its matrices come from no seed of ours, or the file is there.
        OSError: it cannot be written.
    """
    layers, name = adapters.of(name), adapters.active if name is None else name
    assert name is not None
    sizes = {layer: Sizes(part.in_features, part.out_features) for layer, part in layers.items()}
    groups = grouped(sizes)
    metadata = {
        FORMAT: VERSION,
        "seed": str(adapters.seed(name)),
        "rank": str(adapters.rank(name)),
        "layers": json.dumps(groups, separators=(",", ":")),
    }
    tensors = {_TENSOR: torch.cat([v for layer in ungrouped(groups) for v in _vectors(layers[layer], name)])}
    if parts := adapters.trained_by(name):
        metadata |= {FORMAT: WITH_PARTS, _TRAINED: json.dumps(list(parts), separators=(",", ":"))}
        tensors |= flat(f"{_TRAINED}.", parts)
    out = check_output(path, force=force)
    with staged(out, force=force) as new:
        infos = [TensorInfo(key, NAMES[x.dtype], tuple(x.shape)) for key, x in tensors.items()]
        with writing(new.parent, {new.name: infos}, {new.name: metadata}) as writer:
            for key, x in tensors.items():
                writer.write(key, x)


def flat(prefix: str, parts: dict[str, dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The tensors of parts by their full names, as a file takes them."""
    return {
        f"{prefix}{path}.{key}": x.detach().cpu().contiguous()
        for path, own in parts.items()
        for key, x in own.items()
    }


def _vectors(layer: VeraLinear, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    d, b = (v[name].detach().float().cpu() for v in (layer.d, layer.b))
    return d, b


def grouped(sizes: dict[str, Sizes]) -> list[list[Any]]:
    """Rows of pattern, numbers, inputs, outputs; a name that stands for itself has no numbers."""
    groups: dict[tuple[str, Sizes], list[int]] = {}
    for layer, size in sizes.items():
        number = layer_of(layer)
        plain = number is None or _STAR in layer or group_of(layer).replace(_STAR, str(number), 1) != layer
        if plain or number is None:
            groups[layer, size] = []
        else:
            groups.setdefault((group_of(layer), size), []).append(number)
    return [
        [pattern, _ranges(numbers), size.inputs, size.outputs] for (pattern, size), numbers in groups.items()
    ]


def _ranges(numbers: list[int]) -> str:
    """0, 1, 2, 5 as "0-2,5"."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def ungrouped(groups: list[list[Any]]) -> dict[str, Sizes]:
    """The layers that rows stand for, in the order of the file."""
    sizes = {}
    for pattern, numbers, inputs, outputs in groups:
        size = Sizes(inputs, outputs)
        if not numbers:
            sizes[pattern] = size
        for run in numbers.split(",") if numbers else ():
            first, _, last = run.partition("-")
            for number in range(int(first), int(last or first) + 1):
                sizes[pattern.replace(_STAR, str(number), 1)] = size
    return sizes


def read(path: str | os.PathLike[str]) -> Stored:
    """An adapter's file, checked.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no adapter of ours, or not sound; the message names the file.
    """
    file = Path(path)
    checkpoint = Checkpoint(file)
    metadata = checkpoint.shards[file.name].metadata if file.name in checkpoint.shards else {}
    if metadata.get(FORMAT) not in (VERSION, WITH_PARTS):
        known = f"version {metadata[FORMAT]!r}" if FORMAT in metadata else "no such mark"
        raise ValueError(f"{file}: not a VeRA adapter of version {VERSION} or {WITH_PARTS}: {known}")
    try:
        seed, rank = int(metadata["seed"]), int(metadata["rank"])
        sizes = ungrouped(_checked(json.loads(metadata["layers"])))
        if not 0 <= seed < 1 << 64 or rank < 1:
            raise ValueError
    except (KeyError, ValueError, TypeError, RecursionError):
        raise ValueError(f"{file}: the metadata seed, rank and layers are not sound") from None
    wanted = sum(rank + size.outputs for size in sizes.values())
    trained = _trained(checkpoint, file, metadata)
    beside = {f"{_TRAINED}.{path}.{key}" for path, keys in trained.items() for key in keys}
    if set(checkpoint.names) != {_TENSOR, *beside} or checkpoint.dtype(_TENSOR) != "F32":
        raise ValueError(f"{file}: must hold the float32 tensor {_TENSOR!r} alone, and parts that it names")
    if checkpoint.shape(_TENSOR) != (wanted,):
        raise ValueError(
            f"{file}: tensor {_TENSOR!r} must have shape {(wanted,)} for its layers, "
            f"got {checkpoint.shape(_TENSOR)}"
        )
    values = checkpoint.tensor(_TENSOR)
    check_finite(file, {_TENSOR: values})
    pieces = iter(values.split([length for size in sizes.values() for length in (rank, size.outputs)]))
    vectors = {layer: (next(pieces).clone(), next(pieces).clone()) for layer in sizes}
    parts = {
        path: {key: checkpoint.tensor(f"{_TRAINED}.{path}.{key}").clone() for key in keys}
        for path, keys in trained.items()
    }
    check_finite(file, flat(f"{_TRAINED}.", parts))
    return Stored(file, Seeded(seed), rank, sizes, vectors, parts)


def _trained(checkpoint: Checkpoint, file: Path, metadata: dict[str, str]) -> dict[str, list[str]]:
    """The parts that a file holds in full, and the names of their tensors."""
    if metadata[FORMAT] != WITH_PARTS:
        return {}
    try:
        paths = json.loads(metadata[_TRAINED])
        if (
            not isinstance(paths, list)
            or not paths
            or not all(isinstance(path, str) and path for path in paths)
        ):
            raise ValueError
    except (KeyError, ValueError, RecursionError):
        raise ValueError(f"{file}: the metadata trained is not sound") from None
    return {
        path: [name.removeprefix(start) for name in checkpoint.names if name.startswith(start)]
        for path in paths
        if (start := f"{_TRAINED}.{path}.")
    }


def check_finite(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    """That an adapter's tensors are numbers.

    Raises:
        ValueError: one holds NaN or Inf.
    """
    for name, x in tensors.items():
        if x.is_floating_point() and not x.isfinite().all():
            raise ValueError(f"{file}: tensor {name!r} holds NaN or Inf")


def _checked(groups: Any) -> list[list[Any]]:
    for pattern, numbers, inputs, outputs in groups:
        sound = isinstance(pattern, str) and isinstance(numbers, str)
        if not sound or any(type(size) is not int or size < 1 for size in (inputs, outputs)):
            raise ValueError
        if any(int(run.partition("-")[2] or 0) > 1 << 20 for run in numbers.split(",") if run):
            raise ValueError
    checked: list[list[Any]] = groups
    return checked


def inspect(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What an adapter's file holds: seed, rank, layers, and where its bytes go.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no sound adapter of ours.
    """
    stored = read(path)
    assert isinstance(stored.projections, Seeded)
    size = stored.path.stat().st_size
    numbers = sum(d.numel() + b.numel() for d, b in stored.vectors.values())
    whole = {path: sum(x.numel() for x in own.values()) for path, own in stored.trained.items()}
    beside = size - 4 * numbers - sum(x.nbytes for own in stored.trained.values() for x in own.values())
    return {
        "kind": "vera",
        "path": str(stored.path),
        "bytes": size,
        "bytes_beside_vectors": beside,
        "seed": stored.projections.seed,
        "rank": stored.rank,
        "parameters": numbers,
        "layers": [
            {"name": layer, "in": part.inputs, "out": part.outputs} for layer, part in stored.sizes.items()
        ],
        "trained": [{"name": path, "parameters": count} for path, count in whole.items()],
    }


def load(path: str | os.PathLike[str], module: nn.Module, name: str = "default") -> Adapters:
    """Attaches the adapter of a file to a module, and uses it.

    Args:
        path: made by :func:`save`.
        module: as at :func:`attach`; its layers are found by name.
        name: the adapter's.

    Raises:
        OSError: the file cannot be read.
        TypeError: a layer is quantised, or not a plain linear layer.
        ValueError: the file is not sound, the module lacks a layer or has it in another size, or the name is
            taken; the message names the file and the layers.
    """
    return attach_stored(read(path), module, name)


def attach_stored(stored: Stored, module: nn.Module, name: str, dropout: float = 0.0) -> Adapters:
    """An adapter from a file of any kind onto a module, if all of its layers are there."""
    parts = parts_of(module)
    names = {
        layer: layer if layer in parts else plain_name(layer) for layer in (*stored.vectors, *stored.trained)
    }
    problems = [
        f"{layer!r} {problem}"
        for layer, (_, b) in stored.vectors.items()
        if (problem := _problem(parts.get(names[layer]), stored.sizes.get(layer), len(b)))
        or (problem := stored.problem_of_base(layer, parts[names[layer]].weight))  # type: ignore[arg-type]
    ]
    for path, own in stored.trained.items():
        problems += [f"{path!r} {problem}" for problem in _problems_of_part(parts.get(names[path]), own)]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(f"{stored.path}: does not fit this module: {'; '.join(problems[:3])}{more}")
    setting = Setting(stored.projections, stored.rank, dropout)
    train = [names[path] for path in stored.trained]
    adapters = attach_to(module, [names[layer] for layer in stored.vectors], setting, name, train=train)
    attached = {id(layer): layer for layer in adapters.layers.values()}
    after = parts_of(module)
    with torch.no_grad():
        for layer, (d, b) in stored.vectors.items():
            part = attached[id(after[names[layer]])]
            part.d[name].copy_(d)
            part.b[name].copy_(b)
        for path, tensors in adapters.trained_by(name).items():
            own = next(own for theirs, own in stored.trained.items() if names[theirs] == path)
            for key, x in tensors.items():
                x.copy_(own[key])
    return adapters


def _problems_of_part(part: nn.Module | None, own: dict[str, torch.Tensor]) -> Iterator[str]:
    """Why a part of the module does not take what was trained in full."""
    if part is None:
        yield "is not there"
        return
    shapes = shapes_of(part)
    for key in sorted(shapes.keys() | own.keys()):
        shape = tuple(own[key].shape) if key in own else None
        if shape != shapes.get(key):
            yield f"has {key} of shape {shapes.get(key, 'none')}, not {shape or 'none'}"


def _problem(part: nn.Module | None, size: Sizes | None, outputs: int) -> str:
    """Why a layer of the module does not take an adapter's vectors; "" if it does."""
    if part is None:
        return "is not there"
    weight = getattr(part, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.dim() != 2:
        return f"is a {type(part).__name__}"
    actual = Sizes(*weight.shape[::-1]) if not is_conv1d(part) else Sizes(*weight.shape)
    wanted = size or Sizes(actual.inputs, outputs)
    if actual != wanted:
        return f"is {actual.inputs} -> {actual.outputs}, not {wanted.inputs} -> {wanted.outputs}"
    return ""
