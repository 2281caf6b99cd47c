"""Models that requests share: few wait for them at a time, and none for long."""

import threading

from mmrec.errors import MmrecError
from mmrec.features.dataset import Models
from mmrec.llm.openai_client import ChatClient

_WAITING = 16  # requests, with the one whose turn it is; fewer than the threads that answer
_TURN = 20.0  # seconds that a request waits for its turn
_CALL = 20.0  # seconds that a language model has for an answer


class BusyError(MmrecError):
    """Too many requests wait for a model."""


class ModelCalls:
    """A context in which a request may use models, when its turn has come; a BusyError if that is not soon.

    A call of a language model that fails for the moment is a ModelError: what it would have said is
    not replaced by nothing.
    """

    def __init__(self, models: Models) -> None:
        self._models = models
        self._places = threading.BoundedSemaphore(_WAITING)
        self._turn = threading.Lock()
        models.annotator.insists = True
        for client in (models.annotator.model, getattr(models.captioner, "client", None)):
            if isinstance(client, ChatClient):
                client.max_retries, client.timeout = 1, _CALL

    def __enter__(self) -> Models:
        if not self._places.acquire(blocking=False):
            raise BusyError("too many requests wait for a language or vision model")
        if not self._turn.acquire(timeout=_TURN):
            self._places.release()
            raise BusyError("a language or vision model does not answer in time")
        return self._models

    def __exit__(self, *_: object) -> None:
        self._turn.release()
        self._places.release()
