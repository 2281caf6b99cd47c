"""The service: a saved model behind HTTP."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

import mmrec
from mmrec.config import ServeConfig
from mmrec.errors import ConfigError, MmrecError, StoreError
from mmrec.recommend import Recommender
from mmrec.service.api import router
from mmrec.service.desk import Desk
from mmrec.service.guard import Guard, Meters
from mmrec.service.ledger import Ledger

__all__ = ["create_app", "read_keys"]

log = logging.getLogger("mmrec.service")


def create_app(model: Path, config: ServeConfig) -> FastAPI:
    """An application that serves a saved model; the model is read when the application starts.

    Raises:
        ConfigError: the file of keys cannot be read, or has none.
    """
    keys = read_keys(config.keys) if config.keys else []
    meters = Meters()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        ledger = Ledger(config.database or f"sqlite:///{(model / 'live.sqlite').resolve()}")
        app.state.desk = Desk(Recommender.load(model), ledger)
        yield
        ledger.close()

    app = FastAPI(title="mmrec", version=mmrec.__version__, lifespan=lifespan)
    app.add_middleware(
        Guard, keys=keys, per_minute=config.per_minute, max_body=config.max_body, meters=meters
    )
    app.include_router(router)

    @app.get("/health", tags=["service"])
    def health() -> dict[str, str]:
        """The process is there."""
        return {"status": "ok", "version": mmrec.__version__}

    @app.get("/ready", tags=["service"])
    def ready(request: Request) -> dict[str, int]:
        """The model and the database are there too; says how many live reviews the model has heard."""
        desk: Desk = request.app.state.desk
        desk.catch_up(at_once=True)
        return {"heard": desk.heard}

    @app.get("/metrics", tags=["service"], response_class=PlainTextResponse)
    def metrics() -> PlainTextResponse:
        """Figures for Prometheus."""
        return PlainTextResponse(generate_latest(meters.registry), media_type=CONTENT_TYPE_LATEST)

    app.add_exception_handler(MmrecError, _told)
    app.add_exception_handler(Exception, _hidden)
    return app


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


async def _told(request: Request, error: Exception) -> JSONResponse:
    """What was asked for is not there, or the database is not."""
    return _answer(request, 503 if isinstance(error, StoreError) else 404, str(error))


async def _hidden(request: Request, error: Exception) -> JSONResponse:
    log.error("request %s failed", request.state.request_id, exc_info=error)
    return _answer(request, 500, "something went wrong here; the log has it under this request id")


def _answer(request: Request, status: int, why: str) -> JSONResponse:
    return JSONResponse({"error": why, "request_id": request.state.request_id}, status)
