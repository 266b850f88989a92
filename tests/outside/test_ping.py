"""Pings are answered with their payload; silent clients are pinged, and gone ones are closed."""

import socket
import time

import pytest
from websockets.sync.client import connect


@pytest.mark.parametrize("payload", ["", "ping", "Пинг 🎺", b"\x00" * 125])
def test_a_ping_is_answered(join, payload):
    assert join("ping").ping(payload).wait(10)


def test_pings_overtake_no_message(join):
    # This client's own queue would stop it from reading pongs while messages wait.
    client = join("ping", max_queue=None)
    for i in range(20):
        client.send(str(i))
        assert client.ping(f"ping {i}").wait(10)
    assert [client.recv(10) for _ in range(20)] == [str(i) for i in range(20)]


def test_a_silent_client_lives_while_it_answers(start):
    server = start("--ping-interval", "200ms", "--pong-timeout", "300ms")
    with connect(server.ws("ping"), proxy=None, ping_interval=None) as client:
        time.sleep(1.2)
        client.send("still here")
        assert client.recv(10) == "still here"


def test_a_client_that_answers_nothing_is_closed(start):
    server = start("--ping-interval", "200ms", "--pong-timeout", "300ms", "--close-timeout", "200ms")
    address, port = server.host.split(":")
    with socket.create_connection((address, int(port)), timeout=10) as client:
        client.sendall(
            f"GET /ws/ping HTTP/1.1\r\nHost: {server.host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        received = b""
        try:
            while chunk := client.recv(4096):
                received += chunk
        except ConnectionResetError:
            pass
    head, _, frames = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
    assert frames[0] == 0x89, "the first frame is a ping"
