"""A service in this process that the tests of a file share."""

import pytest

from serving import service_in_process


@pytest.fixture(scope="module")
def service(model):
    with service_in_process(model) as running:
        yield running
