"""The small files of a fine-tune beside its weights: config, chat template, tokenizer. No torch."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Mapping
from pathlib import Path

from pydelta.checkpoint.folders.beside import beside, is_weights
from pydelta.checkpoint.reader import Checkpoint

_KINDS = (".json", ".jinja", ".model", ".tiktoken", ".txt", ".vocab", ".bpe", ".codes", ".py")
_OF_A_RUN = (
    "trainer_state.json",
    "all_results.json",
    "train_results.json",
    "eval_results.json",
    "requirements.txt",
)


def own_files(base: Checkpoint, model: Checkpoint) -> dict[str, bytes]:
    """Name below the folder -> content, of the files of a fine-tune that its base lacks or has otherwise.

    Files of a run (the trainer's state, results), indices of shards and what :func:`beside` leaves out stay
    out. A file that the fine-tune lacks is not named: it is the base's.

    Raises:
        OSError: a file cannot be read.
    """
    if model.folder is None:
        return {}
    theirs = {} if base.folder is None else beside(base.folder)
    return {
        name: model.small_file(path)
        for name, path in beside(model.folder).items()
        if _kept(name) and not (name in theirs and filecmp.cmp(path, theirs[name], shallow=False))
    }


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


def _kept(name: str) -> bool:
    leaf = name.rpartition("/")[2]
    return plain_path(name) and leaf.endswith(_KINDS) and not is_weights(name) and leaf not in _OF_A_RUN
