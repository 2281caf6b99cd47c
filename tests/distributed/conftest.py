"""One local Ray for all tests of distributed models."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray_pool import ENGINE

from mmrec.distributed.workers import worker_pool


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("ray"))  # one process of tests, so one Ray


@pytest.fixture(scope="session")
def pool():
    """Two workers."""
    ray = pytest.importorskip("ray", reason="mmrec[ray] is not installed")
    yield worker_pool(ENGINE)
    ray.shutdown()
    worker_pool.cache_clear()
