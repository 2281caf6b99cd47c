"""Ray, started on this machine or joined: the only place that knows how."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, Final

from mmrec.config import EngineConfig
from mmrec.errors import ConfigError

__all__ = ["connect", "core_count"]

_OBJECTS: Final = 512 * 2**20  # bytes in shared memory, which containers have little of


def connect(config: EngineConfig) -> Any:
    """The module `ray`, connected to a cluster; one that is connected already stays as it is.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--engine ray needs the packages of: pip install 'mmrec[ray]'") from error
    if ray.is_initialized():
        return ray
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if config.address is not None:
            ray.init(config.address, **quiet)
        else:
            # Workers import what this process does; "local", since a cluster that is over may still be noted.
            paths = {"env_vars": {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}}
            cores = config.workers or os.cpu_count()
            room: dict[str, Any] = {"num_cpus": cores, "object_store_memory": _OBJECTS}
            ray.init("local", runtime_env=paths, include_dashboard=False, **room, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        where = config.address or "this machine"
        raise ConfigError(
            f"--engine ray: no cluster at {where}: {error}; start one with `ray start --head`, and where it "
            "has a token, set RAY_AUTH_MODE=token and have the token here (docs/cluster.md)"
        ) from error
    return ray


def core_count(ray: Any) -> int:
    """How many cores the cluster has.

    Raises:
        ConfigError: none, as when no machine has joined yet.
    """
    count = int(ray.cluster_resources().get("CPU", 0))
    if not count:
        raise ConfigError(
            "--engine ray: the cluster has no cores; let machines join by `ray start --address`"
        )
    return count
