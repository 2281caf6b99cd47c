"""A service in this process that the tests of a file share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving import Service, service_in_process


@pytest.fixture(scope="module")
def service(model: Path) -> Iterator[Service]:
    with service_in_process(model) as running:
        yield running
