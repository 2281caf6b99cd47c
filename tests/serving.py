"""Commands and the service for tests, the latter also in this process; and a real PostgreSQL."""

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx2 as httpx
import pytest

WAIT = 60.0
MMREC = [sys.executable, "-c", "import sys; from mmrec.cli import main; main(sys.argv[1:])"]


def mmrec(*words, cwd, program=MMREC):
    """Run a command as a user types it, in a process of its own."""
    settings = {"MMREC_CACHE": str(cwd / "cache"), "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    line = [*program, *map(str, words)]
    environment = os.environ | settings
    return subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def command(*words, cwd):
    """The same in this process, which has loaded its libraries already; lines are 200 wide."""
    from mmrec.cli import main
    from mmrec.cli.options import stdout
    from mmrec.console import console

    out, err, status = io.StringIO(), io.StringIO(), 0
    stdout.width = console.width = 200
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setenv("MMREC_CACHE", str(cwd / "cache"))
        patch.chdir(cwd)
        try:
            main([*map(str, words)])
        except SystemExit as end:
            status = int(end.code or 0)
    return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())


@dataclass
class Service:
    """A service that answers requests, and where it runs on its own, its process and its log."""

    client: httpx.Client
    process: subprocess.Popen[str] | None = None
    log: Path | None = None

    def get(self, path, **options):
        response = self.client.get(path, **options)
        assert response.status_code == 200, response.text
        return response.json()

    def post(self, path, body, status=200):
        response = self.client.post(path, json=body)
        assert response.status_code == status, response.text
        return response.json()


def wait_until_ready(client):
    """Wait until a service that was started answers."""
    deadline = time.monotonic() + WAIT
    while (answer := client.get("/ready")).status_code != 200:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.02)


@contextmanager
def service_in_process(model, **settings):
    """The application in this process, until the block is left; `settings` are those of `ServeConfig`."""
    pytest.importorskip("fastapi", reason="mmrec[serve] is not installed")
    from fastapi.testclient import TestClient

    from mmrec.config import ServeConfig
    from mmrec.service.app import create_app

    app = create_app(model, ServeConfig(**settings))
    options = {"base_url": "http://localhost", "follow_redirects": False, "raise_server_exceptions": False}
    with TestClient(app, **options) as client:
        wait_until_ready(client)
        yield Service(client)


@contextmanager
def serving(model, *flags):
    """`mmrec serve` on a free port, until the block is left."""
    pytest.importorskip("fastapi", reason="mmrec[serve] is not installed")
    port = free_port()
    command = [*MMREC, "serve", str(model), "--port", str(port), *flags]
    log = model.parent / f"serve-{port}.log"
    with log.open("w") as out, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        process = subprocess.Popen(command, stderr=out, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        try:
            deadline = time.monotonic() + WAIT
            while True:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                with suppress(httpx.TransportError):
                    if client.get("/ready").status_code == 200:
                        break
                time.sleep(0.2)
            yield Service(client, process, log)
        finally:
            process.terminate()
            process.wait(20)


def free_port():
    """A port on loopback that nothing listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def postgresql():
    """A real PostgreSQL of Debian's package, on a free port."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        pytest.skip("PostgreSQL is not installed (Debian's package postgresql)")
    pytest.importorskip("psycopg", reason="mmrec[postgres] is not installed")
    folder, port = Path(tempfile.mkdtemp(prefix="mmrec-pg-")), free_port()
    # It refuses to run as root.
    become = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    if become:
        shutil.chown(folder, "postgres")
    control = [*become, str(programs[-1] / "pg_ctl"), "-D", str(folder / "data"), "-w"]
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
    subprocess.run([*control, "initdb", "-o", "-A trust -U mmrec"], check=True, capture_output=True)
    start = [*control, "-l", str(folder / "log"), "-o", options, "start"]
    subprocess.run(start, check=True, stdout=subprocess.DEVNULL)
    try:
        yield f"postgresql://mmrec@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, stdout=subprocess.DEVNULL)
        shutil.rmtree(folder)


def freeze_postgresql(url):
    """Stop all processes of a server, the first of which starts the others; their numbers."""
    import psycopg

    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT pid FROM pg_stat_activity WHERE pid IS NOT NULL").fetchall()
        backend = connection.info.backend_pid
        status = Path(f"/proc/{backend}/stat").read_text()
    parent = int(status.rpartition(")")[2].split()[1])
    frozen = [parent, *(pid for (pid,) in rows if pid != backend)]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    return frozen
