"""The micro-batcher: nothing a request does may harm another."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from serve.batching import Batcher, Limits
from serve.errors import HttpError


class Doubler:
    """Doubles numbers, remembers its batches, fails on "bad", and can be held up."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.free = threading.Event()
        self.free.set()

    def __call__(self, rows: Sequence[Any]) -> list[Any]:
        self.batches.append(list(rows))
        self.free.wait(10)
        if "bad" in rows:
            raise ValueError("bad row")
        return [row * 2 for row in rows]


def with_batcher(test: Callable[[Batcher[Any, Any], Doubler], Coroutine[Any, Any, None]], **limits: Any) -> None:
    async def run() -> None:
        model = Doubler()
        with ThreadPoolExecutor(1) as worker:
            batcher = Batcher(model, worker, Limits(**limits))
            try:
                await asyncio.wait_for(test(batcher, model), 10)
            finally:
                model.free.set()
            await asyncio.sleep(0.01)
            assert batcher.waiting_rows == 0

    asyncio.run(run())


async def started(batcher: Batcher[Any, Any], model: Doubler, rows: list[Any]) -> asyncio.Task[Any]:
    """A request that is in the model right now."""
    seen = len(model.batches)
    task = asyncio.create_task(batcher.submit(rows))
    while len(model.batches) == seen:
        await asyncio.sleep(0.001)
    return task


def test_an_idle_batcher_answers_at_once() -> None:
    async def test(batcher: Batcher[Any, Any], model: Doubler) -> None:
        begin = time.perf_counter()
        assert await batcher.submit([1, 2]) == [2, 4]
        assert time.perf_counter() - begin < 1.0  # the wait is 5 s

    with_batcher(test, wait_s=5.0)


def test_requests_that_wait_share_a_call_and_get_their_own_answers() -> None:
    async def test(batcher: Batcher[Any, Any], model: Doubler) -> None:
        model.free.clear()
        first = await started(batcher, model, [0])
        rest = [asyncio.create_task(batcher.submit([i, i + 100])) for i in range(1, 20)]
        await asyncio.sleep(0.01)
        model.free.set()
        assert await first == [0]
        assert await asyncio.gather(*rest) == [[2 * i, 2 * i + 200] for i in range(1, 20)]
        assert [len(batch) for batch in model.batches] == [1, 38]

    with_batcher(test)


def test_a_batch_never_exceeds_its_rows_but_a_large_request_stays_whole() -> None:
    async def test(batcher: Batcher[Any, Any], model: Doubler) -> None:
        model.free.clear()
        first = await started(batcher, model, [0])
        rest = [asyncio.create_task(batcher.submit([i] * size)) for i, size in enumerate((3, 4, 2, 25, 1))]
        await asyncio.sleep(0.01)
        model.free.set()
        await asyncio.gather(first, *rest)
        assert [len(batch) for batch in model.batches] == [1, 7, 2, 25, 1]

    with_batcher(test, max_rows=8, queue_rows=100)


def test_one_bad_request_fails_alone() -> None:
    async def test(batcher: Batcher[Any, Any], model: Doubler) -> None:
        model.free.clear()
        first = await started(batcher, model, [0])
        rest = [asyncio.create_task(batcher.submit([row])) for row in (1, "bad", 3)]
        await asyncio.sleep(0.01)
        model.free.set()
        results = await asyncio.gather(first, *rest, return_exceptions=True)
        assert results[0] == [0] and results[1] == [2] and results[3] == [6]
        assert isinstance(results[2], ValueError)

    with_batcher(test)


def test_cancelled_rows_never_reach_the_model() -> None:
    async def test(batcher: Batcher[Any, Any], model: Doubler) -> None:
        model.free.clear()
        first = await started(batcher, model, [0])
        gone, stays = (asyncio.create_task(batcher.submit([row])) for row in (1, 2))
        await asyncio.sleep(0.01)
        gone.cancel()
        first.cancel()  # its rows are in the model already: the answer is dropped, the queue goes on
        await asyncio.sleep(0.01)
        model.free.set()
        assert await stays == [4]
        assert model.batches == [[0], [2]]

    with_batcher(test)


def test_a_full_queue_sheds_with_503_and_retry_after() -> None:
    async def test(batcher: Batcher[Any, Any], model: Doubler) -> None:
        model.free.clear()
        first = await started(batcher, model, [0])
        waiting = asyncio.create_task(batcher.submit([1] * 9))
        await asyncio.sleep(0.01)
        with pytest.raises(HttpError, match="queue") as caught:
            await batcher.submit([2, 3])
        assert caught.value.status == 503 and caught.value.headers["retry-after"]
        assert batcher.waiting_rows == 9
        model.free.set()
        await asyncio.gather(first, waiting)

    with_batcher(test, queue_rows=10)


def test_a_request_larger_than_the_queue_is_served_when_nobody_waits() -> None:
    async def test(batcher: Batcher[Any, Any], model: Doubler) -> None:
        assert len(await batcher.submit(list(range(100)))) == 100

    with_batcher(test, queue_rows=10)


def test_deadline_gives_504_and_the_event_loop_stays_live() -> None:
    async def test(batcher: Batcher[Any, Any], model: Doubler) -> None:
        model.free.clear()
        first = await started(batcher, model, [0])
        begin = time.perf_counter()
        with pytest.raises(HttpError) as caught:
            await batcher.submit([1], deadline_s=0.05)
        assert caught.value.status == 504 and time.perf_counter() - begin < 1.0
        model.free.set()
        assert await first == [0]
        assert await batcher.submit([5]) == [10]
        assert [1] not in model.batches

    with_batcher(test)


def test_a_model_that_loses_rows_is_an_error_and_not_a_mix_up() -> None:
    async def run() -> None:
        with ThreadPoolExecutor(1) as worker:
            batcher: Batcher[int, int] = Batcher(lambda rows: list(rows)[1:], worker)
            with pytest.raises(RuntimeError, match="0 answers for 1 rows"):
                await batcher.submit([1])

    asyncio.run(run())


def test_thousands_of_bad_slow_and_cancelled_requests_leave_no_stuck_one() -> None:
    async def test(batcher: Batcher[Any, Any], model: Doubler) -> None:
        chance = random.Random(7)

        async def client(number: int) -> str:
            rows = ["bad" if chance.random() < 0.1 else number] * chance.randint(1, 5)
            await asyncio.sleep(chance.random() * 0.2)
            task = asyncio.create_task(batcher.submit(rows, deadline_s=5))
            if chance.random() < 0.2:
                await asyncio.sleep(chance.random() * 0.01)
                task.cancel()
            try:
                assert await task == [number * 2] * len(rows)
            except ValueError:
                assert "bad" in rows
                return "bad"
            except asyncio.CancelledError:
                return "cancelled"
            return "answered"

        outcomes = await asyncio.gather(*(client(number) for number in range(2000)))
        assert {"answered", "bad", "cancelled"} == set(outcomes)
        assert max(len(batch) for batch in model.batches) > 5

    with_batcher(test, queue_rows=100_000)
