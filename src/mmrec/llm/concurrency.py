"""Many calls under way at once, driven from plain code that need not know of event loops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

__all__ = ["Many", "event_loop"]

T = TypeVar("T")
K = TypeVar("K")


@contextmanager
def event_loop() -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """A loop; the yielded function runs a coroutine on it to its end, while others go on.

    The loop is on the caller's thread: on one of its own, the two would spend their time waiting for each
    other's turn. Where a loop runs on this thread already, as in a notebook, it cannot be helped.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        with asyncio.Runner() as runner:
            yield runner.run
        return
    from anyio.from_thread import start_blocking_portal

    async def awaited(one: Coroutine[Any, Any, T]) -> T:
        return await one

    with start_blocking_portal() as portal:
        yield lambda one: portal.call(awaited, one)


class Many(Generic[K, T]):
    """Coroutines on a loop, each with a key; so many of them under way, the others wait for a slot.

    Args:
        slots: how many are under way.
    """

    def __init__(self, slots: int) -> None:
        self._slots = asyncio.Semaphore(slots)
        self._tasks: dict[asyncio.Task[T], K] = {}
        self._done: list[asyncio.Task[T]] = []
        self._more = asyncio.Event()

    def __len__(self) -> int:
        """How many are waiting, under way, or done and not fetched."""
        return len(self._tasks)

    async def next(
        self, new: list[tuple[K, Callable[[], Coroutine[Any, Any, T]]]]
    ) -> list[tuple[K, asyncio.Task[T]]]:
        """Start some more, and wait until some are done.

        Returns:
            What is done, each with its key: tasks, whose results are values or errors.
        """
        for key, one in new:
            task = asyncio.create_task(self._in_turn(one))
            self._tasks[task] = key
            task.add_done_callback(self._note)
        await self._more.wait()
        self._more.clear()
        done, self._done = self._done, []
        return [(self._tasks.pop(task), task) for task in done]

    async def cancel(self) -> None:
        """End all that are under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _in_turn(self, one: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async with self._slots:
            return await one()

    def _note(self, task: asyncio.Task[T]) -> None:
        self._done.append(task)
        self._more.set()
