"""What every test has: a server (`stentor`), servers with flags (`start`), and clients (`join`)."""

from contextlib import ExitStack

import pytest
from websockets.sync.client import connect

from server import Stentor


@pytest.fixture
def start():
    """Starts servers with flags; all are stopped with SIGTERM and must end with 0."""
    with ExitStack() as servers:

        def start(*flags, **options):
            server = Stentor(*flags, **options)
            servers.callback(server.stop)
            return server

        yield start


@pytest.fixture
def stentor(start):
    return start()


@pytest.fixture
def join(stentor):
    """Connects clients to topics of `stentor`. A client that is connected misses nothing from then on."""
    with ExitStack() as clients:

        def join(topic, query="", **options):
            options = {"proxy": None, "max_size": None, **options}
            return clients.enter_context(connect(stentor.ws(topic, query), **options))

        yield join
