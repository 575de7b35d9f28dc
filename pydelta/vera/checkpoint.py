"""VeRA adapters and checkpoints on disk, without a module."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable
from pathlib import Path

from pydelta.checkpoint import Checkpoint
from pydelta.checkpoint.layout import layout_of, output
from pydelta.checkpoint.progress import progress
from pydelta.checkpoint.staging import check_output
from pydelta.checkpoint.tensor_names import FLOATS, known_axes
from pydelta.vera.file import Stored, read
from pydelta.vera.peft import read_peft

_WEIGHT = ".weight"


def merge_checkpoint(
    base: str | os.PathLike[str],
    adapter: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    force: bool = False,
    show: bool = False,
) -> Path:
    """A checkpoint with an adapter merged in, an ordinary fine-tune of its base; one tensor at a time.

    Args:
        base: a Hugging Face folder or a safetensors file.
        adapter: a file of ours, or a folder of PEFT's.
        out: a folder, or one file if it ends in ``.safetensors``; with the base's layout, dtypes and config.
        force: replace an existing output.
        show: a progress bar on a terminal.

    Returns:
        ``out``.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: a file is not sound, or the base lacks a layer or has it in another size; the message
            names the file and the layers.
    """
    target = check_output(out, force=force, inputs=[base, adapter])
    model = Checkpoint(base)
    axes = {name: axis for name in model.names if (axis := _axis(model, name)) is not None}
    stored = read_any(Path(adapter), model, axes)
    layers = _adapted(model, stored, axes)
    shards, metadata = layout_of(model, target)
    with (
        output(target, shards, metadata, force=force, copy_from=model.folder) as writer,
        progress("vera merge", model.nbytes, show) as advance,
    ):
        for name in model.names:
            x = model.tensor(name)  # private: what is written here is not written to the file
            if name in layers:
                d, b = stored.vectors[layers[name]]
                weight = x.mT if axes[name] == 0 else x
                stored.projections.merged(weight, d, b, weight)
            advance(writer.write(name, x))
    return target


def read_any(path: Path, model: Checkpoint, axes: dict[str, int]) -> Stored:
    """An adapter's file, or PEFT's folder."""
    if not path.is_dir():
        return read(path)
    inputs = {name.removesuffix(_WEIGHT): model.shape(name)[axis] for name, axis in axes.items()}
    folder = _Inputs(inputs)
    return read_peft(path, folder)[0]


class _Inputs(dict[str, int]):
    """Inputs by layer, whose names may have more leading parts than the checkpoint's."""

    def __contains__(self, layer: object) -> bool:
        return isinstance(layer, str) and _known_as(layer, self) is not None

    def __getitem__(self, layer: str) -> int:
        name = _known_as(layer, self)
        if name is None:
            raise KeyError(layer)
        return super().__getitem__(name)


def _axis(model: Checkpoint, name: str) -> int | None:
    """The input axis of a linear layer's weight; None for other tensors."""
    if not name.endswith(_WEIGHT) or len(model.shape(name)) != 2 or model.dtype(name) not in FLOATS:
        return None
    patterns = known_axes(model)
    return next((axis for pattern, axis in patterns.items() if fnmatch.fnmatchcase(name, pattern)), 1)


def _adapted(model: Checkpoint, stored: Stored, axes: dict[str, int]) -> dict[str, str]:
    """Tensor -> the adapter's layer."""
    adapted, problems = {}, []
    layers = {name.removesuffix(_WEIGHT): name for name in axes}
    for layer, (_, b) in stored.vectors.items():
        known = _known_as(layer, layers)
        if known is None:
            problems.append(f"{layer!r} is not there")
            continue
        name = layers[known]
        shape, axis = model.shape(name), axes[name]
        inputs, outputs = shape[axis], shape[1 - axis]
        size = stored.sizes.get(layer)
        if (inputs, outputs) != ((size.inputs if size else inputs), len(b)):
            wanted = f"{size.inputs if size else inputs} -> {len(b)}"
            problems.append(f"{layer!r} is {inputs} -> {outputs}, not {wanted}")
        adapted[name] = layer
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(f"{model.path}: does not fit {stored.path}: {'; '.join(problems[:3])}{more}")
    return adapted


def _known_as(layer: str, known: Iterable[str]) -> str | None:
    """The checkpoint's name of a module's layer: checkpoints of bare models lack the first parts of names."""
    names, parts = set(dict.fromkeys(known)), layer.split(".")
    for i in range(len(parts)):
        if (short := ".".join(parts[i:])) in names:
            return short
    longer = [name for name in names if name.endswith(f".{layer}")]
    return longer[0] if len(longer) == 1 else None
