"""`mmrec serve`: serve a saved model over HTTP."""

import ctypes
import logging
import os
from functools import partial
from pathlib import Path

from mmrec.cli.options import Model
from mmrec.config import ServeConfig
from mmrec.console import console
from mmrec.errors import ConfigError


def serve(model: Model, /, *, config: ServeConfig = ServeConfig()) -> None:
    """Serve a saved model: web pages at `/`, the API under `/v1`, described at `/openapi.json`."""
    from mmrec.cache.store import Store, default_store_path
    from mmrec.recommender.loading import read_manifest

    try:
        import uvicorn

        from mmrec.service.app import open_live_store, read_keys
        from mmrec.service.connections import LimitedProtocol, connection_limits
    except ImportError as error:
        raise ConfigError(f"{error}: install mmrec[serve]") from error

    # Open everything once, so that errors are reported before the server starts.
    settings = read_manifest(model, trust=config.trust).builder.config
    Store(settings.store or default_store_path()).close()
    open_live_store(model, config).close()
    if config.keys:
        read_keys(config.keys)
    elif config.host not in ("127.0.0.1", "localhost", "::1"):
        warning = "everybody who reaches this address can read and write; see --keys"
        console.print(f"- {config.host}: {warning}")
    # Workers are new processes: their settings travel in the environment.
    os.environ["MMREC_SERVED_MODEL"] = str(model)
    os.environ["MMREC_SERVE_CONFIG"] = config.model_dump_json()
    host = f"[{config.host}]" if ":" in config.host else config.host
    where = f"http://{host}:{config.port}"
    console.print(f"serving {model} at {where}", markup=False, soft_wrap=True)
    _start_log()
    most, backlog = connection_limits(config.max_connections)
    protocol = partial(LimitedProtocol, seconds=config.client_seconds, most=most)
    uvicorn.run(
        "mmrec.cli.serve:create_worker_app",
        factory=True,
        host=config.host,
        port=config.port,
        workers=config.workers,
        forwarded_allow_ips=config.forwarded_allow_ips,
        http=protocol,  # type: ignore[arg-type]
        backlog=backlog,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=10,  # seconds, for requests in progress
    )


def create_worker_app() -> object:
    """The application of a worker, with the settings in its environment."""
    import torch

    import mmrec.console
    from mmrec.service.app import create_app

    # Each thread that handles requests would start OpenMP threads of its own, which wait busily.
    torch.set_num_threads(1)
    mmrec.console.hides_bars = True
    # Memory of photos goes back to the system at once: glibc keeps smaller blocks for later, and by
    # itself takes blocks of up to 32 MB for small ones (mallopt(3), M_MMAP_THRESHOLD).
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(-3, 4 << 20)
    _start_log()
    config = ServeConfig.model_validate_json(os.environ["MMREC_SERVE_CONFIG"])
    return create_app(Path(os.environ["MMREC_SERVED_MODEL"]), config)


def _start_log() -> None:
    from mmrec.service.connections import OncePerSecond

    handler = logging.StreamHandler()
    handler.addFilter(OncePerSecond())
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
