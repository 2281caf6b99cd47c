"""Follows the database of live entries in a thread, so that no request waits for a database that hangs."""

import logging
import threading
from collections.abc import Callable

from mmrec.errors import MmrecError

log = logging.getLogger("mmrec.service")

_INTERVAL = 0.5  # seconds between reads that nobody asked for
_PATIENCE = 0.25  # seconds that a request waits for what others have stored


class LiveFeed:
    """Calls `read` again and again: whenever a request asks for it, and else every half a second.

    A request sees everything that was stored before it came, whichever process stored it, unless the
    database is slow or down; then requests go on without waiting until it has answered again.
    """

    def __init__(self, read: Callable[[], None]) -> None:
        self._read = read
        self._state = threading.Condition()
        # Reads are numbered: the last that a request asked for, has begun, and has ended.
        self._asked = self._begun = self._ended = 0
        self._answers, self._stopped = True, False
        self._thread = threading.Thread(target=self._follow, name="live feed", daemon=True)

    def start(self) -> None:
        """Start following."""
        self._thread.start()

    def stop(self) -> None:
        """Stop following; a read in progress is waited for."""
        with self._state:
            self._stopped = True
            self._state.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def catch_up(self, patience: float = _PATIENCE, *, insist: bool = False) -> bool:
        """See that all that was stored before is known; False if that is not sure.

        `insist` waits `patience` seconds also for a database that has not answered of late.
        """
        with self._state:
            if self._stopped or not (self._answers or insist):
                return False
            # The read in progress may have begun too early.
            wanted = self._begun + 1
            self._asked = max(self._asked, wanted)
            self._state.notify_all()

            def is_done() -> bool:
                return self._ended >= wanted or not (self._answers or insist)

            if not self._state.wait_for(is_done, patience):
                self._answers = False  # others need not find that out, too
            return self._answers

    def _follow(self) -> None:
        while True:
            with self._state:
                self._state.wait_for(lambda: self._asked > self._begun or self._stopped, _INTERVAL)
                if self._stopped:
                    return
                self._begun = number = max(self._asked, self._begun)
            answers = self._try_to_read()
            with self._state:
                self._answers, self._ended = answers, number
                self._state.notify_all()
            if not answers:
                threading.Event().wait(_INTERVAL)

    def _try_to_read(self) -> bool:
        try:
            self._read()
        except MmrecError as error:
            if self._answers:
                log.error("live reviews of other processes are not read: %s", error)
            return False
        except Exception:
            log.exception("live reviews of other processes are not read")
            return False
        return True
