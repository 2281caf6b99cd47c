"""`mmrec serve`: a saved model behind HTTP."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from mmrec.cli.options import ServeSettings
from mmrec.console import console

__all__ = ["serve"]

_MODEL, _CONFIG = "MMREC_SERVED_MODEL", "MMREC_SERVE_CONFIG"
_GRACE = 10  # seconds that requests under way may take after a stop


def serve(model: Path, /, *, config: ServeSettings = ServeSettings()) -> None:
    """Serve a saved model: a web page at `/`, the API under `/v1`, described at `/openapi.json`.

    Args:
        model: folder that `mmrec fit` wrote; `live.sqlite` in it holds live reviews unless --database says
            otherwise.
    """
    from mmrec.cache.store import Store, default_store_path
    from mmrec.errors import ConfigError
    from mmrec.recommender.persistence import read_manifest

    try:
        import uvicorn

        from mmrec.service.app import create_app, open_live_store, read_keys
    except ImportError as error:
        raise ConfigError(f"{error}: install mmrec[serve]") from error

    # What can be wrong is told before the server starts.
    Store(read_manifest(model).config.store or default_store_path()).close()
    open_live_store(model, config).close()
    if config.keys:
        read_keys(config.keys)
    elif config.host not in ("127.0.0.1", "localhost", "::1"):
        console.print(
            f"- {config.host}: whoever reaches this address may read and write; see --keys"
        )
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    how: dict[str, Any] = {"host": config.host, "port": config.port, "log_level": "warning"}
    how |= {"access_log": False, "server_header": False, "timeout_graceful_shutdown": _GRACE}
    console.print(f"serving {model} at http://{config.host}:{config.port}", markup=False)
    if config.workers == 1:
        uvicorn.run(create_app(model, config), **how)
    else:
        # Workers are new processes, which are told by their environment what to serve.
        os.environ |= {_MODEL: str(model), _CONFIG: config.model_dump_json()}
        uvicorn.run("mmrec.cli.serve:worker", factory=True, workers=config.workers, **how)


def worker() -> object:
    """The application of one of several workers."""
    from mmrec.service.app import create_app

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = ServeSettings.model_validate_json(os.environ[_CONFIG])
    return create_app(Path(os.environ[_MODEL]), config)
