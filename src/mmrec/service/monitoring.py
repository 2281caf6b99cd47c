"""Monitoring: Prometheus metrics, and a line in the log for every request.

Both name routes and not paths, so that ids and texts of users stay out of them.
"""

from __future__ import annotations

import json
import logging

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry
from prometheus_fastapi_instrumentator import Instrumentator, metrics

from mmrec.service.errors import error_responses

__all__ = ["add_monitoring"]

log = logging.getLogger("mmrec.service")


def add_monitoring(app: FastAPI) -> None:
    """Count, time and log all requests to an application, and add the endpoint `/metrics`.

    Call it after all other middleware has been added, so that refused requests are counted too.
    """
    registry = CollectorRegistry()  # the global one would mix several applications of a process
    instrumentator = Instrumentator(should_group_status_codes=False, registry=registry)
    instrumentator.add(_group_unknown_methods, metrics.default(registry=registry), _log_request)
    instrumentator.instrument(app)
    responses = error_responses(413)
    instrumentator.expose(
        app, tags=["service"], response_class=PlainTextResponse, responses=responses
    )


def _group_unknown_methods(info: metrics.Info) -> None:
    """A client can invent methods, and every label value is a time series of its own."""
    if info.method not in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        info.method = "other"


def _log_request(info: metrics.Info) -> None:
    line = {
        "method": info.method,
        "route": info.modified_handler,
        "status": int(info.modified_status),
        "request_id": info.request.state.request_id,
        "ms": round(1000 * info.modified_duration, 1),
    }
    log.info(json.dumps(line))
