"""Two libvirt daemons, and a busy domain of the first one's, for the tests of a file."""

from collections.abc import Iterator

import pytest

from tests.support.libvirt import Daemon, Domain, daemon


@pytest.fixture(scope="module")
def source() -> Iterator[Daemon]:
    with daemon() as running:
        yield running


@pytest.fixture(scope="module")
def destination() -> Iterator[Daemon]:
    with daemon() as running:
        yield running


@pytest.fixture
def domain(source: Daemon) -> Domain:
    return source.start_domain()
