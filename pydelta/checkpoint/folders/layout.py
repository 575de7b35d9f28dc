"""Output checkpoints: the files of the base's layout, and what lies beside the weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pydelta.checkpoint.folders.beside import copy_beside
from pydelta.checkpoint.folders.own_files import write_files
from pydelta.checkpoint.folders.weight_files import SINGLE, index_name
from pydelta.checkpoint.header import TensorInfo
from pydelta.checkpoint.reader import Checkpoint
from pydelta.checkpoint.staging import staged
from pydelta.checkpoint.writer import Shards, Writer, writing


def layout_of(like: Checkpoint, out: Path) -> tuple[Shards, dict[str, dict[str, str]]]:
    """Where the tensors of a checkpoint like ``like`` go, and each file's metadata.

    An ``out`` that ends in ``.safetensors`` is one file; any other is a folder with the files of ``like``.
    """
    merged = {key: text for header in like.shards.values() for key, text in header.metadata.items()}
    if out.suffix == ".safetensors":
        return {out.name: list(like.tensors.values())}, {out.name: merged}
    if len(like.shards) == 1:
        (file,) = like.shards
        file = file if like.folder is not None and "/" not in file else SINGLE
        return {file: list(like.tensors.values())}, {file: merged}
    shards: Shards = {file: list(header.tensors.values()) for file, header in like.shards.items()}
    return shards, {file: header.metadata for file, header in like.shards.items()}


def arranged(
    like: Checkpoint, tensors: Mapping[str, TensorInfo], out: Path
) -> tuple[Shards, dict[str, dict[str, str]]]:
    """The layout of ``like`` with other tensors: what it lacks goes into the last file that is left."""
    shards, metadata = layout_of(like, out)
    left = dict(tensors)
    placed: Shards = {
        file: [left.pop(info.name) for info in infos if info.name in left] for file, infos in shards.items()
    }
    placed[list(placed)[-1]] += left.values()
    return {file: infos for file, infos in placed.items() if infos}, metadata


@contextmanager
def output(
    out: Path,
    shards: Shards,
    metadata: dict[str, dict[str, str]],
    *,
    force: bool,
    copy_from: Path | None = None,
    own: Mapping[str, bytes] | None = None,
    texts: Mapping[str, str] | None = None,
) -> Iterator[Writer]:
    """A checkpoint that appears under ``out`` when the block ends, or not at all.

    Args:
        out: one file if it ends in ``.safetensors``, else a folder.
        shards, metadata: see :func:`layout_of`.
        copy_from: a folder whose other files are copied into the new one; see
            :func:`pydelta.checkpoint.folders.beside.copy_beside`.
        own: files of the model's own that take the place of copied ones, by their names below the folder.
        texts: files of the new folder that are not copied but written, by name, as they are when the block
            ends.
    """
    single = out.suffix == ".safetensors"
    with staged(out, force=force) as new:
        if single:
            shards, metadata = {new.name: shards[out.name]}, {new.name: metadata[out.name]}
        else:
            for file in shards:
                (new / file).parent.mkdir(parents=True, exist_ok=True)
            new.mkdir(exist_ok=True)
        with writing(new.parent if single else new, shards, metadata) as writer:
            yield writer
        if not single:
            _write_index(new, shards, copy_from)
            if copy_from is not None:
                copy_beside(copy_from, new)
            write_files(new, own or {})
            for name, text in (texts or {}).items():
                (new / name).write_text(text, encoding="utf-8")


def _write_index(folder: Path, shards: Shards, like: Path | None) -> None:
    """Not beside one file that lies alone in the folder it is like, under whatever name."""
    indexed = like is None or any(like.glob("*.safetensors.index*.json"))
    if SINGLE in shards or (len(shards) == 1 and not indexed):
        return
    index = {
        "metadata": {"total_size": sum(info.nbytes for tensors in shards.values() for info in tensors)},
        "weight_map": {info.name: file for file, tensors in shards.items() for info in tensors},
    }
    (folder / index_name(sorted(shards))).write_text(json.dumps(index, indent=2) + "\n")
