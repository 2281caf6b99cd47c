"""One local Ray for all tests of distributed models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_pool import ENGINE

from mmrec.distributed.workers import WorkerPool, worker_pool


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("ray"))  # one process of tests, so one Ray


@pytest.fixture(scope="session")
def pool() -> Iterator[WorkerPool]:
    """Two workers."""
    ray = pytest.importorskip("ray", reason="mmrec[ray] is not installed")
    yield worker_pool(ENGINE)
    ray.shutdown()
    worker_pool.cache_clear()
