"""A service in this process that the tests of a file share, and a user and an item of its model."""

import pytest

from serving import service_in_process


@pytest.fixture(scope="module")
def service(model):
    with service_in_process(model, trust=True) as running:
        yield running


@pytest.fixture
def user(fitted):
    return fitted.state.dataset.data.users[4]


@pytest.fixture
def item(fitted):
    return fitted.state.dataset.data.items[3]
