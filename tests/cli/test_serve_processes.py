"""`mmrec serve` as processes: starts that fail, parents that are killed, and ends in the middle of a load."""

import os
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2 as httpx
import pytest

from model_files import copy_model
from serving import MMREC, WAIT, free_port

pytest.importorskip("fastapi", reason="mmrec[serve] is not installed")


def start(model, *flags, port=None):
    line = [*MMREC, "serve", str(model), "--port", str(port or free_port()), *map(str, flags)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=environment)


@contextmanager
def failing_start(kind, folder):
    flags = []
    if kind == "weights":  # damage that only those see who load the model
        (path,) = folder.rglob("model.safetensors")
        path.write_bytes(path.read_bytes()[:-1])
    elif kind == "manifest":
        (folder / "model.json").unlink()
    elif kind == "keys":
        (folder / "keys").write_bytes(b"\xff")
        flags = ["--keys", folder / "keys"]
    elif kind == "database":
        flags = ["--database", f"postgresql://me@127.0.0.1:{free_port()}/x"]
        pytest.importorskip("psycopg")
    elif kind == "host":
        flags = ["--host", "192.0.2.1"]
    elif kind == "name":
        flags = ["--host", "no..name"]
    elif kind == "live store":
        (folder / "live.sqlite").write_bytes(b"no database at all, and long enough to see that" * 100)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield flags, taken.getsockname()[1] if kind == "port" else None


KINDS = {
    "weights": "model.safetensors",
    "manifest": "model.json",
    "keys": "--keys",
    "database": "the database of live reviews",
    "live store": "the database of live reviews",
    "host": "--host 192.0.2.1",
    "name": "--host no..name",
    "port": "Address already in use",
}


@pytest.mark.parametrize(("kind", "workers"), [("weights", 3), *((kind, 1) for kind in KINDS)])
def test_a_start_that_fails_ends_with_one_sentence(model, tmp_path, kind, workers):
    folder = copy_model(model, tmp_path / "model")
    with failing_start(kind, folder) as (flags, port):
        process = start(folder, "--workers", workers, *flags, port=port)
        try:
            _, said = process.communicate(timeout=WAIT)
        finally:
            process.kill()
    assert process.returncode not in (0, None)
    lines = [line for line in said.splitlines() if not line.startswith("serving ")]
    assert len(lines) == 1, said
    assert lines[0].startswith("mmrec: ")
    assert KINDS[kind] in lines[0]


def children(pid):
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


def is_running(pid):
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_workers_end_when_their_parent_is_killed(model, tmp_path):
    database = f"sqlite:///{tmp_path / 'live.sqlite'}"
    process = start(model, "--workers", 2, "--database", database)
    try:
        deadline = time.monotonic() + WAIT
        assert "serving" in process.stderr.readline()
        port = int(process.args[process.args.index("--port") + 1])
        while True:
            with suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{port}/ready").status_code == 200:
                    break
            assert time.monotonic() < deadline
        while len(started := children(process.pid)) < 3:  # with the one that tracks resources
            assert time.monotonic() < deadline
    finally:
        process.kill()
        process.wait()
    while any(map(is_running, started)):
        assert time.monotonic() < deadline, started
        time.sleep(0.1)
    socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.parametrize(("workers", "moment"), [(1, 1.0), (2, 0.0)])
def test_a_stop_while_the_model_loads_is_no_failure(model, tmp_path, workers, moment):
    database = f"sqlite:///{tmp_path / 'live.sqlite'}"
    process = start(model, "--workers", workers, "--database", database)
    try:
        assert "serving" in process.stderr.readline()
        time.sleep(moment)
        process.terminate()
        _, said = process.communicate(timeout=WAIT)
    finally:
        process.kill()
    assert (process.returncode, said) == (0, "")


def test_an_address_of_ipv6_is_served_and_printed_with_brackets(model, tmp_path):
    with suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6) as probe:
        port = probe.getsockname()[1]
    if "port" not in locals():
        pytest.skip("there is no IPv6 here")
    database = f"sqlite:///{tmp_path / 'live.sqlite'}"
    process = start(model, "--host", "::1", "--database", database, port=port)
    try:
        assert process.stderr.readline().rstrip().endswith(f" at http://[::1]:{port}")
        deadline = time.monotonic() + WAIT
        while (answer := httpx.get(f"http://[::1]:{port}/", timeout=30)).status_code == 503:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert answer.status_code == 200
        own = {"Origin": f"http://[::1]:{port}"}
        form = {"user": "ann", "rating": "5"}
        for headers, status in ((own, 303), ({"Origin": "http://[::2]"}, 403)):
            sent = httpx.post(f"http://[::1]:{port}/places/tacos", data=form, headers=headers, timeout=30)
            assert sent.status_code == status
    finally:
        process.terminate()
        process.communicate(timeout=WAIT)
    assert process.returncode == 0
