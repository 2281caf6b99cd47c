"""One local Ray for all tests of distributed models."""

import pytest
from ray_pool import ENGINE

from mmrec.distributed.workers import worker_pool


@pytest.fixture(scope="session")
def pool():
    """Two workers."""
    ray = pytest.importorskip("ray", reason="mmrec[ray] is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # a death is noticed sooner
        # Two processes less; it watches for machines that a cloud takes back.
        patch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        yield worker_pool(ENGINE)
        ray.shutdown()
    worker_pool.cache_clear()
