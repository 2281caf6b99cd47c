"""The application: API, pages, monitoring and error handling around a saved model."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

import mmrec
from mmrec.config import ServeConfig
from mmrec.errors import ConfigError, DataError, MmrecError, StoreError
from mmrec.recommender.recommender import Recommender
from mmrec.service import api, web
from mmrec.service.api import CurrentService
from mmrec.service.errors import error_responses
from mmrec.service.live_store import LiveStore
from mmrec.service.monitoring import add_monitoring
from mmrec.service.recommendations import RecommendationService
from mmrec.service.security import RequestGuard

__all__ = ["create_app", "open_live_store", "read_keys"]

log = logging.getLogger("mmrec.service")


def create_app(model: Path, config: ServeConfig) -> FastAPI:
    """Make an application that serves a saved model, which is loaded when the application starts.

    Raises:
        ConfigError: the file of keys cannot be read, or is empty.
    """
    keys = read_keys(config.keys) if config.keys else []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        store = open_live_store(model, config)
        recommender = Recommender.load(model)
        app.state.service = RecommendationService(recommender, store, sentences=config.sentences)
        yield
        store.close()

    # FastAPI's documentation pages would load scripts from other hosts.
    app = FastAPI(
        title="mmrec", version=mmrec.__version__, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.add_middleware(
        RequestGuard,
        keys=keys,
        per_minute=config.per_minute,
        max_body=config.max_body,
        max_photo=config.max_photo,
    )
    # The guard checks keys; this dependency only declares them in the OpenAPI document.
    app.include_router(
        api.router, dependencies=[Depends(HTTPBearer(auto_error=False))] if keys else []
    )
    if not keys:  # pages have no way to send a key
        app.include_router(web.router)
        app.mount("/static", StaticFiles(packages=[("mmrec.service", "static")]), "static")

    @app.get("/health", tags=["service"], responses=error_responses(413))
    def health() -> dict[str, str]:
        """The process is running."""
        return {"status": "ok", "version": mmrec.__version__}

    @app.get("/ready", tags=["service"], responses=error_responses(413, 503))
    def ready(service: CurrentService) -> dict[str, int]:
        """Model and database can be used; with the number of the last live review in the model."""
        return {"last_review": service.last_review_number}

    app.add_exception_handler(MmrecError, _handle_error)
    app.add_exception_handler(HTTPException, _handle_http_exception)
    app.add_exception_handler(RequestValidationError, _handle_validation_error)
    app.add_exception_handler(Exception, _handle_crash)
    add_monitoring(app)
    return app


def open_live_store(model: Path, config: ServeConfig) -> LiveStore:
    """Open the database of live reviews: `config.database`, or `live.sqlite` in the model's folder.

    Raises:
        ConfigError: the URL is not that of a supported database.
        StoreError: the database cannot be reached.
    """
    return LiveStore(config.database or f"sqlite:///{(model / 'live.sqlite').resolve()}")


def read_keys(path: Path) -> list[str]:
    """Read API keys, one a line; empty lines and lines that start with # are skipped.

    Raises:
        ConfigError: the file cannot be read, or has no key.
    """
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--keys {path}: cannot be read ({type(error).__name__})") from error
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise ConfigError(f"--keys {path}: the file has no key; write one a line")
    return keys


async def _handle_error(request: Request, error: Exception) -> Response:
    if isinstance(error, DataError):
        return _respond(request, 404, str(error))
    # The message may contain an address or a path, so only the log gets it.
    log.error("request %s: %s", request.state.request_id, error)
    resource = "the database" if isinstance(error, StoreError) else "a language or vision model"
    return _respond(request, 503, f"{resource} cannot be reached; try again later")


async def _handle_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _respond(request, error.status_code, error.detail, error.headers)


async def _handle_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    if _is_page(request):
        fields = {str(issue["loc"][-1]) for issue in error.errors()}
        return web.error_page(422, f"Not valid: {', '.join(sorted(fields))}")
    # Without the input itself, which may be text that JSON cannot hold.
    detail = [{name: issue[name] for name in ("type", "loc", "msg")} for issue in error.errors()]
    return JSONResponse({"detail": detail, "request_id": request.state.request_id}, 422)


async def _handle_crash(request: Request, error: Exception) -> Response:
    log.error("request %s failed", request.state.request_id, exc_info=error)
    return _respond(request, 500, "internal error; the log has the details under this request id")


def _respond(
    request: Request, status: int, message: str, headers: Mapping[str, str] | None = None
) -> Response:
    if _is_page(request):
        return web.error_page(status, message, headers)
    return JSONResponse({"error": message, "request_id": request.state.request_id}, status, headers)


def _is_page(request: Request) -> bool:
    """Whether the route is one of the pages, which the OpenAPI document leaves out."""
    return not getattr(request.scope.get("route"), "include_in_schema", True)
