"""VeRA adapters and checkpoints on disk, without a module."""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Iterable
from pathlib import Path

import torch

from pydelta.checkpoint import Checkpoint, TensorInfo
from pydelta.checkpoint.folders.layout import layout_of, output
from pydelta.checkpoint.progress import progress
from pydelta.checkpoint.staging import check_output
from pydelta.checkpoint.tensor_names import FLOATS, config_of, known_axes
from pydelta.checkpoint.tensors import NAMES, TORCH
from pydelta.vera.file import Stored, flat, read
from pydelta.vera.peft import Fit, read_peft
from pydelta.vera.targets import OUTPUTS

_WEIGHT = ".weight"


def merge_checkpoint(
    base: str | os.PathLike[str],
    adapter: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    force: bool = False,
    show: bool = False,
    projection_dtype: torch.dtype | None = None,
) -> Path:
    """A checkpoint with an adapter merged in, an ordinary fine-tune of its base; one tensor at a time.

    Parts that the adapter trains in full (heads) take the base's places, or are added where it has none. An
    output layer that the file has beside the input embedding gets a config that ties them no more; one that
    the file lacks, since it is tied, is refused.

    Args:
        base: a Hugging Face folder or a safetensors file.
        adapter: a file of ours, or a folder of PEFT's.
        out: a folder, or one file if it ends in ``.safetensors``; with the base's layout, dtypes and config.
        force: replace an existing output.
        show: a progress bar on a terminal.
        projection_dtype: as for :func:`pydelta.vera.load_peft`, where the file has another dtype than the
            base had when PEFT trained the adapter.

    Returns:
        ``out``.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: a file is not sound, or the base lacks a layer, has it in another size, quantised or tied;
            the message names the file and the layers.
    """
    target = check_output(out, force=force, inputs=[base, adapter])
    model = Checkpoint(base)
    axes = {name: axis for name in model.names if (axis := _axis(model, name)) is not None}
    stored = read_any(Path(adapter), model, axes, projection_dtype)
    layers = _adapted(model, stored, axes)
    trained = _trained(model, stored, layers)
    shards, metadata = layout_of(model, target)
    added = {name: x for name, x in trained.items() if name not in model.tensors}
    shards[list(shards)[-1]] += [
        TensorInfo(name, NAMES[x.dtype], tuple(x.shape)) for name, x in added.items()
    ]
    texts = _untied(model, [*layers, *trained])
    with (
        output(target, shards, metadata, force=force, copy_from=model.folder, texts=texts) as writer,
        progress("vera merge", model.nbytes, show) as advance,
    ):
        for name, x in added.items():
            writer.write(name, x)
        for name in model.names:
            x = trained[name] if name in trained else model.tensor(name)  # private: not the file's memory
            if name in layers:
                d, b = stored.vectors[layers[name]]
                weight = x.mT if axes[name] == 0 else x
                stored.projections.merged(weight, d, b, weight)
            advance(writer.write(name, x))
    return target


def read_any(
    path: Path, model: Checkpoint, axes: dict[str, int], projection_dtype: torch.dtype | None
) -> Stored:
    """An adapter's file, or PEFT's folder."""
    if not path.is_dir():
        return read(path)
    fits = {
        name.removesuffix(_WEIGHT): Fit(model.shape(name)[axis], TORCH[model.dtype(name)])
        for name, axis in axes.items()
    }
    return read_peft(path, _Fits(fits), projection_dtype)[0]


class _Fits(dict[str, Fit]):
    """The base's layers by names that may have more leading parts than the checkpoint's."""

    def __contains__(self, layer: object) -> bool:
        return isinstance(layer, str) and _known_as(layer, self) is not None

    def __getitem__(self, layer: str) -> Fit:
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
            problems.append(f"{layer!r} {_absence(model, layer)}")
            continue
        name = layers[known]
        shape, axis = model.shape(name), axes[name]
        inputs, outputs = shape[axis], shape[1 - axis]
        size = stored.sizes.get(layer)
        if (inputs, outputs) != ((size.inputs if size else inputs), len(b)):
            wanted = f"{size.inputs if size else inputs} -> {len(b)}"
            problems.append(f"{layer!r} is {inputs} -> {outputs}, not {wanted}")
        elif layer in stored.bases and (problem := stored.problem_of_base(layer, model.tensor(name))):
            problems.append(f"{layer!r} {problem}")
        adapted[name] = layer
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(f"{model.path}: does not fit {stored.path}: {'; '.join(problems[:3])}{more}")
    return adapted


def _absence(model: Checkpoint, layer: str) -> str:
    """Why a layer that an adapter has is none of the checkpoint's that could be adapted."""
    name = _known_as(layer, [key.rpartition(".")[0] for key in model.names])
    tensors = (
        {} if name is None else {key: model.dtype(key) for key in model.names if key.startswith(f"{name}.")}
    )
    if tensors.get(f"{name}{_WEIGHT}", "") in FLOATS:
        return f"has a weight of shape {model.shape(f'{name}{_WEIGHT}')}"
    if tensors:
        kinds = ", ".join(sorted(f"{key.rpartition('.')[2]} in {dtype}" for key, dtype in tensors.items()))
        return f"is quantised ({kinds}): merge into the unquantised base"
    if layer.rpartition(".")[2] in OUTPUTS:
        return "is not there: tied to the input embedding, it has no weight of its own to merge into"
    return "is not there"


def _trained(model: Checkpoint, stored: Stored, layers: dict[str, str]) -> dict[str, torch.Tensor]:
    """Tensor -> its values, of the parts that were trained in full."""
    tensors, problems = {}, []
    like = next((model.dtype(name) for name in layers), "F32")
    for full, x in flat("", stored.trained).items():
        name = _known_as(full, model.names) or full
        if name not in model.tensors:
            tensors[name] = x.to(TORCH[like]) if x.is_floating_point() else x
        elif model.shape(name) != tuple(x.shape):
            problems.append(f"{name!r} is {model.shape(name)}, not {tuple(x.shape)}")
        else:
            tensors[name] = x.to(TORCH[model.dtype(name)])
    if problems:
        raise ValueError(f"{model.path}: does not fit {stored.path}: {'; '.join(problems[:3])}")
    return tensors


def _untied(model: Checkpoint, changed: Iterable[str]) -> dict[str, str]:
    """config.json where a changed output layer must not be tied any more."""
    config = config_of(model)
    outputs = [name for name in changed if name.removesuffix(_WEIGHT).rpartition(".")[2] in OUTPUTS]
    if not config or not outputs or config.get("tie_word_embeddings") is False:
        return {}
    if config.get("is_encoder_decoder"):
        raise ValueError(
            f"{model.path}: {outputs[0]!r} is tied to the input embedding by the config, "
            "and encoder-decoders may compute otherwise without the tie"
        )
    nested = {
        key: part for key, part in config.items() if isinstance(part, dict) and "tie_word_embeddings" in part
    }
    config |= {key: part | {"tie_word_embeddings": False} for key, part in nested.items()}
    return {"config.json": json.dumps(config | {"tie_word_embeddings": False}, indent=2) + "\n"}


def _known_as(layer: str, known: Iterable[str]) -> str | None:
    """The checkpoint's name of a module's layer: checkpoints of bare models lack the first parts of names."""
    names, parts = set(dict.fromkeys(known)), layer.split(".")
    for i in range(len(parts)):
        if (short := ".".join(parts[i:])) in names:
            return short
    longer = [name for name in names if name.endswith(f".{layer}")]
    return longer[0] if len(longer) == 1 else None
