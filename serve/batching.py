"""Adaptive micro-batching: an idle model answers at once, a busy one answers many requests in one call.

Ray Serve's own `@serve.batch` is not used: a bad or cancelled request can hang its whole queue (ray#66140, #50046).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import accumulate
from typing import Generic, TypeVar

from serve.errors import HttpError, overloaded

Row = TypeVar("Row")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Limits:
    """A batch is closed at `max_rows`, or `wait_s` after the model became free; `queue_rows` may wait; the rest is shed with 503."""

    max_rows: int = 256
    wait_s: float = 0.002
    queue_rows: int = 4096
    deadline_s: float = 10.0


class _Job(Generic[Row, Answer]):
    __slots__ = ("answers", "rows", "timer")

    def __init__(self, rows: Sequence[Row], answers: asyncio.Future[Sequence[Answer]]) -> None:
        self.rows, self.answers = rows, answers
        self.timer: asyncio.TimerHandle | None = None


class Batcher(Generic[Row, Answer]):
    """Puts the rows of several requests into one call of `run`, which happens in `worker` (one thread), one call at a time.

    `run` returns one answer a row. If it fails, every request of the batch is tried alone, so that only the guilty one fails.
    """

    def __init__(self, run: Callable[[Sequence[Row]], Sequence[Answer]], worker: Executor, limits: Limits | None = None) -> None:
        self._run, self._worker, self.limits = run, worker, limits or Limits()
        self._queue: deque[_Job[Row, Answer]] = deque()
        self._waiting_rows = 0
        self._last_jobs = 1
        self._task: asyncio.Task[None] | None = None
        self._enough: asyncio.Future[None] | None = None  # waited for while a batch is gathered

    async def submit(self, rows: Sequence[Row], deadline_s: float | None = None) -> Sequence[Answer]:
        """The answers for `rows`, in order. Raises HttpError 503 when the queue is full and 504 at the deadline."""
        if self._waiting_rows and self._waiting_rows + len(rows) > self.limits.queue_rows:
            raise overloaded("the queue of this model is full")
        loop = asyncio.get_running_loop()
        job = _Job[Row, Answer](rows, loop.create_future())
        job.timer = loop.call_later(self.limits.deadline_s if deadline_s is None else deadline_s, _expire, job.answers)
        self._queue.append(job)
        self._waiting_rows += len(rows)
        if self._enough and not self._enough.done() and self._is_full():
            self._enough.set_result(None)
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._work())
        try:
            return await job.answers
        finally:
            job.timer.cancel()

    @property
    def waiting_rows(self) -> int:
        return self._waiting_rows

    async def _work(self) -> None:
        """Runs while there is work, then ends: an idle batcher is no task at all, so nothing can be stuck in it."""
        loop = asyncio.get_running_loop()
        while self._queue:
            await self._gather(loop)
            if jobs := self._take():
                self._last_jobs = len(jobs)
                await self._answer(loop, jobs)
        self._last_jobs = 1

    async def _gather(self, loop: asyncio.AbstractEventLoop) -> None:
        """Under load, give as many requests as last time a moment to arrive."""
        if self._is_full():
            return
        self._enough = loop.create_future()
        timer = loop.call_later(self.limits.wait_s, _settle, self._enough)
        try:
            await self._enough
        finally:
            timer.cancel()
            self._enough = None

    def _is_full(self) -> bool:
        # From four on, half as many more are waited for: else batches would never grow, since each wait ends at the last size.
        wanted = self._last_jobs if self._last_jobs < 4 else self._last_jobs * 3 // 2
        return len(self._queue) >= wanted or self._waiting_rows >= self.limits.max_rows

    def _take(self) -> list[_Job[Row, Answer]]:
        """The next requests, without the cancelled and the expired; one larger than a batch goes alone."""
        jobs: list[_Job[Row, Answer]] = []
        count = 0
        while self._queue:
            job = self._queue[0]
            if not job.answers.done():
                if jobs and count + len(job.rows) > self.limits.max_rows:
                    break
                jobs.append(job)
                count += len(job.rows)
            self._queue.popleft()
            self._waiting_rows -= len(job.rows)
        return jobs

    async def _answer(self, loop: asyncio.AbstractEventLoop, jobs: list[_Job[Row, Answer]]) -> None:
        for job, outcome in zip(jobs, await loop.run_in_executor(self._worker, self._outcomes, jobs), strict=True):
            if isinstance(outcome, Exception):
                _fail(job.answers, outcome)
            elif not job.answers.done():
                job.answers.set_result(outcome)

    def _outcomes(self, jobs: list[_Job[Row, Answer]]) -> list[Sequence[Answer] | Exception]:
        """In the worker: all requests in one call, or each alone if that call failed."""
        rows = jobs[0].rows if len(jobs) == 1 else [row for job in jobs for row in job.rows]
        try:
            answers = self._checked(rows)
        except Exception as error:
            return [error] if len(jobs) == 1 else [self._outcomes([job])[0] for job in jobs]
        ends = list(accumulate(len(job.rows) for job in jobs))
        return [answers[end - len(job.rows) : end] for job, end in zip(jobs, ends, strict=True)]

    def _checked(self, rows: Sequence[Row]) -> Sequence[Answer]:
        answers = self._run(rows)
        if len(answers) != len(rows):
            raise RuntimeError(f"the model gave {len(answers)} answers for {len(rows)} rows")
        return answers


def _settle(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _expire(answers: asyncio.Future[Sequence[Answer]]) -> None:
    _fail(answers, HttpError(504, "the model did not answer in time", next="try again, with fewer rows"))


def _fail(answers: asyncio.Future[Sequence[Answer]], error: Exception) -> None:
    if not answers.done():
        answers.set_exception(error)
