"""Threads that each carry one part of a tensor from the page cache through the arithmetic to the file.

One core works on one part, so nobody waits at a barrier when a core is taken, and reading, hashing,
arithmetic and writing overlap. Results do not depend on the number of threads.
"""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

import torch

T = TypeVar("T")

Job = Callable[[], int]
"""Does something and returns the number of bytes that this finishes, for the progress bar."""

_THREADS = 16  # memory is the limit long before


class Workers:
    """Up to 16 threads, at most as many as torch has, each of which runs torch on one core.

    A context manager: leaving it waits for all jobs, or drops them when the block failed.

    Args:
        advance: is told the bytes that have been done.
    """

    def __init__(self, advance: Callable[[int], object]) -> None:
        threads = torch.get_num_threads()
        count = min(threads, _THREADS)
        self._advance = advance
        self._capacity = 4 * count
        self._parts: deque[Future[int]] = deque()
        self._others: deque[Future[int]] = deque()
        self._pool = ThreadPoolExecutor(count, "pydelta", torch.set_num_threads, (1,))
        # A thread's number of threads is its own, but it also becomes that of threads not yet started: have
        # all of ours start here, then put it back.
        everyone = threading.Barrier(count + 1)
        for _ in range(count):
            self._pool.submit(everyone.wait)
        everyone.wait()
        torch.set_num_threads(threads)

    def submit_part(self, job: Job) -> None:
        """Starts a short job; waits when many are waiting.

        Raises:
            Exception: what an earlier job raised.
        """
        self._parts.append(self.submit(job))
        while len(self._parts) > self._capacity:
            self._collect(self._parts)
        while self._others and self._others[0].done():
            self._collect(self._others)

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Starts something whose result the caller waits for."""
        # What the caller has set by use_backend holds in the threads as well.
        return self._pool.submit(contextvars.copy_context().run, work)

    def submit_slow(self, job: Job) -> None:
        """Starts a job that may take long."""
        self._others.append(self.submit(job))

    def run_alone(self, job: Job) -> None:
        """Runs a job here, on all cores, after the earlier ones: for a tensor that is one big part."""
        self.finish()
        self._advance(job())

    def finish(self) -> None:
        """Waits for all jobs.

        Raises:
            Exception: what a job raised.
        """
        for jobs in (self._parts, self._others):
            while jobs:
                self._collect(jobs)

    def _collect(self, jobs: deque[Future[int]]) -> None:
        self._advance(jobs.popleft().result())

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.finish()
        finally:
            self._pool.shutdown(cancel_futures=True)
