"""A progress bar on a terminal, nothing in a pipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(label: str, nbytes: int, show: bool) -> Iterator[Callable[[int], object]]:
    """Gives a function to call with the number of bytes that have been done.

    Args:
        nbytes: of the whole work.
        show: false draws nothing; true draws on stderr if that is a terminal.
    """
    if not show:
        yield lambda done: None
        return
    from tqdm import tqdm

    with tqdm(total=nbytes, desc=label, unit="B", unit_scale=True, disable=None, leave=False) as bar:
        yield bar.update
