"""The service: a saved model behind HTTP."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

import mmrec
from mmrec.config import CatalogueConfig, ServeConfig
from mmrec.errors import ConfigError, DataError, MmrecError, StoreError
from mmrec.recommender.recommender import Recommender
from mmrec.service import web
from mmrec.service.api import router
from mmrec.service.errors import error_responses
from mmrec.service.live_store import LiveStore
from mmrec.service.recommendations import RecommendationService
from mmrec.service.security import Guard, Meters

__all__ = ["create_app", "open_live_store", "read_keys"]

log = logging.getLogger("mmrec.service")


def create_app(
    model: Path, config: ServeConfig, catalogue: CatalogueConfig | None = None
) -> FastAPI:
    """An application that serves a saved model; the model is read when the application starts.

    Raises:
        ConfigError: the file of keys cannot be read, or has none.
    """
    keys = read_keys(config.keys) if config.keys else []
    meters = Meters()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        ledger = open_live_store(model, config)
        app.state.desk = RecommendationService(
            Recommender.load(model, catalogue), ledger, sentences=config.sentences
        )
        yield
        ledger.close()

    # Its usual documentation pages fetch their scripts from elsewhere.
    app = FastAPI(
        title="mmrec", version=mmrec.__version__, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.add_middleware(
        Guard,
        keys=keys,
        per_minute=config.per_minute,
        max_body={"": config.max_body, "/v1/items": config.max_photo},
        meters=meters,
    )
    # The guard looks at keys; this says so in the OpenAPI document.
    app.include_router(router, dependencies=[Depends(HTTPBearer(auto_error=False))] if keys else [])
    if not keys:  # the page has no way to bring one
        app.include_router(web.router)
        app.mount("/static", StaticFiles(packages=[("mmrec.service", "static")]), "static")

    @app.get("/health", tags=["service"], responses=error_responses(413))
    def health() -> dict[str, str]:
        """The process is there."""
        return {"status": "ok", "version": mmrec.__version__}

    @app.get("/ready", tags=["service"], responses=error_responses(413, 503))
    def ready(request: Request) -> dict[str, int]:
        """The model and the database are there too; says how many live reviews the model has heard."""
        desk: RecommendationService = request.app.state.desk
        desk.catch_up()
        return {"heard": desk.last_review_number}

    @app.get(
        "/metrics",
        tags=["service"],
        response_class=PlainTextResponse,
        responses=error_responses(413),
    )
    def metrics() -> PlainTextResponse:
        """Figures for Prometheus."""
        return PlainTextResponse(generate_latest(meters.registry), media_type=CONTENT_TYPE_LATEST)

    app.add_exception_handler(MmrecError, _told)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _hidden)
    return app


def open_live_store(model: Path, config: ServeConfig) -> LiveStore:
    """The database of live reviews: the one that is named, or one in the model's folder.

    Raises:
        ConfigError: no such kind of database.
        StoreError: it cannot be reached.
    """
    return LiveStore(config.database or f"sqlite:///{(model / 'live.sqlite').resolve()}")


def read_keys(path: Path) -> list[str]:
    """One key a line; empty lines and those that begin with # do not count.

    Raises:
        ConfigError: no such file, or no key in it.
    """
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--keys {path}: cannot be read ({type(error).__name__})") from error
    if not (keys := [line for line in lines if line and not line.startswith("#")]):
        raise ConfigError(f"--keys {path}: there is no key in it; write one a line")
    return keys


async def _told(request: Request, error: Exception) -> Response:
    """What was asked for is not there; or something that the service needs is not, which the log names."""
    if isinstance(error, DataError):
        return _answer(request, 404, str(error))
    log.error("request %s: %s", request.state.request_id, error)
    missing = "the database" if isinstance(error, StoreError) else "what reads reviews and photos"
    return _answer(request, 503, f"{missing} cannot be reached; try again in a little")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _answer(request, error.status_code, error.detail, error.headers)


async def _invalid(request: Request, error: Exception) -> Response:
    """Where what is wrong; not the input itself, which may be what no answer can hold."""
    assert isinstance(error, RequestValidationError)
    if not getattr(request.scope.get("route"), "include_in_schema", True):
        where = ", ".join(sorted({str(one["loc"][-1]) for one in error.errors()}))
        return web.error_page(422, f"this cannot be: {where}")
    detail = [{name: one[name] for name in ("type", "loc", "msg")} for one in error.errors()]
    return JSONResponse({"detail": detail, "request_id": request.state.request_id}, 422)


async def _hidden(request: Request, error: Exception) -> Response:
    log.error("request %s failed", request.state.request_id, exc_info=error)
    return _answer(request, 500, "something went wrong here; the log has it under this request id")


def _answer(
    request: Request, status: int, why: str, headers: Mapping[str, str] | None = None
) -> Response:
    if not getattr(request.scope.get("route"), "include_in_schema", True):  # one of the page's
        return web.error_page(status, why, headers)
    return JSONResponse({"error": why, "request_id": request.state.request_id}, status, headers)
