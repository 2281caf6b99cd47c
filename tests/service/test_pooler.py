"""Live reviews behind PgBouncer, which shares connections of PostgreSQL between transactions."""

import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from urllib.parse import urlsplit

import pytest

from mmrec.errors import StoreError
from serving import WAIT, free_port

pytest.importorskip("sqlalchemy", reason="mmrec[serve] is not installed")
from mmrec.service.live_store import LiveStore, StoredReview


@pytest.fixture
def pooled(postgres, tmp_path):
    """URL of a pooler with two connections in front of a real PostgreSQL."""
    program = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin")
    if program is None:
        pytest.skip("Debian's package pgbouncer is not installed")
    tmp_path.chmod(0o755)
    port, url = free_port(), urlsplit(postgres)
    (tmp_path / "users").write_text('"mmrec" ""\n')
    settings = f"""[databases]
* = host={url.hostname} port={url.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
auth_file = {tmp_path}/users
pool_mode = transaction
default_pool_size = 2
ignore_startup_parameters = extra_float_digits
"""
    settings = settings.replace("* = host", "postgres = user=mmrec host")
    (tmp_path / "pgbouncer.ini").write_text(settings)
    command = [program, "-u", "nobody", str(tmp_path / "pgbouncer.ini")]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stderr=log, stdout=log)
    pooled, deadline = f"postgresql://mmrec@127.0.0.1:{port}/postgres", time.monotonic() + WAIT
    try:
        while True:
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            with suppress(StoreError):
                LiveStore(pooled).close()
                break
            time.sleep(0.2)
        yield pooled
    finally:
        process.terminate()
        process.wait(20)


def test_no_write_is_refused_and_no_number_is_missed(pooled):
    stores = [LiveStore(pooled) for _ in range(4)]
    counts = 8, 25

    def write(writer):
        store = stores[writer % len(stores)]
        for number in range(counts[1]):
            names = {"user": f"u{writer}", "item": "x" * number or "x", "review_id": f"{number}"}
            assert store.add(StoredReview(**names, rating=4, text="", note="{}", vectors=None, encoder=None))

    with ThreadPoolExecutor(counts[0]) as pool:
        list(pool.map(write, range(counts[0])))
    reviews = stores[0].since(StoredReview, 0)
    assert len(reviews) == counts[0] * counts[1]
    assert not stores[0].add(StoredReview(user="u0", item="y", review_id="0", rating=4, text="", note="{}"))
    stores[1].withdraw("u0", "x")
    for store in stores:
        store.close()
