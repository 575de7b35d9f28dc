"""Output checkpoints: the files of the base's layout, and what lies beside the weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pydelta.checkpoint.reader import INDEX, SINGLE, Checkpoint
from pydelta.checkpoint.staging import staged
from pydelta.checkpoint.writer import Shards, Writer, writing

_WEIGHTS = (
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".pkl",
    ".h5",
    ".msgpack",
    ".onnx",
    ".gguf",
    ".index.json",
)
_SMALL = 64 << 20
"""Other files of a folder are copied up to so many bytes: configurations and tokenizers, no weights."""


def layout_of(like: Checkpoint, out: Path) -> tuple[Shards, dict[str, dict[str, str]]]:
    """Where the tensors of a checkpoint like ``like`` go, and each file's metadata.

    An ``out`` that ends in ``.safetensors`` is one file; any other is a folder with the files of ``like``.
    """
    merged = {key: text for header in like.shards.values() for key, text in header.metadata.items()}
    if out.suffix == ".safetensors":
        return {out.name: list(like.tensors.values())}, {out.name: merged}
    if len(like.shards) == 1:
        return {SINGLE: list(like.tensors.values())}, {SINGLE: merged}
    shards: Shards = {file: list(header.tensors.values()) for file, header in like.shards.items()}
    return shards, {file: header.metadata for file, header in like.shards.items()}


@contextmanager
def output(
    out: Path,
    shards: Shards,
    metadata: dict[str, dict[str, str]],
    *,
    force: bool,
    copy_from: Path | None = None,
    texts: Mapping[str, str] | None = None,
) -> Iterator[Writer]:
    """A checkpoint that appears under ``out`` when the block ends, or not at all.

    Args:
        out: one file if it ends in ``.safetensors``, else a folder.
        shards, metadata: see :func:`layout_of`.
        copy_from: a folder whose small files (config, tokenizer) are copied into the new folder.
        texts: files of the new folder that are not copied but written, by name, as they are when the block
            ends.
    """
    single = out.suffix == ".safetensors"
    with staged(out, force=force) as new:
        if single:
            shards, metadata = {new.name: shards[out.name]}, {new.name: metadata[out.name]}
        else:
            new.mkdir()
        with writing(new.parent if single else new, shards, metadata) as writer:
            yield writer
        if not single:
            _write_index(new, shards)
            if copy_from is not None:
                _copy_small_files(copy_from, new)
            for name, text in (texts or {}).items():
                (new / name).write_text(text, encoding="utf-8")


def _write_index(folder: Path, shards: Shards) -> None:
    if SINGLE in shards:
        return
    index = {
        "metadata": {"total_size": sum(info.nbytes for tensors in shards.values() for info in tensors)},
        "weight_map": {info.name: file for file, tensors in shards.items() for info in tensors},
    }
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _copy_small_files(source: Path, folder: Path) -> None:
    """config.json, the tokenizer's files and the like: visible files that hold no weights."""
    for file in sorted(source.iterdir()):
        plain = file.is_file() and not file.name.startswith(".") and not file.name.endswith(_WEIGHTS)
        if plain and file.stat().st_size <= _SMALL:
            shutil.copyfile(file, folder / file.name)
