"""Requests that arrive close together become one batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Request = TypeVar("Request")
Answer = TypeVar("Answer")


class QueueFullError(Exception):
    """More requests wait than there is room for."""


class Batcher(Generic[Request, Answer]):
    """Calls ``run`` with a list of requests, one call at a time, in a thread of its own.

    Args:
        run: gives one answer for each request, in order.
        max_batch: requests in a call, at most.
        max_wait: seconds that the first request of a batch waits for others.
        max_queue: requests that may wait for a call.
    """

    def __init__(
        self,
        run: Callable[[list[Request]], Sequence[Answer]],
        *,
        max_batch: int = 32,
        max_wait: float = 0.005,
        max_queue: int = 1024,
    ) -> None:
        self._run, self._max_batch, self._max_wait = run, max_batch, max_wait
        self._queue: asyncio.Queue[tuple[Request, asyncio.Future[Answer]]] = asyncio.Queue(max_queue)
        self._thread = ThreadPoolExecutor(1)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Batcher[Request, Answer]:
        self._task = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._thread.shutdown()

    async def ask(self, request: Request) -> Answer:
        """One request's answer; what ``run`` raises is raised here, for every request of the batch.

        Raises:
            QueueFullError: too many requests wait.
        """
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait((request, future))
        except asyncio.QueueFull:
            raise QueueFullError from None
        return await future

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = await self._gather()
            requests, futures = [list(part) for part in zip(*batch, strict=True)]
            try:
                answers = await loop.run_in_executor(self._thread, self._run, requests)
            except Exception as error:
                for future in futures:
                    if not future.done():
                        future.set_exception(error)
                continue
            for future, answer in zip(futures, answers, strict=True):
                if not future.done():  # a client may have gone
                    future.set_result(answer)

    async def _gather(self) -> list[tuple[Request, asyncio.Future[Answer]]]:
        loop = asyncio.get_running_loop()
        batch = [await self._queue.get()]
        end = loop.time() + self._max_wait
        while len(batch) < self._max_batch:
            try:
                batch.append(await asyncio.wait_for(self._queue.get(), end - loop.time()))
            except asyncio.TimeoutError:
                break
        return batch
