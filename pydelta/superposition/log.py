"""``log.jsonl``, one line per event, and the lock of a store."""

from __future__ import annotations

import datetime
import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydelta import __version__
from pydelta.superposition.manifest import LOG

_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


def log_line(event: str, **details: Any) -> str:
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return json.dumps({"time": now, "pydelta": __version__, "event": event, **details}) + "\n"


def append_log(store: Path, event: str, **details: Any) -> None:
    """Adds one line, under the store's lock; a store that cannot be written to stays as it is."""
    try:
        with locked(store), open(store / LOG, "a", encoding="utf-8") as file:
            file.write(log_line(event, **details))
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise


@contextmanager
def locked(store: Path, *, shared: bool = False) -> Iterator[None]:
    """Holds the advisory lock on the store's folder: many readers or one writer."""
    folder = os.open(store, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
