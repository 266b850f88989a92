"""Messages of up to 1 MiB arrive whole; a larger one closes its sender with 1009 and hurts nobody else."""

import os

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

MIB = 1 << 20


@pytest.mark.parametrize("size", [32 << 10, (256 << 10) + 1, MIB - 1, MIB])
def test_large_messages_arrive(join, size):
    readers, writer = [join("large") for _ in range(5)], join("large", "echo=off")
    # One after the other: two of them at once are more than the default lag bound allows a reader.
    for message in [os.urandom(size), "я" * (size // 2)]:
        writer.send(message)
        for reader in readers:
            assert reader.recv(20) == message


def send_until_closed(client, message):
    with pytest.raises(ConnectionClosed) as closed:
        client.send(message)
        client.recv(10)
    return closed.value.rcvd


@pytest.mark.parametrize("message", [b"x" * (MIB + 1), [b"x" * (MIB // 2)] * 3], ids=["one frame", "fragments"])
def test_too_big_is_1009(join, message):
    bystander, writer = join("large"), join("large")
    assert send_until_closed(writer, message).code == 1009
    bystander.send("unharmed")
    assert bystander.recv(10) == "unharmed"


def test_the_bound_is_a_flag(start):
    server = start("--max-message-bytes", "10")
    with connect(server.ws("large"), proxy=None) as client:
        client.send("0123456789")
        assert client.recv(10) == "0123456789"
        assert send_until_closed(client, "0123456789a").code == 1009
