"""A message sent in fragments arrives as one message, whatever lies between its fragments."""

import pytest


@pytest.mark.parametrize(
    "fragments",
    [["a", "b"], ["", "", "x", ""], list("Привет 🎺"), [b"\x00", b"\xff"], [b"x" * 1000] * 100, ["🎺" * 9000, "я" * 9000]],
    ids=["two", "empty ones", "characters", "binary", "a hundred", "large"],
)
def test_fragments_become_one_message(join, fragments):
    reader, writer = join("fragments"), join("fragments", "echo=off")
    writer.send(iter(fragments))
    writer.send("next")
    assert reader.recv(10) == type(fragments[0])().join(fragments)
    assert reader.recv(10) == "next"


def test_characters_may_be_cut(join):
    reader, writer = join("fragments"), join("fragments", "echo=off")
    trumpet = "🎺".encode()
    writer.send((trumpet[i : i + 1] for i in range(4)), text=True)
    assert reader.recv(10) == "🎺"


def test_a_ping_may_come_between(join):
    reader, writer = join("fragments"), join("fragments", "echo=off")

    def fragments():
        yield "before "
        # Below the client's ping(), which waits until the message that is under way has ended.
        with writer.protocol_mutex:
            writer.protocol.send_ping(b"between")
            writer.send_data()
        yield "after"

    writer.send(fragments())
    assert reader.recv(10) == "before after"
