"""SIGTERM closes every client with 1001 and ends with exit code 0; what was published before still arrives."""

import urllib.request

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect


def test_clients_are_closed_with_1001(stentor, join):
    clients = [join("drain", query) for query in ["", "mode=sub", "mode=pub", "echo=off"] * 5]
    stentor.terminate()
    for client in clients:
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(10)
        assert (closed.value.rcvd.code, closed.value.rcvd_then_sent) == (1001, True)
    stentor.stop()


def test_published_before_is_delivered(stentor, join):
    reader, writer = join("drain", "mode=sub"), join("drain", "mode=pub")
    for i in range(100):
        writer.send(str(i))
    assert writer.ping().wait(10)
    stentor.terminate()
    assert [reader.recv(10) for _ in range(100)] == [str(i) for i in range(100)]
    with pytest.raises(ConnectionClosed) as closed:
        reader.recv(10)
    assert closed.value.rcvd.code == 1001


def test_it_can_start_again_on_its_port(start):
    first = start()
    with connect(first.ws("drain"), proxy=None):
        first.terminate()
        first.stop()
    second = start(listen=first.host)
    assert second.host == first.host
    with urllib.request.urlopen(second.http("/health")) as response:
        assert response.status == 200
