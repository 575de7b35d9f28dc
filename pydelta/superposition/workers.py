"""Threads that each carry one part of a tensor from the page cache through the arithmetic to the file.

One core works on one part, so nobody waits at a barrier when a core is taken, and reading, hashing,
arithmetic and writing overlap. Results do not depend on the number of threads.
"""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import torch

Job = Callable[[], int]
"""Does something and returns the number of bytes that this finishes, for the progress bar."""

MAPPED = 48 << 20
"""Tensors of so many bytes may be in work together; a larger one is alone."""

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
        self._tensors: deque[tuple[int, list[Future[int]]]] = deque()
        self._others: deque[Future[int]] = deque()
        self._pool = ThreadPoolExecutor(count, "pydelta", torch.set_num_threads, (1,))
        # A thread's number of threads is its own, but it also becomes that of threads not yet started: have
        # all of ours start here, then put it back.
        everyone = threading.Barrier(count + 1)
        for _ in range(count):
            self._pool.submit(everyone.wait)
        everyone.wait()
        torch.set_num_threads(threads)

    def make_room(self, nbytes: int) -> None:
        """Waits until tensors of so many bytes may be mapped.

        Raises:
            Exception: what an earlier job raised.
        """
        while self._tensors and nbytes + sum(size for size, _ in self._tensors) > MAPPED:
            self._collect()

    def tensor(self, nbytes: int, jobs: Iterable[Job]) -> None:
        """Starts the jobs that hold these mapped tensors."""
        self._tensors.append((nbytes, [self._submit(job) for job in jobs]))

    def aside(self, job: Job) -> None:
        """Starts a job that holds no tensor."""
        self._others.append(self._submit(job))

    def alone(self, job: Job) -> None:
        """Runs a job here, on all cores, after the earlier ones: for a tensor that is one big part."""
        self.finish()
        self._advance(job())

    def finish(self) -> None:
        """Waits for all jobs.

        Raises:
            Exception: what a job raised.
        """
        while self._tensors:
            self._collect()
        while self._others:
            self._advance(self._others.popleft().result())

    def _submit(self, job: Job) -> Future[int]:
        # What the caller has set by use_backend holds in the threads as well.
        return self._pool.submit(contextvars.copy_context().run, job)

    def _collect(self) -> None:
        for future in self._tensors.popleft()[1]:
            self._advance(future.result())
        while self._others and self._others[0].done():
            self._advance(self._others.popleft().result())

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
