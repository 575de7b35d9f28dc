"""Whole checkpoints in memory: ``load_checkpoint`` and ``save_checkpoint``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydelta.checkpoint.folders.layout import layout_of, output
from pydelta.checkpoint.header import ITEMSIZE, TensorInfo
from pydelta.checkpoint.reader import SINGLE, Checkpoint
from pydelta.checkpoint.staging import check_output
from pydelta.checkpoint.writer import Shards

if TYPE_CHECKING:
    import torch


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, read into memory.

    Args:
        path: a Hugging Face folder (one file or shards) or one safetensors file.

    Returns:
        name -> CPU tensor, with the file's dtypes and shapes; (nbytes,) uint8 where torch lacks the dtype.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is not sound, or is a pickle; the message names it.
    """
    checkpoint = Checkpoint(path)
    return {name: checkpoint.tensor(name).clone() for name in checkpoint.names}


def save_checkpoint(
    tensors: Mapping[str, torch.Tensor],
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, str] | None = None,
    like: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> None:
    """Writes a state dict as safetensors, whole or not at all.

    Args:
        tensors: name -> tensor of any device and strides. Tensors that share memory are written under every
            name.
        path: one file if it ends in ``.safetensors``, else a folder.
        metadata: text to text, for the files' headers; default ``{"format": "pt"}``, or that of ``like``.
        like: a checkpoint with the same names, whose shards the folder gets, and whose config and tokenizer
            files are copied.
        force: replace an existing output.

    Raises:
        TypeError: something is no tensor, or metadata is not text.
        ValueError: ``path`` exists and ``force`` is false, a dtype is unknown to the format, or the names
            differ from those of ``like``.
        OSError: the files cannot be written.
    """
    infos = [_info(name, tensor) for name, tensor in tensors.items()]
    text = dict(metadata) if metadata is not None else {"format": "pt"}
    if not all(isinstance(word, str) for pair in text.items() for word in pair):
        raise TypeError("[save_checkpoint] metadata must map str to str")
    out = check_output(path, force=force, inputs=[] if like is None else [like])
    file = out.name if out.suffix == ".safetensors" else SINGLE
    shards, heads, source = {file: infos}, {file: text}, None
    if like is not None:
        model = Checkpoint(like)
        shards, heads = _arrange(infos, model, out)
        heads = heads if metadata is None else dict.fromkeys(heads, text)
        source = model.folder
    with output(out, shards, heads, force=force, copy_from=source) as writer:
        for name, tensor in tensors.items():
            writer.write(name, tensor.detach().cpu().contiguous())


def _info(name: object, tensor: object) -> TensorInfo:
    import torch

    from pydelta.checkpoint.tensors import NAMES

    if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
        got = f"{type(name).__name__} -> {type(tensor).__name__}"
        raise TypeError(f"[save_checkpoint] tensors must map names to tensors, got {got}")
    if tensor.dtype not in NAMES or tensor.layout is not torch.strided:
        kind = f"{tensor.dtype}, {tensor.layout}"
        raise ValueError(f"[save_checkpoint] {name} must be dense and of a dtype of safetensors, got {kind}")
    return TensorInfo(name, NAMES[tensor.dtype], tuple(tensor.shape))


def _arrange(
    infos: list[TensorInfo], like: Checkpoint, out: Path
) -> tuple[Shards, dict[str, dict[str, str]]]:
    """The layout of ``like`` with the dtypes and shapes of ``infos``."""
    by_name = {info.name: info for info in infos}
    if by_name.keys() != like.tensors.keys():
        differ = ", ".join(sorted(by_name.keys() ^ like.tensors.keys()))
        raise ValueError(
            f"[save_checkpoint] tensors must have the names of {like.path}, they differ in {differ}"
        )
    for info in like.tensors.values():
        # What torch has no dtype for came from load_checkpoint as bytes.
        held = by_name[info.name]
        if info.dtype not in ITEMSIZE and (held.dtype, held.shape) == ("U8", info.as_read):
            by_name[info.name] = info
    shards, heads = layout_of(like, out)
    return {file: [by_name[info.name] for info in wanted] for file, wanted in shards.items()}, heads
