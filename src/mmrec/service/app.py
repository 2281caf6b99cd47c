"""The application: API, pages, monitoring and error handling around a saved model."""

import json
import logging
import os
import re
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_fastapi_instrumentator import Instrumentator, metrics
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

import mmrec
from mmrec.config import ServeConfig
from mmrec.errors import ConfigError, DataError, MmrecError, StoreError
from mmrec.recommender.model_folder import check_regular, translate_damage
from mmrec.recommender.recommender import Recommender
from mmrec.service import api, web
from mmrec.service.addresses import PathMiddleware
from mmrec.service.api import CurrentService
from mmrec.service.live_store import LiveStore
from mmrec.service.model_calls import BusyError
from mmrec.service.recommendations import ConflictError, RecommendationService
from mmrec.service.schemas import error_responses
from mmrec.service.security import RequestGuard

log = logging.getLogger("mmrec.service")


def create_app(
    model: Path,
    config: ServeConfig,
    on_failure: Callable[[Exception], None] = log.error,
    *,
    answers_early: bool = True,
) -> FastAPI:
    """An application that serves a saved model, which is loaded beside the first requests: until it is,
    and live reviews are taken in, only `/health` and `/metrics` answer, others with 503. Unless it
    `answers_early`, it is started before it takes requests.

    `on_failure` is called if the model cannot be loaded.
    """
    keys = read_keys(config.keys) if config.keys else []

    def load(app: FastAPI) -> None:
        try:
            app.state.service = open_service(model, config)
        except Exception as error:
            on_failure(error)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        thread = threading.Thread(target=load, args=[app], name="load model", daemon=True)
        thread.start()
        if not answers_early:
            await run_in_threadpool(thread.join)
        yield
        if app.state.service:
            await run_in_threadpool(app.state.service.close)

    # FastAPI's documentation pages would load scripts from other hosts.
    app = FastAPI(
        title="mmrec",
        version=mmrec.__version__,
        lifespan=lifespan,
        openapi_url="/openapi.json" if config.openapi else None,
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = None
    app.add_middleware(RequestGuard, keys=keys, limits=config, handle_error=_handle_error)
    # The guard checks keys; this dependency only declares them in the OpenAPI document.
    declared = [Depends(HTTPBearer(auto_error=False))] if keys else []
    app.include_router(api.router, dependencies=declared)
    if not keys:  # pages have no way to send a key
        app.include_router(web.router)
        app.mount("/static", StaticFiles(packages=[("mmrec.service", "static")]), "static")

    @app.get("/health", tags=["service"], responses=error_responses(413))
    async def health() -> dict[str, str]:
        """The process is running."""
        return {"status": "ok", "version": mmrec.__version__}

    @app.get("/ready", tags=["service"], responses=error_responses(413, 503))
    def ready(service: CurrentService) -> dict[str, int]:
        """Model and database can be used; with the number of the last live review."""
        if not service.reads_database:
            raise HTTPException(503, "the database of live reviews does not answer")
        return {"last_review": service.last_review}

    for kind in (MmrecError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _handle_error)
    # Metrics and log name routes, not paths: ids and texts of users stay out of them.
    # This middleware goes around all others, so that refused requests are counted too.
    registry = CollectorRegistry()  # the global one would mix applications of a process
    instrumentator = Instrumentator(should_group_status_codes=False, registry=registry)
    instrumentator.add(_log_request, metrics.default(registry=registry))
    instrumentator.instrument(app)

    async def metrics_of_requests() -> PlainTextResponse:
        """Numbers of requests, and how long they took, in the format of Prometheus."""
        # From the event loop, like `/health`: threads may all be busy.
        return PlainTextResponse(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    if config.metrics:
        route = app.get(
            "/metrics",
            tags=["service"],
            responses=error_responses(413),
            response_class=PlainTextResponse,
        )
        route(metrics_of_requests)
    app.add_middleware(PathMiddleware, root_path=config.root_path)  # around all others
    return app


def open_service(model: Path, config: ServeConfig) -> RecommendationService:
    """Load a model, and take in its live reviews; a database that does not answer is waited for."""
    store = open_live_store(model, config)
    while True:
        recommender = Recommender.load(model, trust=config.trust)
        try:
            options = config.sentences, config.max_pixels
            return RecommendationService(recommender, store, *options)
        except StoreError as error:
            log.error("waiting for the database of live reviews: %s", error)
            time.sleep(1)  # and the model is loaded anew, as some reviews may have been taken in


def open_live_store(model: Path, config: ServeConfig) -> LiveStore:
    """Open `config.database`, or by default `live.sqlite` in the model's folder, which is no link."""
    path = model.resolve() / "live.sqlite"
    if not config.database and os.path.lexists(path):
        with translate_damage(path):
            check_regular(path)
    return LiveStore(config.database or f"sqlite:///{path}")


def read_keys(path: Path) -> list[str]:
    """API keys, one a line but for comments with #; a ConfigError where there is none, or a wrong one."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()  # some editors begin files with a mark
    except (OSError, UnicodeDecodeError) as error:
        problem = f"cannot be read as UTF-8 ({type(error).__name__})"
        raise ConfigError(f"--keys {path}: {problem}") from error
    keys = []
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        if re.search(r"[^!-~]", line):
            problem = f"line {number} has a space or a sign that no request can send as a key"
            raise ConfigError(f"--keys {path}: {problem}; use letters, digits and -._~+/=")
        keys.append(line)
    if not keys:
        raise ConfigError(f"--keys {path}: the file has no key; write one a line")
    return keys


async def _handle_error(request: Request, error: Exception) -> Response:
    """Answer with an error, as a page or JSON; details are for the log alone."""
    request_id, headers = request.state.request_id, None
    # Pages are the routes that the OpenAPI document leaves out.
    is_page = not getattr(request.scope.get("route"), "include_in_schema", True)
    if isinstance(error, RequestValidationError):
        if not is_page:
            # Without the input itself, which may be text that JSON cannot hold.
            names = ("type", "loc", "msg")
            detail = [{name: issue[name] for name in names} for issue in error.errors()]
            return JSONResponse({"detail": detail, "request_id": request_id}, 422)
        fields = sorted({str(issue["loc"][-1]) for issue in error.errors()})
        status, message = 422, f"Not valid: {', '.join(fields)}"
    elif isinstance(error, HTTPException):
        status, message, headers = error.status_code, error.detail, error.headers
    elif isinstance(error, (DataError, ConflictError)):
        status, message = 404 if isinstance(error, DataError) else 409, str(error)
    elif isinstance(error, BusyError):
        status, message = 503, f"{error}; try again later"
    elif isinstance(error, MmrecError):
        # The message may contain an address or a path.
        log.error("request %s: %s", request_id, error)
        is_store = isinstance(error, StoreError)
        resource = "the database" if is_store else "a language or vision model"
        status, message = 503, f"{resource} cannot be reached; try again later"
    else:
        log.error("request %s failed", request_id, exc_info=error)
        status, message = 500, "internal error; the log has the details under this id"
    if status == 503:
        headers = {"Retry-After": "5"}
    if is_page:
        return web.error_page(request, status, message, headers)
    return JSONResponse({"error": message, "request_id": request_id}, status, headers)


def _log_request(info: metrics.Info) -> None:
    # Clients can invent methods, and in the metrics each would be a time series.
    if info.method not in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        info.method = "other"
    line = {
        "method": info.method,
        "route": info.modified_handler,
        "status": int(info.modified_status),
        "request_id": info.request.state.request_id,
        "ms": round(1000 * info.modified_duration, 1),
    }
    # Who is refused may come again at once, and as often as they like.
    is_refusal = line["status"] in (400, 401, 403, 408, 413, 429, 503)
    kind = (line["route"], line["status"]) if is_refusal else None
    log.info(json.dumps(line), extra={"kind": kind})
