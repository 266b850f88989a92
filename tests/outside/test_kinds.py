"""Text stays text, binary stays binary, and an empty message is a message."""

import pytest


@pytest.mark.parametrize("message", ["text", b"binary", "", b"", bytes(range(256)), b"\xff\xfe no UTF-8", "1" * 125, b"2" * 126, "3" * 65_535, b"4" * 65_536])
def test_a_message_is_what_was_sent(join, message):
    reader, writer = join("kinds"), join("kinds")
    writer.send(message)
    received = reader.recv(10)
    assert type(received) is type(message) and received == message
    assert writer.recv(10) == message


def test_no_extension_is_agreed(join):
    assert "Sec-WebSocket-Extensions" not in join("kinds", compression="deflate").response.headers
