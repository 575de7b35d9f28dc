"""Outputs appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

Pathlike = str | os.PathLike[str]

_MARKS = (
    "store.json",
    "config.json",
    "adapter_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
)


def check_output(path: Pathlike, *, force: bool, inputs: Sequence[Pathlike] = ()) -> Path:
    """The output's path, if it may be written.

    Raises:
        FileNotFoundError: its folder does not exist.
        ValueError: it exists and ``force`` is false, it is a folder that pydelta would not have written, or
            it is, holds or lies in an input.
    """
    out = Path(path)
    parent = Path(os.path.abspath(out)).parent
    if not parent.is_dir():
        raise FileNotFoundError(f"{out}: its folder {parent} does not exist")
    here = Path(os.path.realpath(out))
    for source in inputs:
        there = Path(os.path.realpath(source))
        if here == there or here in there.parents or there in here.parents:
            raise ValueError(f"{out}: the output must be apart from the input {source}")
    if os.path.lexists(out):
        if not force:
            raise ValueError(f"{out}: already exists; --force (force=True) replaces it")
        if out.is_dir() and any(out.iterdir()) and not any((out / mark).is_file() for mark in _MARKS):
            raise ValueError(f"{out}: a folder that is neither a checkpoint nor a store is not replaced")
    return out


@contextmanager
def staged(out: Path, *, force: bool) -> Iterator[Path]:
    """A temporary sibling of ``out``, which the block makes as a file or a folder.

    It takes the name ``out`` when the block ends, and is removed when the block fails.

    Raises:
        ValueError: ``out`` exists and ``force`` is false.
        OSError: the renaming failed.
    """
    token = f"{secrets.token_hex(4)}.tmp"
    new, old = out.with_name(f".{out.name}.new-{token}"), out.with_name(f".{out.name}.old-{token}")
    try:
        yield new
        _sync_all(new)
        _swap(new, out, old, force)
    except BaseException:
        remove(new)
        raise
    remove(old)


def remove(path: Path) -> None:
    """Removes a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _swap(new: Path, out: Path, old: Path, force: bool) -> None:
    if not os.path.lexists(out):
        os.rename(new, out)
    elif not force:
        raise ValueError(f"{out}: already exists; --force (force=True) replaces it")
    elif new.is_file() and not out.is_dir():
        os.replace(new, out)
    else:
        os.rename(out, old)
        try:
            os.rename(new, out)
        except BaseException:
            os.rename(old, out)
            raise
    sync_folder(out.parent)


def _sync_all(path: Path) -> None:
    if path.is_dir():
        for folder, _, _ in os.walk(path):
            sync_folder(Path(folder))


def sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
