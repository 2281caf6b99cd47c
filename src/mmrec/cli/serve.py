"""`mmrec serve`: serve a saved model over HTTP."""

import ctypes
import logging
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NoReturn

from mmrec.cli.options import Model
from mmrec.config import ServeConfig
from mmrec.console import console, print_error
from mmrec.errors import ConfigError, MmrecError

_FAILED = 3  # exit status of a worker that cannot start, after which uvicorn starts no other


def serve(model: Model, /, *, config: ServeConfig = ServeConfig()) -> None:
    """Serve a saved model: web pages at `/`, the API under `/v1`, described at `/openapi.json`."""
    # Until the server listens for these itself, and when it has answered all that was under way.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    from mmrec.cache.store import Store, default_store_path
    from mmrec.recommender.loading import read_manifest

    try:
        import uvicorn
        from uvicorn.supervisors import Multiprocess

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
    most, backlog = connection_limits(config.max_connections)
    sockets = _open_sockets(config.host, config.port, backlog)
    if not config.keys and config.host not in ("127.0.0.1", "localhost", "::1"):
        warning = "everybody who reaches this address can read and write; see --keys"
        console.print(f"- {config.host}: {warning}")
    host = f"[{config.host}]" if ":" in config.host else config.host
    where = f"http://{host}:{sockets[0].getsockname()[1]}"
    console.print(f"serving {model} at {where}", markup=False, soft_wrap=True)
    _start_log()
    # Workers are new processes, which get all this from their parent.
    fail, first = partial(_fail, _token()), _token()
    server = uvicorn.Config(
        partial(_create_worker_app, model, config, fail, first),
        factory=True,
        workers=config.workers,
        forwarded_allow_ips=config.forwarded_allow_ips,
        http=partial(LimitedProtocol, seconds=config.client_seconds, most=most),  # type: ignore[arg-type]
        backlog=backlog,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        # Seconds for requests in progress, of which a call of a model may take 20.
        timeout_graceful_shutdown=25,
        timeout_worker_healthcheck=30,  # seconds, as loading a model may keep a worker from answering
    )
    if config.workers == 1:
        uvicorn.Server(server).run(sockets)  # ends by the signal that stopped it
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # the worker has said it
    workers = Multiprocess(server, sockets)
    workers.run()
    os._exit(_FAILED if any(process.exitcode == _FAILED for process in workers.processes) else 0)


def _open_sockets(host: str, port: int, backlog: int) -> list[socket.socket]:
    """Listen at every address of a host; a ConfigError if that cannot be."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = {address: family for family, *_, address in found}
        return [
            socket.create_server(address, family=family, backlog=backlog)
            for address, family in addresses.items()
        ]
    except (OSError, UnicodeError) as error:
        problem = getattr(error, "strerror", None) or "no such address"
        mend = "name another --port or --host"
        raise ConfigError(f"--host {host} --port {port}: {problem}; {mend}") from error


def _token() -> socket.socket:
    """A socket from which one of many processes can read a byte; the others read that there is none."""
    token, other_end = socket.socketpair()
    other_end.sendall(b"!")
    other_end.close()
    return token


def _create_worker_app(
    model: Path, config: ServeConfig, fail: Callable[[Exception], NoReturn], first: socket.socket
) -> object:
    """The application of a worker, which ends with its parent.

    The first worker answers while it loads the model; others, also those that take the place of one that
    died, take no request before they can answer it.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=[parent], daemon=True).start()
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
    try:
        return create_app(model, config, fail, answers_early=bool(first.recv(1)))
    except Exception as error:
        fail(error)


def _fail(token: socket.socket, error: Exception) -> NoReturn:
    """End a service whose model cannot be loaded; only one worker says why."""
    if token.recv(1):
        if not isinstance(error, MmrecError):
            logging.error("the model cannot be loaded", exc_info=error)
        print_error(error)
    os._exit(_FAILED)


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _start_log() -> None:
    from mmrec.service.connections import OncePerSecond

    handler = logging.StreamHandler()
    handler.addFilter(OncePerSecond())
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
