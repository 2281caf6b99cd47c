"""Limits of connections, so that clients who send or read nothing keep no others out."""

import asyncio
import logging
import re
import resource
import time
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

_OTHER_FILES = 64  # for databases, photos and modules
log = logging.getLogger("mmrec.service")


def connection_limits(most: int) -> tuple[int, int]:
    """How many connections a process may keep, and how many may be accepted at once.

    They are as many as it may open files for; the system's limit of these is raised first.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    backlog = 128
    # Files of connections that are refused are open for some rounds of the event loop.
    wanted = most + 4 * backlog + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return most, backlog
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    backlog = min(backlog, soft // 10)
    return max(min(most, soft - 4 * backlog - _OTHER_FILES), 8), backlog


class LimitedProtocol(H11Protocol):
    """A connection that is closed where its client takes some `seconds` to send headers or to read.

    Where there are more than `most`, one that waits for a request is closed: the oldest of those that
    have never sent one, else that which has waited longest.
    """

    def __init__(self, *uvicorn: Any, seconds: float, most: int, **options: Any) -> None:
        super().__init__(*uvicorn, **options)
        self._seconds, self._most = seconds, most
        self._since = time.monotonic()  # when it began to wait for a request
        self._reading: asyncio.TimerHandle | None = None  # until headers must be here
        self._writing: asyncio.TimerHandle | None = None  # until the client must have read on

    @property
    def _is_waiting(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._reading = self.loop.call_later(self._seconds, self._stop_waiting)
        if len(self.connections) > self._most:
            log.warning("there are more than %d connections; the oldest is closed", self._most)
            limited = [other for other in self.connections if isinstance(other, LimitedProtocol)]
            waiting = [other for other in limited if other._is_waiting]  # at least this one
            oldest = min(waiting, key=lambda other: (other.cycle is not None, other._since))
            self.connections.discard(oldest)  # `connection_lost` comes later
            oldest.transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._is_waiting:
            self._stop_timer(self._reading)
            self._reading = None
        elif self._reading is None:
            self._reading = self.loop.call_later(self._seconds, self._stop_waiting)

    def on_response_complete(self) -> None:
        self._since = time.monotonic()
        super().on_response_complete()
        self._watch_writing()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for timer in (self._reading, self._writing):
            self._stop_timer(timer)

    def _stop_waiting(self) -> None:
        self._reading = None
        if self._is_waiting:
            self.transport.abort()

    def _watch_writing(self) -> None:
        """Close the connection unless the client reads a kilobyte a second of what waits for it."""
        size = self.transport.get_write_buffer_size()
        if size and self._writing is None:
            before = self.cycle, size - 1000 * self._seconds
            self._writing = self.loop.call_later(self._seconds, self._check_writing, *before)

    def _check_writing(self, cycle: object, enough: float) -> None:
        self._writing = None
        if self.cycle is cycle and self.transport.get_write_buffer_size() > max(enough, 0):
            self.transport.abort()
        else:
            self._watch_writing()

    @staticmethod
    def _stop_timer(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()


class OncePerSecond(logging.Filter):
    """Lets one line a second through of each kind, and says with the next how many were left out.

    A kind is a message, without numbers and what is put in, and its kind of error; or `record.kind`.
    """

    max_kinds = 1000

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[object, tuple[float, int]] = {}  # by kind: last line, left out since

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is written; True for those whose `record.kind` is None."""
        error = record.exc_info[0] if record.exc_info else None
        message = re.sub(r"\d+", "0", str(record.msg).partition("\n")[0])
        kind = getattr(record, "kind", (record.name, message, error))
        if kind is None:
            return True
        now = time.monotonic()
        last, left_out = self._seen.pop(kind, (-1.0, 0))
        if now - last < 1:
            self._seen[kind] = last, left_out + 1
            return False
        if left_out:
            record.msg, record.args = f"{record.getMessage()} (and {left_out} more like it)", None
        self._seen[kind] = now, 0
        if len(self._seen) > self.max_kinds:
            self._seen.pop(next(iter(self._seen)))
        return True
