"""Where a model is that somebody names: a path, or one of the Hugging Face hub in the cache. No torch."""

from __future__ import annotations

import os
import re
from pathlib import Path

_REPOSITORY = "models--"
_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)


def resolve(path: str | os.PathLike[str]) -> Path:
    """The folder or file that is meant.

    A path that exists is itself, but a repository of the hub's cache (``models--ORG--NAME``) is its snapshot
    of ``main``. ``ORG/NAME``, where no such path exists, is the snapshot in the local cache, if there is one.
    Nothing is downloaded.

    Returns:
        A path, which does not exist where nothing was found.
    """
    literal, text = Path(path), os.fspath(path)
    if literal.exists():
        return _snapshot(literal) or literal
    if not _NAME.fullmatch(text):
        return literal
    return _snapshot(hub_cache() / (_REPOSITORY + text.replace("/", "--"))) or literal


def name_of(path: str | os.PathLike[str]) -> str:
    """A model's name where none is given: the last part of its path, or its repository's for a snapshot."""
    real = Path(os.path.abspath(path))
    for folder in (real, *real.parents[:1]):  # a folder, or a file in it
        if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith(_REPOSITORY):
            return folder.parent.parent.name.rpartition("--")[2]
    if real.name.startswith(_REPOSITORY) and (real / "snapshots").is_dir():
        return real.name.rpartition("--")[2]
    return Path(path).name or Path(path).resolve().name


def hub_cache() -> Path:
    """Where the hub's tools keep what they have downloaded."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if value := os.environ.get(variable):
            return Path(value).expanduser()
    if value := os.environ.get("HF_HOME"):
        return Path(value).expanduser() / "hub"
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "huggingface" / "hub"


def not_found(path: str | os.PathLike[str]) -> FileNotFoundError:
    """Says what was looked for, and where."""
    text = os.fspath(path)
    cached = f", nor a model in {hub_cache()}" if _NAME.fullmatch(text) and "/" in text else ""
    return FileNotFoundError(f"{text}: no such file or folder{cached} (models are not downloaded)")


def _snapshot(repository: Path) -> Path | None:
    """The snapshot of ``main`` in a repository of the cache, or its only one."""
    snapshots = repository / "snapshots"
    if not repository.name.startswith(_REPOSITORY) or not snapshots.is_dir():
        return None
    main = repository / "refs" / "main"
    if main.is_file() and (commit := main.read_text(encoding="utf-8").strip()):
        named = snapshots / commit
        if os.path.basename(commit) == commit and named.is_dir():
            return named
    folders = [folder for folder in snapshots.iterdir() if folder.is_dir()]
    return folders[0] if len(folders) == 1 else None
