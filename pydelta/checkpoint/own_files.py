"""The small files of a fine-tune beside its weights: config, chat template, tokenizer. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydelta.checkpoint.reader import Checkpoint

_KINDS = (".json", ".jinja", ".model", ".tiktoken", ".txt", ".vocab", ".bpe", ".codes", ".py")
_NOT = (
    "trainer_state.json",
    "all_results.json",
    "train_results.json",
    "eval_results.json",
    "requirements.txt",
    ".index.json",
)
_LARGEST, _DEPTH = 64 << 20, 3


def own_files(base: Checkpoint, model: Checkpoint) -> dict[str, bytes]:
    """Name below the folder -> content, of the files of a fine-tune that its base lacks or has otherwise.

    Files of a run (the trainer's state, results), indices of shards and what is larger than 64 MiB stay out.
    A file that the fine-tune lacks is not named: it is the base's.

    Raises:
        OSError: a file cannot be read.
    """
    if model.folder is None:
        return {}
    files = {}
    for path in _small(model.folder, _DEPTH):
        name, content = path.relative_to(model.folder).as_posix(), path.read_bytes()
        theirs = None if base.folder is None else base.folder / name
        if theirs is None or not theirs.is_file() or theirs.read_bytes() != content:
            files[name] = content
    return files


def plain_path(name: str) -> bool:
    """Whether a file's name leads to below its folder, and to nothing hidden there."""
    parts = name.split("/")
    return name.isprintable() and "\\" not in name and all(x and not x.startswith(".") for x in parts)


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes files below a folder, over those that lie there."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_synced(path, content)


def write_synced(path: Path, content: bytes) -> None:
    """Writes a small file to the disk."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _small(folder: Path, depth: int) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.name.isprintable() or "\\" in path.name:
            continue
        if path.is_dir() and not path.is_symlink() and depth > 1 and not path.name.startswith("checkpoint-"):
            yield from _small(path, depth - 1)
        elif _is_own(path):
            yield path


def _is_own(path: Path) -> bool:
    of_kind = path.is_file() and path.name.endswith(_KINDS) and not path.name.endswith(_NOT)
    return of_kind and path.stat().st_size <= _LARGEST
