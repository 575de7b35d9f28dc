"""``log.jsonl``, one line per event, and the locks of a store."""

from __future__ import annotations

import datetime
import errno
import fcntl
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydelta.core.version import __version__
from pydelta.superposition.format.manifest import LOG

_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EROFS)
"""What ``flock`` says on file systems that have no locks: some networks', some read-only mounts."""


def log_line(event: str, **details: Any) -> str:
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return json.dumps({"time": now, "pydelta": __version__, "event": event, **details}) + "\n"


def write_log(store: Path, event: str, **details: Any) -> None:
    """Adds one line; the caller holds the store's lock."""
    with open(store / LOG, "a", encoding="utf-8") as file:
        file.write(log_line(event, **details))


def append_log(store: Path, event: str, **details: Any) -> None:
    """Adds one line, under the store's lock; a store that cannot be written to or locked stays as it is."""
    try:
        with locked(store):
            write_log(store, event, **details)
    except OSError as error:
        if error.errno not in (*_READ_ONLY, *_NO_LOCKS):
            raise


@contextmanager
def locked(store: Path, *, shared: bool = False) -> Iterator[None]:
    """Holds the advisory lock on the store's folder for a moment: many who open it, or one who changes it.

    Readers go on without a lock where the file system has none, with a warning: files are named by their
    content, so what a change could spoil is a reading that fails, not one that is wrong.
    """
    folder = os.open(store, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        except OSError as error:
            if not shared or error.errno not in _NO_LOCKS:
                raise
            warnings.warn(f"{store}: read without a lock: {error.strerror}", stacklevel=4)
        yield
    finally:
        os.close(folder)


@contextmanager
def writing_alone(store: Path) -> Iterator[None]:
    """Holds the lock of those who change a store, on its log, for as long as they work; readers go on.

    Raises:
        OSError: the store cannot be written to, or is gone.
    """
    while True:
        with open(store / LOG, "a", encoding="utf-8") as log:
            fcntl.flock(log, fcntl.LOCK_EX)
            # The folder may have been replaced by another while we waited.
            if os.path.samestat(os.fstat(log.fileno()), os.stat(store / LOG)):
                yield
                return
